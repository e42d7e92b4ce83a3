"""README.md and the book's pages show what the workflow's files say, in the words that go with it."""

from __future__ import annotations

import json
import re
import shutil

import pandas as pd
import pytest

from p2es_lib.companion import readme
from p2es_lib.companion.readme import (
    ABLATION_METRICS,
    QUICK,
    REAL,
    SECTIONS,
    WIDE,
    ablations_section,
    claims_section,
    fill,
    filled_pages,
    headline_section,
    limits_section,
    read_pages,
    references_section,
    sim_to_real_section,
    verdict_section,
)
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import checkout
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.experiments.reference_results import FLOOR, P2ES, PASTED
from p2es_lib.experiments.sim_to_real import DETECTOR, MODEL, TEMPLATE

FIGURES = checkout() / "figures"
COMMITTED = FIGURES / QUICK


def test_pages_are_up_to_date():
    stale = [path.name for path, text in filled_pages().items() if text != read_pages()[path]]
    assert not stale, f"stale: {stale}; run 'p2es readme' after 'make reproduce'"


def test_minutes_are_those_of_notebooks_that_ran_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setenv("P2ES_HOME", str(tmp_path))
    folder = tmp_path / "runs" / "simulated" / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    for name, seconds in (("01_data", 60), ("05_train-p2es-seed0", 90), ("07_results.failed", 30)):
        (folder / f"{name}.ipynb").write_text(json.dumps({"metadata": {"papermill": {"duration": seconds}}}))
    table = readme.write_minutes("simulated", "smoke")
    assert table.set_index("notebook")["minutes"].to_dict() == {"01_data": 1.0, "05_train-p2es-seed0": 1.5}


@pytest.mark.parametrize(
    ("folder", "table", "shown_in"),
    [
        (WIDE, "table02_results", {"README.md", "results.md"}),
        (QUICK, "table02_results", {"results.md"}),
        (REAL, "table02_results", {"results.md"}),
        (WIDE, "table08_ablations", {"README.md", "ablations.md"}),
        (QUICK, "table28_references", {"README.md", "references.md"}),
        (QUICK, "table04_minutes", {"reproduce.md"}),
    ],
)
def test_changed_results_make_pages_stale(tmp_path, folder, table, shown_in):
    figures = shutil.copytree(FIGURES, tmp_path / "figures", ignore=shutil.ignore_patterns("*.png", "*.pdf", "*.md"))
    path = figures / folder / f"{table}.csv"
    changed = pd.read_csv(path)
    numbers = changed.columns.intersection(["value", "minutes"])
    changed.assign(**{name: changed[name] * 1.5 for name in numbers}, difference=0.5).to_csv(path, index=False)
    assert {path.name for path, text in filled_pages(figures).items() if text != read_pages()[path]} == shown_in


def test_front_page_is_short():
    text = (checkout() / "README.md").read_text()
    assert len(text.split()) <= 1200
    assert len(re.findall(r"!\[", text)) == 1
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert all(len(table.splitlines()) <= 8 + 2 for table in tables)


def test_the_words_of_the_verdict_hold():
    """What book/sections.toml says in words around the numbers. If this fails, its words must change."""
    table = pd.read_csv(FIGURES / WIDE / "table02_results.csv")
    table = table[table["lead"] == "all"].set_index(["metric", "method"])["value"]
    rmse, ours = table["rmse"], "P2Es, mean of 16 samples"
    templates = [name for name in rmse.index if "template" in name]
    assert rmse["Irreducible error"] < rmse["U-Net regression"] < rmse[ours] < min(rmse[templates])
    assert rmse[ours] < 1.05 * rmse["Irreducible error"]
    assert table["r_peak_f1"][ours] > 0.95 and max(table["r_peak_f1"][templates]) > 0.95
    real = pd.read_csv(FIGURES / REAL / "table02_results.csv")
    real = real[(real["lead"] == "all") & (real["metric"] == "rmse")].set_index("method")["value"]
    assert real["U-Net regression"] < real[ours] < min(real[templates])

    usual, more = (pd.read_csv(FIGURES / WIDE / f"{name}.csv") for name in ("table08_ablations", "table27_more_steps"))
    rows = pd.concat([usual, more])
    rows = rows.assign(clear=beyond_chance(rows)).set_index(["variant", "metric"])
    crps = rows.xs("crps", level="metric")
    assert crps["clear"][["no_blur", "no_blur_steps_8"]].all() and crps["difference"]["no_blur"] > 0
    assert crps["difference"]["no_blur"] > crps["difference"]["no_blur_steps_8"] > 0
    assert crps["difference"][["no_deblurring", "no_deblurring_steps_8"]].max() < 0, "the ECG is no better for it"
    assert not rows["clear"][[(name, "crps") for name in ("no_affinity", "no_affinity_steps_8")]].any()
    apart, without = crps["difference"]["leads_apart"], crps["difference"]["leads_apart_no_affinity"]
    assert without > apart > 0, "as the only link between leads, the matrices help"

    table = pd.read_csv(FIGURES / QUICK / "table28_references.csv").query("metric == 'rmse' and session != 'other'")
    rmse = table.set_index(["method", "regime"])["value"]
    for regime in ("I", "all"):
        assert rmse[P2ES, regime] < rmse[PASTED, regime] and rmse[P2ES, regime] < 0.85 * rmse[P2ES, "none"]
    assert rmse[FLOOR, "all"] < rmse[P2ES, "all"] < rmse[P2ES, "I"]


