"""A fresh run against the committed tables: what counts as reproduced, and what is said of the rest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from p2es_lib.cli.main import app
from p2es_lib.core.errors import InputError
from p2es_lib.experiments import verify

#: Rows of real tables of profile quick: trained in float32 on AVX2, in bfloat16 on AVX512 with the same seed, and there
#: with another seed (P2Es and the U-Net; not of every table).
RUNS = Path(__file__).parent / "data" / "verify"
TABLE = pd.DataFrame({"method": ["P2Es", "unet", "Irreducible error"], "metric": "rmse", "n_subjects": [5, 5, 5],
                      "value": [0.160, 0.150, 0.140], "lower": [0.150, 0.140, 0.130],
                      "upper": [0.170, 0.160, 0.150]})  # fmt: skip
NEAR, FAR = [0.1605, 0.150, 0.140], [0.168, 0.150, 0.140]


def tables(run: str) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path) for path in sorted((RUNS / run).glob("*.csv"))}


def held(committed: dict[str, pd.DataFrame], fresh: dict[str, pd.DataFrame]) -> list[verify.Comparison]:
    return verify.compare({name: (table, fresh[name]) for name, table in committed.items() if name in fresh})


def outcomes(comparisons, same_machine: bool = False) -> dict[str, str]:
    return {comparison.table: verify.outcome(comparison, same_machine) for comparison in comparisons}


def test_equal_tables_are_equal_row_by_row():
    found = verify.compare_tables("t", TABLE, TABLE.iloc[::-1])
    assert (found.rows, found.same, found.within, found.wrong) == (3, 3, 0, [])
    assert found.conclusions == 3  # who is ahead of whom, of three
    assert verify.outcome(found, same_machine=True) == verify.outcome(found, same_machine=False) == verify.BIT_FOR_BIT


def test_elsewhere_a_number_may_move_as_far_as_trainings_differ():
    found = verify.compare_tables("t", TABLE, TABLE.assign(value=NEAR))
    assert (found.same, found.within, found.wrong) == (2, 1, [])
    assert verify.outcome(found, same_machine=False) == verify.STATISTICALLY
    assert verify.outcome(found, same_machine=True) == verify.NOT_REPRODUCED
    found = verify.compare_tables("t", TABLE, TABLE.assign(value=FAR))
    assert verify.outcome(found, same_machine=False) == verify.NOT_REPRODUCED
    assert found.wrong[0].startswith("P2Es, rmse, 5: value 0.168, committed 0.16 (give or take 0.0")


@pytest.mark.parametrize(
    ("lead", "column", "near", "far"),
    [
        ("all", "value", 1.015, 1.03),
        ("V2", "value", 1.03, 1.06),
        ("all", "lower", 1.03, 1.06),
        ("V2", "upper", 1.06, 1.12),
    ],
)
def test_single_leads_and_bounds_may_move_twice_as_far_and_no_further(lead, column, near, far):
    """With 4.5 standard deviations: 0.0025 x sqrt 2 x 4.5 = 1.6 % for all leads, and little more for the subjects."""
    table = TABLE.iloc[:1].assign(lead=lead, lower=0.155, upper=0.165)
    limit, committed = verify.tolerance("t", table, column, 4.5)[0], table[column].iloc[0]
    assert (near - 1) * committed < limit < (far - 1) * committed


def test_what_is_not_trained_must_be_the_same_to_rounding():
    for value, good in ((0.14001, True), (0.1405, False)):
        found = verify.compare_tables("t", TABLE, TABLE.assign(value=[0.160, 0.150, value]))
        assert (not found.wrong) == good


def test_more_numbers_allow_more_for_each():
    wide = {str(n): (TABLE, TABLE) for n in range(2000)}
    one, many = (verify.allowed_deviations(pairs) for pairs in ({"t": (TABLE, TABLE)}, wide))
    assert 2.5 < one < many < 5


def test_rows_and_columns_that_are_not_there_are_named():
    found = verify.compare_tables("t", TABLE, TABLE.assign(method=["P2Es", "unet", "d"]))
    assert found.wrong == [
        "Irreducible error, rmse, 5: only in the committed table",
        "d, rmse, 5: only in the fresh table",
    ]
    assert "columns" in verify.compare_tables("t", TABLE, TABLE.drop(columns="upper")).wrong[0]
    # A count is part of what a row is: another number of subjects is another result.
    assert len(verify.compare_tables("t", TABLE, TABLE.assign(n_subjects=4)).wrong) == 6
    holes = TABLE.assign(value=[float("nan"), 0.150, 0.140])
    assert verify.compare_tables("t", TABLE, holes).wrong and not verify.compare_tables("t", holes, holes).wrong


def test_counts_and_words_that_are_results_do_not_tell_rows_apart():
    waves = pd.DataFrame({"metric": ["pr_ms", "qt_ms"], "n_subjects": [194, 200], "n_windows": [378, 400],
                          "bias": [8.8, 1.0], "bias_lower": [5.3, 0.5], "bias_upper": [12.3, 1.5]})  # fmt: skip
    other = waves.assign(n_windows=[379, 400], bias=[9.5, 1.0])  # one wave more was found
    assert verify.compare_tables("table10_agreement", waves, other).within == 1
    assert verify.compare_tables("table08_ablations", waves, other).wrong  # elsewhere a count is what a row is
    claims = pd.DataFrame(
        {"claim": ["light", "better"], "found": ["1.02 M", "0.158"], "verdict": ["supported", "not supported"]}
    )
    found = verify.compare_tables("table21_claims", claims, claims.assign(found=["1.02 M", "0.159"]))
    assert (found.same, found.within, found.wrong) == (1, 1, [])
    found = verify.compare_tables("table21_claims", claims, claims.assign(verdict=["supported", "supported"]))
    assert found.wrong == ["better: supported, committed: not supported"]


def test_the_same_run_is_reproduced_bit_for_bit():
    for run in ("float32", "bfloat16", "seed1"):
        assert set(outcomes(held(tables(run), tables(run)), True).values()) == {verify.BIT_FOR_BIT}


@pytest.mark.parametrize(("committed", "fresh"), [("float32", "bfloat16"), ("bfloat16", "seed1"), ("float32", "seed1")])
def test_another_processor_and_another_seed_are_reproduced_statistically(committed, fresh):
    found = held(tables(committed), tables(fresh))
    assert not [line for comparison in found for line in comparison.wrong]
    assert sum(comparison.within for comparison in found) > 100  # they do differ
    assert sum(comparison.conclusions for comparison in found) > 100
    assert verify.worst(list(outcomes(found).values())) == verify.STATISTICALLY


def swapped(table: pd.DataFrame, column: str, one: str, other: str) -> pd.DataFrame:
    return table.assign(**{column: table[column].replace({one: other, other: one})})


UNET, TEMPLATE = "U-Net regression", "Mean-beat template at PPG beats"
WRONG = {
    "two methods swapped": ("table02_results", lambda t: swapped(t, "method", UNET, "P2Es, single sample")),
    "two ablations swapped": ("table08_ablations", lambda t: swapped(t, "method", "no blur", "no affinity")),
    "a method taken for another": (
        "table03_distance_to_floor", lambda t: swapped(t, "method", UNET, TEMPLATE)
    ),
    "two baselines swapped": (
        "table20_against_methods", lambda t: swapped(t, "method", UNET, TEMPLATE)
    ),
    "errors times 1.03": ("table02_results", lambda t: t.assign(value=t["value"] * 1.03)),
    "bounds times 1.03": ("table02_results", lambda t: t.assign(lower=t["lower"] * 1.03)),
    "values of ablations times 1.03": ("table08_ablations", lambda t: t.assign(value=t["value"] * 1.03)),
    "differences of the other sign": ("table08_ablations", lambda t: t.assign(difference=-t["difference"])),
    "differences and bounds of the other sign": (
        "table20_against_methods",
        lambda t: t.assign(difference=-t["difference"], lower=-t["upper"], upper=-t["lower"], value=t["value"]
                           - 2 * t["difference"], seed_min=-t["seed_max"], seed_max=-t["seed_min"]),
    ),
    "a limit of agreement times 1.03": ("table10_agreement", lambda t: t.assign(high=t["high"] * 1.03)),
    "a row lost": ("table09_sampler_steps", lambda t: t.iloc[1:]),
    "a row twice": ("table11_uncertainty", lambda t: pd.concat([t, t.iloc[:1]])),
}  # fmt: skip


@pytest.mark.parametrize(
    ("run", "fault"),
    [(run, fault) for run in ("float32", "bfloat16", "seed1") for fault in WRONG if WRONG[fault][0] in tables(run)],
)
def test_a_wrong_table_is_not_reproduced(run, fault):
    name, change = WRONG[fault]
    committed, fresh = tables("float32"), tables(run)
    changed = fresh | {name: change(fresh[name])}
    assert not changed[name].equals(fresh[name])
    found = outcomes(held(committed, changed))
    assert {table for table, outcome in found.items() if outcome == verify.NOT_REPRODUCED} == {name}


def test_every_quantity_of_the_committed_tables_has_its_limits():
    for folder in sorted((verify.paths.checkout() / "figures").glob("simulated-*")):
        for path in folder.glob("*.csv"):
            if path.stem not in verify.NOT_COMPARED:
                assert not verify.without_limits(pd.read_csv(path)), path


@pytest.fixture
def repository(tmp_path, monkeypatch, git):
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
    assert "reproduced bit for bit   table02_results: 3 of 3 rows equal" in run().stdout and run().exit_code == 0
    TABLE.assign(value=NEAR).to_csv(fresh / "table02_results.csv", index=False)
    TABLE.assign(value=9.0).to_csv(fresh / "table04_minutes.csv", index=False)  # minutes differ, and may
    assert run().exit_code == 1 and "NOT reproduced           table02_results" in run().stdout


@pytest.mark.parametrize(("recorded", "said"), [
    ({"cpu": "another"}, "there another"),
    # A processor of the same name that adds in another order: its instructions are made from this one's, never named.
    ({"instructions": f"other than {HERE}"}, f"there other than {HERE}"),
    ({"instructions": None}, "there not recorded"),
])  # fmt: skip
def test_another_machine_is_named_and_numbers_may_move_there(repository, recorded, said):
    committed, fresh = repository
    TABLE.assign(value=NEAR).to_csv(fresh / "table02_results.csv", index=False)
    assert run().exit_code == 1 and "such a machine" in run().stdout
    machine = json.loads((committed / "machine.json").read_text()) | recorded
    (committed / "machine.json").write_text(
        json.dumps({name: value for name, value in machine.items() if value is not None})
    )
    subprocess.run(
        ["git", "-C", str(committed), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qam", "y"], check=True
    )
    printed = run()
    assert printed.exit_code == 0 and "another machine" in printed.stdout and said in printed.stdout
    assert "reproduced statistically: data set simulated" in printed.stdout
    TABLE.assign(value=FAR).to_csv(fresh / "table02_results.csv", index=False)
    assert run().exit_code == 1 and "NOT reproduced: data set simulated" in run().stdout


def test_other_seeds_are_no_failed_reproduction(repository):
    _, fresh = repository
    pd.DataFrame({"run": ["p2es", "unet"], "seed": [0, 0], "commit": "x"}).to_csv(
        fresh / "table26_runs.csv", index=False
    )
    with pytest.raises(InputError, match=r"seed\(s\) 0, .*PROFILE=smoke SEEDS=0,1"):
        verify.verify("simulated", "smoke")
    (fresh / "table26_runs.csv").unlink()  # a workflow that has not come to its end: what is missing is named
    assert verify.verify("simulated", "smoke")


def test_what_is_missing_is_named(repository):
    _, fresh = repository
    (fresh / "table02_results.csv").unlink()
    with pytest.raises(InputError, match="table02_results.*missing.*make reproduce"):
        verify.verify("simulated", "smoke")
    with pytest.raises(InputError, match="no tables of data set bidmc"):
        verify.verify("bidmc", "smoke")


def test_arithmetic_that_trainings_use_is_part_of_a_machine(monkeypatch):
    for has, word in ((True, True), (False, False)):
        monkeypatch.setattr(verify, "has_cpu_bf16", lambda has=has: has)
        assert ("bfloat16" in verify.describe_machine()["instructions"]) == word
