"""The works that the code cites, from the "References" of its docstrings and the citations of its data sources."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

#: Identifiers of works whose docstring gives none, by first author and year.
IDENTIFIERS = Path(__file__).resolve().parent / "identifiers.toml"
# No page number (1917-1923), no part of an identifier.
_YEAR = re.compile(r"(?<![-.\d])\b(?:19|20)\d\d\b(?![-.]\d)")
# Two works in one line of a docstring: the second begins with a surname and initials, perhaps after a method's name.
_NEXT_WORK = re.compile(r"(?<=[\d)][.;])\s+(?=(?:[\w-]+: )?[A-Z][\w-]+ [A-Z]{1,3}(?:,| et al|\. )|[A-Z][\w-]+ et al\.)")
_ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
_DOI = re.compile(r"doi[ :]+(10\.\d{4,9}/(?:\([^\s)]*\)|[^\s;,()])+)")


@dataclass
class Work:
    """One work: how it is cited, and the modules that cite it."""

    text: str
    cited_in: set[str] = field(default_factory=set)


def read_works(package: Path, citations: dict[str, str]) -> dict[str, Work]:
    """Works by first author and year, in alphabetical order.

    Parameters
    ----------
    package : Path
        Folder of the package, whose docstrings are read.
    citations : dict
        Module to a work that it cites elsewhere than in a docstring.
    """
    works: dict[str, Work] = {}
    found = [(module, text) for path in sorted(package.rglob("*.py")) for module, text in _in_docstrings(path, package)]
    for module, text in [*found, *citations.items()]:
        key = work_key(text)
        if key is None:  # no year, no work: a remark
            continue
        work = works.setdefault(key, Work(text))
        work.cited_in.add(module)
        # The fullest of several ways to cite the same work, those with an identifier before all others.
        work.text = max(work.text, text, key=lambda candidate: (bool(identifiers(candidate)), len(candidate)))
    known = tomllib.loads(IDENTIFIERS.read_text(encoding="utf-8"))
    for key, identifier in known.items():
        if key not in works:
            raise ValueError(f"{IDENTIFIERS.name}: nothing in the code cites {key!r}")
        if not identifiers(works[key].text):
            works[key].text = f"{works[key].text.rstrip('.')}, {identifier}."
    return dict(sorted(works.items(), key=lambda item: item[0].lower()))


def work_key(text: str) -> str | None:
    """``"Wang 2004"``: first author and year; without an author, the name of the method. None: a remark, not a work."""
    name = re.match(
        r"(?:[\w-]+: )?((?:[a-z]+ )*[^\W\d][\w'-]*(?: [a-z][\w-]*)*) (?=[A-Z]{1,3}\b|et al)|([\w'-]+)", text
    )
    arxiv = _ARXIV.search(text)
    years = _YEAR.findall(_ARXIV.sub("", _DOI.sub("", text))) or ([f"20{arxiv[1][:2]}"] if arxiv else [])
    return f"{name[1] or name[2]} {years[-1]}" if years and name else None


def identifiers(text: str) -> dict[str, str]:
    """Addresses of a work by how they are written in its citation."""
    found = {match[0]: f"https://arxiv.org/abs/{match[1]}" for match in _ARXIV.finditer(text)}
    for match in _DOI.finditer(text):
        doi = match[1].rstrip(".")
        found[match[0].rstrip(".")] = f"https://doi.org/{doi}"
    return found


def _in_docstrings(path: Path, package: Path) -> list[tuple[str, str]]:
    module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            _, heading, section = (ast.get_docstring(node) or "").partition("References\n----------\n")
            found += [(module, text) for text in split_works(section)] if heading else []
    return found


def split_entries(section: str) -> list[str]:
    """Entries of a section of references: each begins a line, behind a line that ended one."""
    entries: list[str] = []
    for line in section.splitlines():
        if not line.startswith(" ") and (not entries or entries[-1].endswith((".", ").")) or not line.strip()):
            entries += [line.strip()] if line.strip() else []
        elif line.strip():
            entries[-1] += f" {line.strip()}"
    return entries


def split_works(section: str) -> list[str]:
    """Works in a section of references, without remarks behind them; an entry may name several."""
    works = [work.rstrip(";") for entry in split_entries(section) for work in _NEXT_WORK.split(entry)]
    # A remark behind the work is for readers of the code.
    return [re.sub(r"(\b(?:19|20)\d\d\b[^ ]*?(?: \([^)]*\))?\.) .*", r"\1", work) for work in works]
