"""The rooms of the library, drawn and listed for the page on design, from their folders and imports.

    python book/rooms.py

renews ``book/pages/rooms.svg`` and the table in ``book/pages/design.md``; tests/test_book.py checks them.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK.parent))
PACKAGE = BOOK.parent / "p2es_lib"
PICTURE, PAGE = BOOK / "pages" / "rooms.svg", BOOK / "pages" / "design.md"
#: Sizes of the picture, in its own units.
WIDTH, STOREY, BOX, HEIGHT = 640, 84, 128, 34


def read_floors() -> list[list[str]]:
    """Rooms of the library, from the ground floor up, from the test that checks them."""
    tree = ast.parse((BOOK.parent / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.target.id == "FLOORS":
            return [list(floor) for floor in ast.literal_eval(node.value)]
    raise ValueError("tests/test_layers.py: no FLOORS")


def read_imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Each room of ``package``, and the rooms that its modules import."""
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    imports = {}
    for room in sorted(rooms):
        names = set()
        for path in (package / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[room] = {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")} & rooms - {room}
    return imports


def what_for(room: str, package: Path = PACKAGE) -> str:
    """First sentence of a room's docstring, as Markdown."""
    doc = ast.get_docstring(ast.parse((package / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    text = " ".join(doc.partition("\n\n")[0].split()).replace("``", "`")
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)


def list_rooms() -> str:
    """Table of the rooms, top floor first: what each is for, what it imports, and what imports it."""
    imports, floors = read_imports(), read_floors()
    order = [room for floor in floors for room in floor]
    lines = ["| floor | room | what it is for | imports | is used by |", "|--:|:--|:--|:--|:--|"]
    for number, floor in reversed(list(enumerate(floors, 1))):
        for room in floor:
            users = [other for other in order if room in imports[other]]
            used_by = "all others" if len(users) == len(order) - 1 else ", ".join(users)
            uses = ", ".join(other for other in order if other in imports[room])
            link = f"[`{room}/`](../../p2es_lib/{room}/__init__.py)"
            lines.append(f"| {number} | {link} | {what_for(room)} | {uses} | {used_by} |")
    return "\n".join(lines)


def needed(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others: without those that a chain of others implies."""

    def reached(room: str) -> set[str]:
        return {room}.union(*(reached(other) for other in imports[room]))

    return {
        room: {other for other in below if not any(other in reached(third) for third in below - {other})}
        for room, below in imports.items()
    }


def draw_rooms() -> str:
    """The rooms as boxes, ground floor at the bottom, with a line for each import that does not follow from others."""
    floors, place = read_floors(), {}
    total = STOREY * len(floors)
    for number, floor in enumerate(floors):
        for column, room in enumerate(floor, 1):
            place[room] = (WIDTH * column / (len(floor) + 1), total - STOREY * (number + 0.5))
    lines, boxes = [], []
    for room, below in needed(read_imports()).items():
        x, y = place[room]
        for other in sorted(below):
            to_x, to_y = place[other]
            start, end = y + HEIGHT / 2, to_y - HEIGHT / 2
            # Lines past a floor bow outwards, so that they do not run behind its rooms.
            bow = 0 if to_y - y <= STOREY else (190 if to_x + x >= WIDTH else -190)
            lines.append(
                f'<path d="M{x:g} {start:g} C{x + bow:g} {start + 40:g} {to_x + bow:g} {end - 40:g} {to_x:g} {end:g}"/>'
            )
        fill = "#cfe6f7" if room == "method" else "#f4f1ea"
        boxes.append(
            f'<rect x="{x - BOX / 2:g}" y="{y - HEIGHT / 2:g}" width="{BOX}" height="{HEIGHT}" rx="5" fill="{fill}" '
            'stroke="#555"/>'
            f'<text x="{x:g}" y="{y + 5:g}">{room}/</text>'
        )
    size = f'viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}"'
    style = 'font-family="sans-serif" font-size="15" text-anchor="middle"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
            f'<rect width="{WIDTH}" height="{total}" fill="white"/>',
            '<g fill="none" stroke="#888" stroke-width="1.5">',
            *lines,
            "</g>",
            *boxes,
            "</svg>\n",
        ]
    )


def filled_page() -> str:
    """Text of the page on design with its table renewed."""
    from p2es_lib.companion.readme import fill

    return fill({PAGE: PAGE.read_text(encoding="utf-8")}, {"rooms": list_rooms()})[PAGE]


if __name__ == "__main__":
    PAGE.write_text(filled_page(), encoding="utf-8")
    PICTURE.write_text(draw_rooms(), encoding="utf-8")
