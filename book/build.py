"""Build the book: lay out its pages, then let Sphinx make HTML of them. Nothing is trained, executed or downloaded.

    python book/build.py [--dataset simulated] [--profile quick] [--out book/_build]

``make book`` calls it. The notebooks are those that the workflow executed, under ``$P2ES_HOME``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path[:0] = [str(BOOK), str(BOOK.parent)]

from pages import write_api, write_bibliography, write_citation, write_notebooks, write_own_claims, write_pages  # noqa: E402


def lay_out(source: Path, dataset: str, profile: str) -> list[str]:
    """Write all pages into an empty folder; returns the notebooks that have no outputs."""
    source.mkdir(parents=True)
    notebooks, missing = write_notebooks(source, dataset, profile)
    write_pages(source, notebooks)
    write_own_claims(source, dataset, profile)
    write_api(source)
    write_bibliography(source)
    write_citation(source)
    return missing


def build(out: Path, dataset: str, profile: str) -> int:
    """Lay out and build into ``out``; returns Sphinx's exit status. A warning is an error, after all were shown."""
    from sphinx.cmd.build import main

    source, html = out / "source", out / "html"
    for folder in (source, html, out / "doctrees"):  # pages of what is no more must not stay, nor be found
        shutil.rmtree(folder, ignore_errors=True)
    missing = lay_out(source, dataset, profile)
    strict = ["-W", "--keep-going", "-n", "-q"]
    status = main(["-b", "html", "-c", str(BOOK), "-d", str(out / "doctrees"), *strict, str(source), str(html)])
    if missing:
        print(f"without outputs, because not executed for {dataset}, {profile}: {', '.join(missing)}")
    if status == 0:
        print(html / "index.html")
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the book from finished runs.")
    parser.add_argument("--dataset", default="simulated")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--out", type=Path, default=BOOK / "_build")
    arguments = parser.parse_args()
    sys.exit(build(arguments.out.resolve(), arguments.dataset, arguments.profile))
