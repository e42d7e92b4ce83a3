"""The README's tables are those of the workflow's files."""

from __future__ import annotations

import pandas as pd
import pytest

from p2es_lib.errors import InputError
from p2es_lib.paths import checkout
from p2es_lib.readme import filled, headline_section

COMMITTED = checkout() / "figures" / "simulated-quick"


def test_readme_is_up_to_date():
    text = (checkout() / "README.md").read_text()
    assert filled(text, COMMITTED) == text, "README.md is stale: run 'p2es readme' after 'make reproduce'"


def test_changed_results_make_the_readme_stale(tmp_path):
    for path in COMMITTED.glob("table*.csv"):
        table = pd.read_csv(path)
        if path.stem == "table02_results":
            table["value"] *= 1.1
        table.to_csv(tmp_path / path.name, index=False)
    text = (checkout() / "README.md").read_text()
    assert filled(text, tmp_path) != text


def test_headline_holds_every_method_of_the_table():
    methods = pd.read_csv(COMMITTED / "table02_results.csv")["method"].unique()
    section = headline_section(COMMITTED)
    assert len(methods) >= 5 and all(f"| {method} " in section for method in methods)


def test_missing_files_and_markers_are_named(tmp_path):
    with pytest.raises(InputError, match=r"table02_results.csv: missing"):
        headline_section(tmp_path)
    with pytest.raises(InputError, match="markers"):
        filled("# no markers", COMMITTED)
