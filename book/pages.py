"""The pages of the book: README.md and book/pages with their links turned, executed notebooks, docstrings, works cited.

Nothing is computed here: a notebook that the workflow has not executed is shown without outputs, and its page says
which command makes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml
from bibliography import identifiers, read_works
from rooms import read_floors, what_for

from p2es_lib.companion.notebooks import list_notebooks
from p2es_lib.companion.readme import REAL, WIDE
from p2es_lib.core import paths
from p2es_lib.data.sources import SOURCES
from p2es_lib.plots.saving import ARTEFACTS

BOOK = Path(__file__).resolve().parent
_WIDGET = "application/vnd.jupyter.widget-view+json"
#: They take a model from simulation to real recordings.
_REAL_ONLY = {"14_sim_to_real", "17_reference_real"}
#: Their people are simulated, whatever the book is about.
_SIMULATED_ONLY = {"13_own_ppg", "16_reference"}


# ------------------------------------------------------------------------------------------------- README and pages
#: Contents of the book: caption to pages.
CONTENTS = {
    "Notebooks": ["notebooks/index"],
    "Results": ["results", "ablations", "claims", "limits"],
    "Use": ["own_ppg", "references", "files", "reproduce", "real_recordings", "store"],
    "How it is made": ["method", "design", "CONTRIBUTING", "add_a_data_set", "add_a_baseline", "add_an_ablation"],
    "Reference": ["glossary", "api/index", "bibliography", "citation"],
}
#: Files of the repository that have a page under another name.
_OTHER_NAMES = {"README.md": "index.md", "CITATION.cff": "citation.md"}
_LINK = re.compile(r"\[([^\[\]]*)\]\((?![a-z]+:)([^()\s#]+)(#[^()\s]*)?\)")


def write_pages(source: Path, notebooks: Mapping[str, str]) -> None:
    """Write README.md (as ``index.md``), CONTRIBUTING.md and book/pages, their links pointing into the book.

    Parameters
    ----------
    source : Path
        Folder of all pages.
    notebooks : dict
        Name of a notebook to its page.
    """
    checkout = paths.checkout()
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        *(f"book/pages/{path.name}" for path in (BOOK / "pages").glob("*.md")),
    ):
        text = _LINK.sub(
            lambda link, page=page: _into_the_book(link, page, source, notebooks), (checkout / page).read_text("utf-8")
        )
        for name, address in notebooks.items():
            text = text.replace(f"| `{name}` ", f"| [`{name}`]({address}) ")
        if page == "README.md":
            text += "".join(_toctree(caption, pages) for caption, pages in CONTENTS.items())
        (source / _OTHER_NAMES.get(page, Path(page).name)).write_text(text, encoding="utf-8")


def _into_the_book(link: re.Match, page: str, source: Path, notebooks: Mapping[str, str]) -> str:
    """A link between files of the repository as a link between pages; a file that has no page is copied beside them."""
    words, target, anchor = link[1], link[2], link[3] or ""
    path = Path(os.path.normpath(Path(page).parent / target))
    if not (paths.checkout() / path).exists():
        raise ValueError(f"{page}: {target} does not exist")
    if path.parts[0] == "p2es_lib" and path.suffix == ".py":
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        return f"{{py:mod}}`{words.strip('`')} <{module}>`"
    if path.parent.name == "notebooks":
        return f"[{words}]({notebooks[path.stem]}{anchor})"
    if path.suffix == ".md" and (path.parent in (Path("."), Path("book/pages"))):
        return f"[{words}]({_OTHER_NAMES.get(path.name, path.name)}{anchor})"
    if str(path) in _OTHER_NAMES:
        return f"[{words}]({_OTHER_NAMES[str(path)]})"
    where = path.name if path.parent == Path("book/pages") else str(path)
    (source / where).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(paths.checkout() / path, source / where)
    return f"[{words}]({where}{anchor})"


def _toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":maxdepth: 2", f":caption: {caption}", ":hidden:", "", *pages, "```", ""])


# ----------------------------------------------------------------------------------------------------------- notebooks
def write_notebooks(source: Path, dataset: str, profile: str) -> tuple[dict[str, str], list[str]]:
    """Pages of all notebooks, executed where the workflow did so, and their list.

    Returns
    -------
    pages : dict
        Notebook to its page (the first of several runs).
    missing : list of str
        Notebooks that are shown without outputs.
    """
    folder = source / "notebooks"
    folder.mkdir()
    pages, missing, listed = {}, [], []
    for name in list_notebooks():
        template = json.loads((paths.checkout() / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
        executed = _executed(dataset, profile, name)
        for path in executed:
            notebook = clean_notebook(json.loads(path.read_text(encoding="utf-8")))
            if run := path.stem.removeprefix(name).strip("-"):
                _add_to_title(notebook, run.replace("-", ", "))
            if _code(notebook) != _code(template):
                command = f"remove `{path.relative_to(paths.home())}` and call `make reproduce` again"
                _add_note(notebook, f"Executed by an older version of this notebook. For the present one: {command}.")
            _write_notebook(folder / path.name, notebook)
            listed.append(path.stem)
        if not executed:
            missing.append(name)
            _add_note(template, _how_to_make(name, dataset, profile))
            _write_notebook(folder / f"{name}.ipynb", template)
            listed.append(name)
        first = next((path.stem for path in executed if "-p2es-" in path.stem), executed[0].stem if executed else name)
        pages[name] = f"notebooks/{first}.ipynb"
    others = _other_data_sets(folder, dataset, profile)
    intro = (
        f"# Notebooks\n\nAs executed on the data set `{dataset}` with the profile `{profile}`; `make book PROFILE=...` "
        "and `DATASET=...` take others. `make lab` opens the same notebooks in JupyterLab.\n"
    )
    rows = [
        f"- [`{name}`]({Path(page).name}): {_plain(ARTEFACTS.get(name, 'see its first cell'))}"
        for name, page in pages.items()
    ]
    lists = [_toctree(f"On {dataset}", listed)]
    for other, names in others.items():
        rows.append(f"- On `{other}`: " + ", ".join(f"[`{Path(name).name}`]({name}.ipynb)" for name in names))
        lists.append(_toctree(f"On {other}", names))
    (folder / "index.md").write_text("\n".join([intro, *rows, *lists]), encoding="utf-8")
    return pages, missing


def _executed(dataset: str, profile: str, name: str) -> list[Path]:
    folder = paths.home() / "runs" / dataset / profile / "notebooks"
    found = [path for path in sorted(folder.glob(f"{name}*.ipynb")) if re.fullmatch(rf"{name}(-.+)?", path.stem)]
    return [path for path in found if not path.stem.endswith(".failed")]


def _other_data_sets(folder: Path, dataset: str, profile: str) -> dict[str, list[str]]:
    """Executed notebooks of all other data sets under the same profile, copied beside the others."""
    others: dict[str, list[str]] = {}
    for runs in sorted((paths.home() / "runs").glob(f"*/{profile}/notebooks")):
        other = runs.parts[-3]
        if other == dataset:
            continue
        for path in (path for name in list_notebooks() for path in _executed(other, profile, name)):
            notebook = clean_notebook(json.loads(path.read_text(encoding="utf-8")))
            _add_to_title(notebook, ", ".join(filter(None, [other, re.sub(r"^\d\d_[a-z_]+-?", "", path.stem)])))
            (folder / other).mkdir(exist_ok=True)
            _write_notebook(folder / other / path.name, notebook)
            others.setdefault(other, []).append(f"{other}/{path.stem}")
    return others


def _how_to_make(name: str, dataset: str, profile: str) -> str:
    if name in _REAL_ONLY and dataset == "simulated":
        return "Not executed: it is for real recordings. First `make reproduce DATASET=bidmc`, then `make book`."
    dataset = "simulated" if name in _SIMULATED_ONLY else dataset
    command = f"make reproduce PROFILE={profile}" + (f" DATASET={dataset}" if dataset != "simulated" else "")
    return f"Not executed here, so without outputs. To make them: `{command}`, then `make book`."


def clean_notebook(notebook: dict) -> dict:
    """An executed notebook without widgets (they need a kernel), progress bars, and paths of the machine."""
    home = str(notebook["metadata"].get("papermill", {}).get("output_path", "")).partition("/runs/")[0]
    if home.startswith("/"):
        text = json.dumps(notebook)
        notebook = json.loads(text.replace(f"{json.dumps(home)[1:-1]}/", ""))
    for cell in notebook["cells"]:
        # Metadata of papermill: when each cell ran. The page has no use for it, and tags may hide cells.
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = [
                output for output in cell["outputs"] if not _needs_kernel(output) and output.get("name") != "stderr"
            ]
            for output in cell["outputs"]:  # sliders carry a picture for where they cannot be
                output.get("data", {}).pop(_WIDGET, None)
    notebook["metadata"] = {
        key: value for key, value in notebook["metadata"].items() if key in ("kernelspec", "language_info")
    }
    return notebook


def _needs_kernel(output: dict) -> bool:
    data = output.get("data", {})
    return _WIDGET in data and set(data) <= {_WIDGET, "text/plain"}


def _code(notebook: dict) -> list[str]:
    """Code of the cells, without the parameters that papermill put in."""
    codes = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [code for code in codes if not code.startswith("# Parameters\n")]


def _add_to_title(notebook: dict, text: str) -> None:
    cell = notebook["cells"][0]
    first, newline, rest = "".join(cell["source"]).partition("\n")
    cell["source"] = f"{first} ({text}){newline}{rest}"


def _add_note(notebook: dict, text: str) -> None:
    """A note below the title."""
    cell = notebook["cells"][0]
    first, _, rest = "".join(cell["source"]).partition("\n")
    cell["source"] = f"{first}\n\n:::{{note}}\n{text}\n:::\n{rest}"


def _write_notebook(path: Path, notebook: dict) -> None:
    path.write_text(json.dumps(notebook), encoding="utf-8")


def _plain(text: str) -> str:
    return text.replace("_", r"\_")


# -------------------------------------------------------------------------------------------------------- API reference
def write_api(source: Path) -> None:
    """One page per room of the library, with all its modules, from the ground floor up."""
    folder = source / "api"
    folder.mkdir()
    package = paths.checkout() / "p2es_lib"
    rooms = [room for floor in read_floors() for room in floor]
    for room in rooms:
        (folder / f"{room}.rst").write_text(_api_page(package, room), encoding="utf-8")
    text = (
        "# API reference\n\nEach room imports only from those above it in this list ([the design](../design.md)).\n\n"
    )
    text += "".join(f"- [`{room}`]({room}.rst): {what_for(room)}\n" for room in rooms)
    text += "\n```{py:module} p2es_lib\n```\n" + _toctree("Rooms", rooms)
    (folder / "index.md").write_text(text, encoding="utf-8")


def _api_page(package: Path, room: str) -> str:
    """The modules of a room. What a package re-exports is described once, in the module that defines it."""
    lines = []
    for path in sorted(
        (package / room).rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)
    ):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if path.name == "__main__.py":
            continue
        members = ["   :no-members:"] if path.name == "__init__.py" else []
        underline = "=" if not lines else "-"
        lines += [module, underline * len(module), "", f".. automodule:: {module}", *members, ""]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- claims, bibliography, citation
def write_own_claims(source: Path, dataset: str, profile: str) -> None:
    """Add to the page of claims what a run found that the page does not show: of another data set or profile."""
    path = paths.figures_dir(dataset, profile) / "table21_claims.md"
    if path.is_file() and path.parent.name not in (WIDE, REAL):
        with open(source / "claims.md", "a", encoding="utf-8") as page:
            page.write(f"\n## On {dataset}, profile {profile}\n\n{path.read_text(encoding='utf-8').strip()}\n")


def write_bibliography(source: Path) -> None:
    """What the code cites, with addresses, and where it does."""
    citations = {
        f"p2es_lib.data.sources.{s.name.replace('-', '_')}": s.about["cite"]
        for s in SOURCES.values()
        if s.role != "simulated"
    }
    works = read_works(paths.checkout() / "p2es_lib", citations)
    lines = [
        "# Bibliography",
        "",
        "The paper that this software follows: Ji H, Gao W, Zhou P. Translation from Wearable PPG to 12-Lead ECG. "
        "[arXiv 2509.25480](https://arxiv.org/abs/2509.25480), 2025.",
        "",
        "What the code cites, from its docstrings, and where. A work without a link has none in the docstring, and we "
        "have not seen its identifier confirmed elsewhere.",
        "",
    ]
    for work in works.values():
        text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", work.text).replace("``", "`")
        for written, address in identifiers(work.text).items():
            text = text.replace(written, f"[{written}]({address})")
        modules = ", ".join(
            f"{{py:mod}}`{module.removeprefix('p2es_lib.')} <{module}>`" for module in sorted(work.cited_in)
        )
        lines += [f"- {text.rstrip('.')}. Cited in {modules}."]
    (source / "bibliography.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_citation(source: Path) -> None:
    """How to cite the paper and this software, from CITATION.cff."""
    cff = yaml.safe_load((paths.checkout() / "CITATION.cff").read_text(encoding="utf-8"))
    paper = cff["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    arxiv = paper["identifiers"][0]["value"].removeprefix("arXiv:")
    bibtex = [
        "@article{p2es,",
        f"  title = {{{paper['title']}}},",
        f"  author = {{{authors}}},",
        f"  journal = {{{paper['journal']}}},",
        f"  year = {{{paper['year']}}},",
        f"  eprint = {{{arxiv}}},",
        f"  url = {{{paper['url']}}},",
        "}",
        "",
        "@software{p2es_companion,",
        f"  title = {{{cff['title']}}},",
        f"  author = {{{{{' and '.join(author['name'] for author in cff['authors'])}}}}},",
        f"  version = {{{cff['version']}}},",
        f"  license = {{{cff['license']}}},",
        "}",
    ]
    lines = [
        "# Citation",
        "",
        cff["message"],
        "",
        "```bibtex",
        *bibtex,
        "```",
        "",
        " ".join(cff["abstract"].split()),
        "",
    ]
    lines += [f"Licence: {cff['license']}. Data sets have licences of their own: `p2es data sources`.", ""]
    (source / "citation.md").write_text("\n".join(lines), encoding="utf-8")
