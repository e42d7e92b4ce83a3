"""The book: it builds without a warning, holds together, needs no other host, and its walkthroughs work."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import nbformat
import pytest
from browser import Browser, find_chromium

CHECKOUT = Path(__file__).resolve().parents[1]
BOOK = CHECKOUT / "book"
sys.path.insert(0, str(BOOK))

import rooms  # noqa: E402
from bibliography import identifiers, split_works, work_key  # noqa: E402
from pages import CONTENTS, write_own_claims  # noqa: E402

PAGES = ("index", *(page for pages in CONTENTS.values() for page in pages), "search", "genindex")
#: Executed by the toy workflow, as it names them.
EXECUTED = ("02_forward_process", "05_train-p2es-seed0")


# --- building ---------------------------------------------------------------------------------------------------------


def figure_output(folder: Path) -> dict:
    """A figure as a cell of an executed notebook holds it."""
    import base64

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3))
    axes.plot([0, 1], [0, 1])
    figure.savefig(folder / "figure.png")
    pyplot.close(figure)
    image = base64.b64encode((folder / "figure.png").read_bytes()).decode()
    return nbformat.v4.new_output("display_data", {"image/png": image, "text/plain": "<Figure>"})


def write_executed(home: Path) -> None:
    """Notebooks as the workflow would have executed them: one as it stands in notebooks/, one of an older version."""
    folder = home / "runs" / "simulated" / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    wide = "<table><tr>" + "".join(f"<td>column_{number}</td>" for number in range(40)) + "</tr></table>"
    widget = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2},
        "text/plain": "  0%| |",
    }
    outputs = [
        figure_output(home),
        nbformat.v4.new_output("display_data", {"text/html": wide, "text/plain": "a table"}),
        nbformat.v4.new_output(
            "display_data", {"text/markdown": "At frequency $f_9$:\n\n| K | factor |\n|---|---|\n| 2 | 1.5 |\n"}
        ),
        nbformat.v4.new_output("display_data", widget),
        # Sliders, as a notebook that was run by hand has them.
        nbformat.v4.new_output("display_data", widget | {"image/png": figure_output(home)["data"]["image/png"]}),
        nbformat.v4.new_output("stream", name="stderr", text="progress that nobody needs\n"),
        nbformat.v4.new_output("stream", name="stdout", text=f"written to {home}/figures\n"),
    ]
    for name in EXECUTED:
        notebook = nbformat.read(CHECKOUT / "notebooks" / f"{name.partition('-')[0]}.ipynb", 4)
        codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
        codes[-1].outputs = outputs
        if name != EXECUTED[0]:
            codes[-1].source += "\nolder = True"
        notebook.cells.insert(3, nbformat.v4.new_code_cell("# Parameters\nprofile = 'smoke'\n"))
        notebook.metadata["papermill"] = {"output_path": str(folder / f"{name}.ipynb")}
        nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The book as built, once for all workers of a parallel run."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "book"
    shared.mkdir(exist_ok=True)
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "result.json").exists():
            write_executed(shared / "home")
            command = [sys.executable, str(BOOK / "build.py"), "--profile", "smoke", "--out", str(shared / "out")]
            environment = os.environ | {"P2ES_HOME": str(shared / "home")}
            result = subprocess.run(command, capture_output=True, text=True, env=environment)
            (shared / "result.json").write_text(json.dumps([result.returncode, result.stdout, result.stderr]))
    status, printed, warnings = json.loads((shared / "result.json").read_text())
    assert status == 0, f"the book does not build:\n{warnings}"
    assert "without outputs, because not executed for simulated, smoke: 01_data, 03_reverse_process" in printed
    return shared / "out" / "html"


class Page(HTMLParser):
    """Targets, links and files of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.files, self.text = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("img", "script", "iframe", "source", "video") and attributes.get("src"):
            self.files.append(attributes["src"])
        if tag == "link" and attributes.get("rel") not in ("index", "search", "next", "prev", "canonical", "author"):
            self.files.append(attributes.get("href", ""))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(book.rglob("*.html")) if "_static" not in path.parts}


