"""The README's tables are those of the workflow's files."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from p2es_lib.companion import readme
from p2es_lib.companion.readme import (
    ABLATION_METRICS,
    ablations_section,
    claims_section,
    filled,
    headline_section,
    limits_section,
    sim_to_real_section,
)
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import checkout
from p2es_lib.experiments.sim_to_real import DETECTOR, MODEL, TEMPLATE

COMMITTED = checkout() / "figures" / "simulated-quick"


def test_readme_is_up_to_date():
    text = (checkout() / "README.md").read_text()
    assert filled(text, COMMITTED) == text, "README.md is stale: run 'p2es readme' after 'make reproduce'"


def test_minutes_are_those_of_notebooks_that_ran_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "simulated" / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    for name, seconds in (("01_data", 60), ("05_train-p2es-seed0", 90), ("07_results.failed", 30)):
        (folder / f"{name}.ipynb").write_text(json.dumps({"metadata": {"papermill": {"duration": seconds}}}))
    table = readme.write_minutes("simulated", "smoke")
    assert table.set_index("notebook")["minutes"].to_dict() == {"01_data": 1.0, "05_train-p2es-seed0": 1.5}


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


def test_ablations_show_differences_and_mark_those_beyond_chance(tmp_path):
    rows = []
    for method, p_holm, least in (("no this", 0.001, 0.005), ("no that", 0.2, 0.005), ("no agreement", 0.001, -0.005)):
        for metric in ABLATION_METRICS:
            rows.append({"method": method, "metric": metric, "difference": 0.01, "lower": -0.02, "upper": 0.03, "p_holm": p_holm,
                         "seed_min": least, "seed_max": 0.02, "n_subjects": 7, "seeds": 2})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "table08_ablations.csv", index=False)
    section = ablations_section(tmp_path)
    first, second, third = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| no ")
    )
    assert (
        first[:2] == ["no this", "**+0.01000 (-0.02000 to +0.03000)**"] and second[2] == "+0.0100 (-0.0200 to +0.0300)"
    )
    assert "**" not in "".join(second + third)
    assert len(first) == len(second) == 1 + len(ABLATION_METRICS)
    assert "7 test subjects, 2 training seed(s)" in section


def test_everything_compared_takes_the_place_of_quick_where_it_is_there(tmp_path, monkeypatch):
    """Ablations and claims of profile wide are shown once its tables are there; until then it is said how to make them."""
    figures = shutil.copytree(checkout() / "figures", tmp_path / "figures")
    shutil.rmtree(figures / "simulated-wide", ignore_errors=True)
    monkeypatch.setattr(readme, "checkout", lambda: tmp_path)
    text = filled((checkout() / "README.md").read_text(), COMMITTED)
    assert "make reproduce PROFILE=wide" in text and "figures/simulated-wide/table" not in text
    wide = shutil.copytree(figures / "simulated-quick", figures / "simulated-wide")
    claims = pd.read_csv(wide / "table21_claims.csv")
    claims.assign(found="found with everything").to_csv(wide / "table21_claims.csv", index=False)
    uncertainty = pd.read_csv(wide / "table11_uncertainty.csv")
    uncertainty.assign(value=0.4321).to_csv(wide / "table11_uncertainty.csv", index=False)
    text = filled(text, COMMITTED)
    section = {
        name: text.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
        for name in ("headline", "quick", "limits")
    }
    assert (
        "figures/simulated-wide/table02_results.csv" in section["headline"]
        and "figures/simulated-wide/table08_ablations.csv" in text
    )
    assert "figures/simulated-quick/table02_results.csv" in section["quick"] and "| 43 % " in section["limits"]
    assert text.count("found with everything") == len(claims)


def test_limits_are_those_of_p2es_in_the_tables(tmp_path):
    folder = shutil.copytree(COMMITTED, tmp_path / "simulated-quick")
    table = pd.read_csv(folder / "table11_uncertainty.csv")
    ours = table["method"] == "P2Es"
    table.loc[ours & (table["metric"] == "coverage_80"), "value"] = 0.4321
    table.loc[~ours, "value"] = -99.0
    table.to_csv(folder / "table11_uncertainty.csv", index=False)
    section = limits_section(folder, tmp_path / "none")
    assert "| 43 % " in section and "99" not in section.split("spread")[1].splitlines()[0] and "real ECG" not in section
    assert "real ECG" in limits_section(folder, folder).splitlines()[0]


def test_claims_of_both_data_sets_stand_side_by_side(tmp_path):
    first, second = tmp_path / "simulated-quick", tmp_path / "ptb-xl-quick"
    for folder, found in ((first, ("a1", "b1")), (second, ("b2", "a2"))):
        folder.mkdir()
        names = ["a", "b"] if folder == first else ["b", "a"]  # by name, whatever the order
        rows = {
            "level": "A",
            "claim": names,
            "tested by": "",
            "found": found,
            "verdict": [f"v{text}" for text in found],
            "data": "",
        }
        pd.DataFrame(rows).to_csv(folder / "table21_claims.csv", index=False)
    both = claims_section(first, second).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in both if "a1" in line or "b1" in line]
    assert cells == [["A", "a", "a1", "va1", "a2", "va2"], ["A", "b", "b1", "vb1", "b2", "vb2"]]
    alone = claims_section(first, tmp_path / "none")
    assert "simulated" in alone and "real ECG" not in alone


def write_sim_to_real(folder, records):
    """Table of notebook 14: ``records`` gives windows, and per method F1, error of the heart rate and lag."""
    rows = []
    for number, (windows, methods) in enumerate(records):
        for name, (f1, rate, lag) in zip((MODEL, TEMPLATE, DETECTOR), methods):
            rows.append({"record": f"x/{number}", "method": name, "windows": windows, "r_peak_f1_lag": f1, "heart_rate_error": rate,
                         "pearson_lag": float("nan") if name == DETECTOR else 0.5, "lag_ms": lag})  # fmt: skip
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "table22_sim_to_real.csv", index=False)


def test_sim_to_real_averages_over_records(tmp_path):
    with pytest.raises(InputError, match="table22_sim_to_real"):
        sim_to_real_section(tmp_path, "quick")
    write_sim_to_real(tmp_path / "x-quick", [
        (10, [(0.9, 1.8, 300), (0.9, 1.7, 310), (0.9, 1.6, 480)]), (30, [(1.0, 2.0, 320), (1.0, 2.0, 330), (1.0, 2.0, 500)]),
    ])  # fmt: skip
    table, note = sim_to_real_section(tmp_path, "quick").split("\n\n")
    header, cells = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (table.splitlines()[0], table.splitlines()[-1])
    )
    assert cells == [
        "x",
        "2",
        "40",
        "0.950",
        "1.90",
        "0.50",
        "0.950",
        "1.85",
        "0.50",
        "0.950",
        "1.80",
        "310 / 320 / 490",
    ]
    assert header[-1] == "lag (ms), P2Es / template / detector" and len(header) == len(cells)
    assert "template's in 1 of 1" in note and "detector's in 0 of 1" in note and "one person: 0 of 1" in note


def test_sim_to_real_says_in_how_many_data_sets_it_is_beaten(tmp_path):
    """By averages as they are, not as they are rounded; equal is not beaten."""
    write_sim_to_real(tmp_path / "a-quick", [(5, [(0.9901, 0.5, 300), (0.99, 0.5, 300), (0.9902, 0.1, 480)])])
    write_sim_to_real(tmp_path / "b-quick", [(5, [(0.98, 0.501, 300), (0.99, 0.5, 300), (0.98, 0.9, 480)])])
    write_sim_to_real(tmp_path / "c-quick", [
        (5, [(0.97, 0.9, 300), (0.9, 0.5, 300), (0.98, 0.1, 480)]), (5, [(0.97, 0.4, 300), (0.9, 0.5, 300), (0.9, 0.1, 480)]),
    ])  # fmt: skip
    write_sim_to_real(tmp_path / "d-full", [(5, [(0.1, 9.0, 300), (0.9, 0.5, 300), (0.9, 0.1, 480)])])
    note = sim_to_real_section(tmp_path, "quick").split("\n\n")[1]
    assert "exceeds the template's in 2 of 3 data sets" in note and "F1 lies below the detector's in 1 of 3" in note
    assert "one person: 2 of 3" in note