def test_verdict_has_the_numbers_of_the_tables(tmp_path):
    for name in (QUICK, WIDE):
        folder = shutil.copytree(FIGURES / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    table = pd.read_csv(folder / "table02_results.csv")
    ours = (table["method"] == "P2Es, mean of 16 samples") & (table["metric"] == "rmse") & (table["lead"] == "all")
    table.loc[ours, "value"] = 0.9876
    table.to_csv(folder / "table02_results.csv", index=False)
    lines = verdict_section(tmp_path).splitlines()
    assert [line[0] for line in lines] == list("1234567") and "RMSE 0.988 mV" in lines[0]
    assert "{" not in "".join(lines)


def test_headline_holds_every_method_of_the_table():
    methods = pd.read_csv(COMMITTED / "table02_results.csv")["method"].unique()
    section = headline_section(COMMITTED)
    assert len(methods) >= 5 and all(f"| {method} " in section for method in methods)


def test_missing_files_and_markers_are_named(tmp_path):
    with pytest.raises(InputError, match=r"table02_results.csv: missing"):
        headline_section(tmp_path)
    with pytest.raises(InputError, match="headline:begin"):
        fill({tmp_path: "# no markers"}, {"headline": "new"})
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb"
    assert fill({tmp_path: text}, {"x": r"n\1ew"})[tmp_path] == text.replace("old", r"n\1ew")


def test_no_marker_is_misspelt():
    marks = re.findall(r"<!-- ([\w-]+):(begin|end) -->", "".join(read_pages().values()))
    assert {name for name, _ in marks} == {*SECTIONS, "rooms"}
    assert all(marks.count((name, "begin")) == marks.count((name, "end")) == 1 for name, _ in marks)


def test_ablations_show_differences_and_mark_those_beyond_chance(tmp_path):
    rows = []
    for method, p_holm, least in (("no this", 0.001, 0.005), ("no that", 0.2, 0.005), ("no agreement", 0.001, -0.005)):
        for metric in ABLATION_METRICS:
            row = {"method": method, "metric": metric, "difference": 0.01, "lower": -0.02, "upper": 0.03}
            rows.append(row | {"p_holm": p_holm, "seed_min": least, "seed_max": 0.02, "n_subjects": 7, "seeds": 2})
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
    assert "7 test subjects, 2 training" in section


def test_limits_are_those_of_p2es_in_the_tables(tmp_path):
    folder = shutil.copytree(COMMITTED, tmp_path / "simulated-quick", ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    table = pd.read_csv(folder / "table11_uncertainty.csv")
    ours = table["method"] == "P2Es"
    table.loc[ours & (table["metric"] == "coverage_80"), "value"] = 0.4321
    table.loc[~ours, "value"] = -99.0
    table.to_csv(folder / "table11_uncertainty.csv", index=False)
    section = limits_section(folder, COMMITTED)
    assert "| 43 % " in section and "99" not in section.split("spread")[1].splitlines()[0]
    assert [cell.strip() for cell in section.splitlines()[0].split("|")[1:4]] == ["what", "simulated", "real ECG"]


def test_references_have_a_row_each_and_methods_a_column(tmp_path):
    rows = [
        ("P2Es", "none", "", "rmse", 0.1584), ("P2Es", "none", "", "crps", 0.04321),
        ("P2Es", "I", "other", "rmse", 0.1), ("P2Es", "I", "other", "crps", 0.02), ("P2Es", "I", "other", "mae", 9.0),
        ("Pasted", "none", "", "rmse", 0.17), ("Pasted", "none", "", "crps", 0.07),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "regime", "session", "metric", "value"])
    table.assign(n_subjects=7, seeds=1).to_csv(tmp_path / "table28_references.csv", index=False)
    *lines, _, note = references_section(tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["reference", "P2Es", "Pasted"]
    assert cells[2:] == [
        ["no reference", "0.158 / 0.0432", "0.170 / 0.0700"],
        ["lead I, other session", "0.100 / 0.0200", ""],
    ]
    assert "7 test subjects, 1 training(s)" in note


def write_claims(folder, rows):
    table = pd.DataFrame(rows, columns=["level", "claim", "tested by", "found", "verdict"])
    folder.mkdir()
    table.assign(data="").to_csv(folder / "table21_claims.csv", index=False)


def test_a_claim_is_a_row_with_its_numbers_folded(tmp_path):
    light, affinity = "light enough for mobile devices", "affinity matrices from KNN-based clustering"
    first, second = tmp_path / "first", tmp_path / "second"
    write_claims(first, [("B", light, "", "1 | 2", "supported"), ("A", affinity, "so", "3", "not supported")])
    write_claims(second, [("A", affinity, "so", "5", "supported"), ("B", light, "", "4", "contradicted")])  # by name
    one, two = claims_section(first, second).splitlines()[2:]
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", one)[1:-1]]
    assert cells[1:] == ["supported", "contradicted", "B"]
    sentence, folded = cells[0].split("<details>")
    assert (
        sentence.startswith(f"**{light}**<br>")
        and sentence.endswith(".")
        and r"<b>Simulated:</b> 1 \| 2<br><b>Real ECG:</b> 4</details>" in folded
    )
    assert "Tested by" not in folded and "<b>Tested by:</b> so" in two
    write_claims(tmp_path / "third", [("B", light, "", "1", "unheard of")])
    with pytest.raises(InputError, match="mobile devices', verdict 'unheard of'"):
        claims_section(tmp_path / "third", second)


def write_sim_to_real(folder, records):
    """Table of notebook 14: ``records`` gives windows, and per method F1, error of the heart rate and lag."""
    rows = []
    for number, (windows, methods) in enumerate(records):
        for name, (f1, rate, lag) in zip((MODEL, TEMPLATE, DETECTOR), methods):
            row = {"record": f"x/{number}", "method": name, "windows": windows, "r_peak_f1_lag": f1, "lag_ms": lag}
            rows.append(row | {"heart_rate_error": rate, "pearson_lag": float("nan") if name == DETECTOR else 0.5})
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "table22_sim_to_real.csv", index=False)


def test_sim_to_real_averages_over_records(tmp_path):
    with pytest.raises(InputError, match="table22_sim_to_real"):
        sim_to_real_section(tmp_path, "quick")
    first, second = (
        [(0.9, 1.8, 300), (0.9, 1.7, 310), (0.9, 1.6, 480)],
        [(1.0, 2.0, 320), (1.0, 2.0, 330), (1.0, 2.0, 500)],
    )
    write_sim_to_real(tmp_path / "x-quick", [(10, first), (30, second)])
    table, note = sim_to_real_section(tmp_path, "quick").split("\n\n")
    header, cells = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (table.splitlines()[0], table.splitlines()[-1])
    )
    expected = ["x", "2", "40", "0.950", "1.90", "0.50", "0.950", "1.85", "0.50", "0.950", "1.80"]
    assert cells == [*expected, "310 / 320 / 490"]
    assert header[-1] == "lag (ms), P2Es / template / detector" and len(header) == len(cells)
    assert "template's in 1 of 1" in note and "detector's in 0 of 1" in note and "In 0 of 1" in note


def test_sim_to_real_says_in_how_many_data_sets_it_is_beaten(tmp_path):
    """By averages as they are, not as they are rounded; equal is not beaten."""
    write_sim_to_real(tmp_path / "a-quick", [(5, [(0.9901, 0.5, 300), (0.99, 0.5, 300), (0.9902, 0.1, 480)])])
    write_sim_to_real(tmp_path / "b-quick", [(5, [(0.98, 0.501, 300), (0.99, 0.5, 300), (0.98, 0.9, 480)])])
    first, second = (
        [(0.97, 0.9, 300), (0.9, 0.5, 300), (0.98, 0.1, 480)],
        [(0.97, 0.4, 300), (0.9, 0.5, 300), (0.9, 0.1, 480)],
    )
    write_sim_to_real(tmp_path / "c-quick", [(5, first), (5, second)])
    write_sim_to_real(tmp_path / "d-full", [(5, [(0.1, 9.0, 300), (0.9, 0.5, 300), (0.9, 0.1, 480)])])
    note = sim_to_real_section(tmp_path, "quick").split("\n\n")[1]
    assert "template's in 2 of 3 data sets" in note and "detector's in 1 of 3" in note and "In 2 of 3" in note