@pytest.mark.slow
def test_every_page_is_there(book, pages):
    notebooks = [path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb") if path.stem != "05_train"]
    expected = [
        *PAGES,
        *(f"api/{name}" for floor in rooms.read_floors() for name in floor),
        *(f"notebooks/{name}" for name in (*notebooks, *EXECUTED)),
    ]
    assert not [name for name in expected if book / f"{name}.html" not in pages]


@pytest.mark.slow
def test_no_internal_link_is_broken(book, pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.files]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(book)}: {link}")
            elif parts.fragment and target in pages and urllib.parse.unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{path.relative_to(book)}: {link} (no such place)")
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(book, pages):
    outside = [
        f"{path.name}: {file}"
        for path, page in pages.items()
        for file in page.files
        if "//" in file and not file.startswith("data:")
    ]
    for path in book.rglob("*.css"):
        outside += [
            f"{path.name}: {url}"
            for url in re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')]*", path.read_text())
        ]
    assert not outside, "\n".join(outside)


@pytest.mark.slow
def test_notebooks_are_shown_as_executed(book, pages):
    shown = {
        name: " ".join("".join(pages[book / "notebooks" / f"{name}.html"].text).split())
        for name in (*EXECUTED, "01_data", "14_sim_to_real")
    }
    executed = shown[EXECUTED[0]]
    assert "column_39" in executed and "written to figures" in executed, "outputs, and no folder of this machine"
    assert "nobody needs" not in executed and "0%|" not in executed, "neither progress nor widgets"
    html = (book / "notebooks" / f"{EXECUTED[0]}.html").read_text()
    assert "widget-view" not in html and len(set(re.findall(r'<img [^>]*src="([^"]+)"', html))) >= 1
    assert len(re.findall(r"<img [^>]*_images/", html)) >= 2, "the figure, and the picture that sliders carry"
    assert "older version" not in executed and "older version" in shown[EXECUTED[1]]
    assert "make reproduce PROFILE=smoke" in shown["01_data"] and "DATASET=bidmc" in shown["14_sim_to_real"]
    assert "(p2es, seed0)" in shown[EXECUTED[1]]


@pytest.mark.slow
def test_tables_and_formulas_that_cells_show_as_markdown_are_set(book):
    page = (book / "notebooks" / "02_forward_process.html").read_text(encoding="utf-8")
    assert r"\(f_9\)" in page and "$f_9$" not in page
    assert re.search(r"<td>(<p>)?1\.5(</p>)?</td>", page) and "| 2 | 1.5 |" not in page


def test_the_search_knows_all_pages(book):
    index = (book / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(")
    for word in ("glossari", "affin", "einthoven", "notebooks/02_forward_process"):
        assert word in index


def test_glossary_explains_what_the_figures_name():
    text = (BOOK / "pages" / "glossary.md").read_text()
    terms = re.findall(r"^\*\*(.+?)\*\*: \S", text, re.M)
    assert {
        "lead",
        "P wave",
        "QRS complex",
        "T wave",
        "PAT",
        "affinity",
        "blur",
        "SNR",
        "posterior mean",
        "irreducible error",
    } <= set(terms)
    assert sorted(terms, key=str.lower) == terms


# --- bibliography -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        (
            "Wang Z, Bovik AC. Image quality: from visibility to\nsimilarity. IEEE Trans 2004;13(4):600-612.\n",
            ["Wang 2004"],
        ),
        (
            "Kors JA et al. Eur Heart J 11:1083, 1990. Wagner P et al. PTB-XL. Sci Data 7:154, 2020.\n",
            ["Kors 1990", "Wagner 2020"],
        ),
        ("Ferro CAT. Fair scores. Q J 2014;140:1917-1923 (the correction).", ["Ferro 2014"]),
        (
            "RDDM: Shome D, Sarkar P. AAAI 2024, arXiv 2308.13568.\nUNet-BiLSTM: a method. Electronics 13, 2024.",
            ["Shome 2024", "UNet-BiLSTM 2024"],
        ),
        ("Lu C et al. DPM-Solver++. arXiv 2211.01095 (the idea).", ["Lu 2022"]),
        ("The other sources stand in the modules.", [None]),
    ],
)
def test_works_in_a_docstring_are_told_apart(section, keys):
    assert [work_key(text) for text in split_works(section)] == keys


