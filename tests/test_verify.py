"""A fresh run against the committed tables: what counts as reproduced, and what is said of the rest."""

from __future__ import annotations

import json
import subprocess

import pandas as pd
import pytest
from typer.testing import CliRunner

from p2es_lib.cli.main import app
from p2es_lib.core.errors import InputError
from p2es_lib.experiments import verify

TABLE = pd.DataFrame({"method": ["a", "b", "c"], "n_subjects": [5, 5, 5], "value": [1.0, 2.0, 3.0],
                      "lower": [0.9, 1.5, float("nan")], "upper": [1.1, 2.5, float("nan")]})  # fmt: skip


def test_equal_tables_are_equal_row_by_row():
    found = verify.compare_tables("t", TABLE, TABLE.iloc[::-1])
    assert (found.rows, found.same, found.within, found.unjudged, found.outside, found.differing) == (
        3,
        3,
        0,
        0,
        [],
        [],
    )
    assert verify.is_reproduced(found, same_machine=True)


def test_elsewhere_a_number_may_move_within_its_interval():
    found = verify.compare_tables("t", TABLE, TABLE.assign(value=[1.05, 2.0, 3.3]))
    assert (found.same, found.within, found.unjudged, found.outside, found.differing) == (1, 1, 1, [], [])
    assert verify.is_reproduced(found, same_machine=False) and not verify.is_reproduced(found, same_machine=True)
    found = verify.compare_tables("t", TABLE, TABLE.assign(value=[1.2, 2.0, 3.0]))
    assert found.outside == ["a, 5: value 1.2, committed 1 (0.9 to 1.1)"] and not found.differing
    assert not verify.is_reproduced(found, same_machine=False)


def test_rows_and_columns_that_are_not_there_are_named():
    found = verify.compare_tables("t", TABLE, TABLE.assign(method=["a", "b", "d"]))
    assert found.differing == ["c, 5: only in the committed table", "d, 5: only in the fresh table"]
    assert "columns" in verify.compare_tables("t", TABLE, TABLE.drop(columns="upper")).differing[0]
    # A count is part of what a row is: another number of subjects is another result.
    assert len(verify.compare_tables("t", TABLE, TABLE.assign(n_subjects=4)).differing) == 6


def test_counts_and_words_that_are_results_do_not_tell_rows_apart():
    waves = pd.DataFrame({"metric": ["pr_ms", "qt_ms"], "n_subjects": [194, 200], "n_windows": [378, 400],
                          "bias": [8.8, 1.0], "bias_lower": [5.3, 0.5], "bias_upper": [12.3, 1.5], "sd": [25.7, 9.0]})  # fmt: skip
    other = waves.assign(n_windows=[379, 400], bias=[9.5, 1.6])  # one wave more was found
    found = verify.compare_tables("table10_agreement", waves, other)
    assert (found.within, found.outside, found.differing) == (1, ["qt_ms: bias 1.6, committed 1 (0.5 to 1.5)"], [])
    assert verify.compare_tables("table10_agreement", waves, waves.assign(n_windows=[379, 400])).same == 1
    assert verify.compare_tables("table08_ablations", waves, other).differing  # elsewhere a count is what a row is
    claims = pd.DataFrame(
        {"claim": ["light", "better"], "found": ["1.02 M", "0.158"], "verdict": ["supported", "not supported"]}
    )
    found = verify.compare_tables("table21_claims", claims, claims.assign(found=["1.02 M", "0.159"]))
    assert (found.same, found.unjudged, found.outside, found.differing) == (1, 1, [], [])
    found = verify.compare_tables("table21_claims", claims, claims.assign(verdict=["supported", "supported"]))
    assert found.outside == ["better: supported, committed: not supported"] and not verify.is_reproduced(
        found, same_machine=False
    )


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git checkout with committed tables, and a home whose run gave the same."""
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    for root in (checkout, home):
        folder = root / "figures" / "simulated-smoke"
        folder.mkdir(parents=True)
        TABLE.to_csv(folder / "table02_results.csv", index=False)
        TABLE.to_csv(folder / "table04_minutes.csv", index=False)
        pd.DataFrame({"run": ["p2es", "p2es", "unet"], "seed": [0, 1, 0]}).to_csv(
            folder / "table26_runs.csv", index=False
        )
    verify.write_machine(checkout / "figures" / "simulated-smoke")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    monkeypatch.setattr(verify.paths, "checkout", lambda: checkout)
    monkeypatch.setenv("P2ES_HOME", str(home))
    return checkout / "figures" / "simulated-smoke", home / "figures" / "simulated-smoke"


HERE = verify.describe_machine()["instructions"]


def run():
    return CliRunner().invoke(app, ["verify", "--profile", "smoke"])


def test_the_command_says_reproduced_or_not(repository):
    committed, fresh = repository
    assert "reproduced     table02_results: 3 of 3 rows equal" in run().stdout and run().exit_code == 0
    pd.DataFrame(TABLE.assign(value=[1.05, 2.0, 3.0])).to_csv(fresh / "table02_results.csv", index=False)
    TABLE.assign(value=9.0).to_csv(fresh / "table04_minutes.csv", index=False)  # minutes differ, and may
    assert run().exit_code == 1 and "NOT reproduced table02_results" in run().stdout


@pytest.mark.parametrize(("recorded", "said"), [
    ({"cpu": "another"}, "there another"),
    # A processor of the same name that adds in another order: its instructions are made from this one's, never named.
    ({"instructions": f"other than {HERE}"}, f"there other than {HERE}"),
    ({"instructions": None}, "there not recorded"),
])  # fmt: skip
def test_another_machine_is_named_and_only_intervals_count(repository, recorded, said):
    committed, fresh = repository
    TABLE.assign(value=[1.05, 2.0, 3.0]).to_csv(fresh / "table02_results.csv", index=False)
    assert run().exit_code == 1 and "such a machine" in run().stdout
    machine = json.loads((committed / "machine.json").read_text()) | recorded
    (committed / "machine.json").write_text(
        json.dumps({name: value for name, value in machine.items() if value is not None})
    )
    subprocess.run(
        ["git", "-C", str(committed), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "y"], check=True
    )
    assert run().exit_code == 0 and "another machine" in run().stdout and said in run().stdout


def test_other_seeds_are_no_failed_reproduction(repository):
    _, fresh = repository
    pd.DataFrame({"run": ["p2es", "unet"], "seed": [0, 0], "commit": "x"}).to_csv(
        fresh / "table26_runs.csv", index=False
    )
    with pytest.raises(
        InputError,
        match=r"seed\(s\) 0, the committed tables with 0,1; make it with: make reproduce .*PROFILE=smoke SEEDS=0,1",
    ):
        verify.verify("simulated", "smoke")
    (fresh / "table26_runs.csv").unlink()  # a workflow that has not come to its end: what is missing is named
    assert verify.verify("simulated", "smoke")


def test_what_is_missing_is_named(repository):
    _, fresh = repository
    (fresh / "table02_results.csv").unlink()
    with pytest.raises(InputError, match="table02_results.csv: missing; make it with: make reproduce"):
        verify.verify("simulated", "smoke")
    with pytest.raises(InputError, match="no tables of data set bidmc"):
        verify.verify("bidmc", "smoke")


def test_arithmetic_that_trainings_use_is_part_of_a_machine(monkeypatch):
    for has, word in ((True, True), (False, False)):
        monkeypatch.setattr(verify, "has_cpu_bf16", lambda has=has: has)
        assert ("bfloat16" in verify.describe_machine()["instructions"]) == word