def test_claims_of_other_runs_are_added(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    for folder in ("simulated-quick", "simulated-wide"):
        (tmp_path / "figures" / folder).mkdir(parents=True)
        (tmp_path / "figures" / folder / "table21_claims.md").write_text("made here")
    (tmp_path / "claims.md").write_text("the page\n")
    write_own_claims(tmp_path, "simulated", "smoke")  # has no table
    write_own_claims(tmp_path, "simulated", "wide")  # is what the page shows
    assert (tmp_path / "claims.md").read_text() == "the page\n"
    write_own_claims(tmp_path, "simulated", "quick")
    assert (tmp_path / "claims.md").read_text() == "the page\n\n## On simulated, profile quick\n\nmade here\n"


# --- rooms ------------------------------------------------------------------------------------------------------------


def test_rooms_are_drawn_and_listed_as_they_are():
    assert rooms.filled_page() == rooms.PAGE.read_text(), "stale: run 'python book/rooms.py'"
    assert rooms.draw_rooms() == rooms.PICTURE.read_text(), "stale: run 'python book/rooms.py'"


def test_imports_between_rooms_are_found(tmp_path):
    for room, text in {
        "a": "",
        "b": "from house.a.x import y",
        "c": "import house.b.x\ndef f():\n    from house import a",
    }.items():
        (tmp_path / "house" / room).mkdir(parents=True)
        (tmp_path / "house" / room / "__init__.py").write_text(f'"""Room {room}.\n\nMore."""\n')
        (tmp_path / "house" / room / "x.py").write_text(f"import numpy\nfrom house import __version__\n{text}\n")
    found = rooms.read_imports(tmp_path / "house")
    assert found == {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert rooms.needed(found) == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert rooms.what_for("b", tmp_path / "house") == "Room b."


# --- links between files, as GitHub follows them ----------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Places in a Markdown file, by the names that GitHub gives its headings."""
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


FILES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "figures" / "README.md"]
FILES += sorted((BOOK / "pages").glob("*.md"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_links_between_files_lead_somewhere(path):
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", path.read_text()):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if "://" not in link and (not file.exists() or anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def test_contributing_is_one_page():
    assert len((CHECKOUT / "CONTRIBUTING.md").read_text().split()) <= 500


def test_identifiers_become_addresses():
    text = "A B. Title. AAAI 2021, arXiv 2010.00104, doi 10.1016/0047-259X(82)90077-X."
    assert set(identifiers(text).values()) == {
        "https://arxiv.org/abs/2010.00104",
        "https://doi.org/10.1016/0047-259X(82)90077-X",
    }


# --- walkthroughs -----------------------------------------------------------------------------------------------------

#: A box, and the file named last in the line before it, if that line ends with a colon.
BOX = re.compile(r"(?:`([^`\n]+)`[^`\n]*:\n\n)?```(python|diff|console)\n(.*?)^```$", re.M | re.S)
#: What the last command of each walkthrough prints.
WALKTHROUGHS = {
    "add_a_data_set": r"[1-9]\d* of \d+ windows usable, from 6 records",
    "add_a_baseline": r"\d\.\d\d million weights",
    "add_an_ablation": r"hidden: 0\.0\d\d|hidden: 0\.1\d\d\nhidden: 0\.000",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKTHROUGHS)
def test_walkthrough_does_what_it_says(name, tmp_path, git):
    """The files, changes and commands of the page, in its order, on a copy of the library."""
    shutil.copytree(CHECKOUT / "p2es_lib", tmp_path / "p2es_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()  # by which a source tree is known
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "P2ES_HOME": str(tmp_path / "home"),
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
    }
    environment.pop("P2ES_MIRROR", None)
    boxes = BOX.findall((BOOK / "pages" / f"{name}.md").read_text())
    assert {language for _, language, _ in boxes} == {"python", "diff", "console"}
    printed = ""
    for file, language, body in boxes:
        if language == "python":
            path = tmp_path / file
            assert not path.exists(), f"{file} is there already; the page would write it anew"
            path.write_text(body)
            if file.startswith("p2es_lib"):  # as CI would have it
                for rule in (["check"], ["format", "--check"]):
                    options = ["--config", CHECKOUT / "pyproject.toml", "--no-cache"]
                    subprocess.run([sys.executable, "-m", "ruff", *rule, *options, path], cwd=tmp_path, check=True)
        elif language == "diff":
            before = (tmp_path / file).read_text()
            subprocess.run(["git", "apply", "-"], input=body, text=True, cwd=tmp_path, env=environment, check=True)
            assert (tmp_path / file).read_text() != before
        else:
            for line in body.splitlines():
                program, *arguments = line.removeprefix("$ ").split()
                command = {"python": [sys.executable], "p2es": [sys.executable, "-m", "p2es_lib.cli"]}[
                    program
                ] + arguments
                result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
                printed = result.stdout + result.stderr
                assert result.returncode == 0, f"{line}\n{printed}"
    assert re.search(WALKTHROUGHS[name], printed), printed


# --- in a browser -----------------------------------------------------------------------------------------------------

PHONE, DESKTOP = (390, 844), (1280, 900)
#: What a page looks like once its mathematics is set.
LOOK = """
return (window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve()).then(() => ({
  images: [...document.images].filter(image => image.naturalWidth === 0).map(image => image.src),
  formulas: document.querySelectorAll('.math').length,
  unset: [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container svg'))
    .map(e => e.textContent),
  wrong: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
  width: document.documentElement.scrollWidth,
  outside: performance.getEntriesByType('resource').map(e => e.name)
    .filter(name => !/^(file|data|blob):/.test(name)),
  title: document.title,
}));
"""


@pytest.mark.slow
@pytest.mark.skipif(
    find_chromium() is None,
    reason="Chromium and chromedriver are not installed, so the pages were not opened in a browser",
)
def test_pages_in_a_browser(book, pages, tmp_path):
    """Every page opens at desktop and phone width: no script error, figures and formulas there, nothing too wide."""
    wrong, formulas = [], 0
    with Browser(tmp_path / "profile") as browser:
        for path in pages:
            name = path.relative_to(book).as_posix()
            browser.set_width(*DESKTOP)
            browser.open(path.as_uri())
            desktop = browser.run(LOOK)
            browser.set_width(*PHONE, mobile=True)
            phone = browser.run(LOOK)
            wrong += [f"{name}: {error}" for error in browser.errors()]
            for width, look in ((DESKTOP[0], desktop), (PHONE[0], phone)):
                found = {key: look[key] for key in ("images", "unset", "wrong", "outside") if look[key]}
                if look["width"] > width:
                    found["width"] = f"{look['width']} pixels at {width}"
                wrong += [f"{name}: {found}"] if found or not look["title"] else []
            formulas += desktop["formulas"]
        assert not wrong, "\n".join(wrong)
        assert formulas > 20
        browser.open((book / "search.html").as_uri() + "?q=affinity")
        results = browser.run(
            "return new Promise(done => { let tries = 0; const look = () => {"
            " const links = [...document.querySelectorAll('#search-results ul.search li a')]"
            ".map(a => a.getAttribute('href'));"
            " links.length || tries++ > 100 ? done(links) : setTimeout(look, 100); }; look(); });"
        )
        assert any("affinity" in link for link in results)
        assert all((book / urllib.parse.urlsplit(link).path).is_file() for link in results)
