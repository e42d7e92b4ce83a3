"""The README's tables, generated between markers from the files that the workflow wrote: no number is typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import checkout, figures_dir, home
from p2es_lib.evaluation.metrics import METRICS
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.experiments.sim_to_real import DETECTOR, MODEL, TEMPLATE
from p2es_lib.experiments.variants import VARIANTS
from p2es_lib.plots import save_table
from p2es_lib.plots.artefacts import ARTEFACTS, MINUTES_TABLE
from p2es_lib.plots.saving import markdown_table

#: Metrics of the headline, in the order of its columns, and their decimals.
HEADLINE = {"rmse": 3, "rmse_lag": 3, "pearson": 2, "pearson_lag": 2, "r_peak_f1": 2, "gaussian_frechet_distance": 2}
#: Rows that the README shows of the store's tables: table, part, what, windows, how it is put.
_STORE_ROWS = (
    ("table01_store", "preparation", "24 h of 2 leads and PPG at 250 Hz: speed", None, "signal prepared, 2 leads and PPG at 250 Hz"),
    ("table01_store", "preparation", "360 records of 10 s, 12 leads at 500 Hz, PPG simulated: speed", None,
     "signal prepared, 12 leads at 500 Hz, PPG simulated"),
    ("table01_store", "preparation", "1 h of 2 leads and PPG at 250 Hz: peak memory", None, "memory of a worker, record of 1 h"),
    ("table01_store", "preparation", "24 h of 2 leads and PPG at 250 Hz: peak memory", None, "memory of a worker, record of 24 h"),
    ("table02_written", "npy shard", "reading at random, warm", 1_000, "reading a random window from memory, store of 10³"),
    ("table02_written", "npy shard", "reading at random, warm", 1_000_000, "the same, store of 10⁶ (26 GB)"),
    ("table02_written", "npy shard", "reading at random, cold", 1_000, "reading a random window from disk, store of 10³"),
    ("table02_written", "npy shard", "reading at random, cold", 1_000_000, "the same, store of 10⁶ (26 GB)"),
    ("table02_written", "npy shard", "loader: batch of 16, cold", 1_000_000, "a training batch from disk, store of 10⁶"),
    ("table01_store", "Zarr, 1 window a chunk, uncompressed", "reading at random, warm", 100_000,
     "Zarr instead, a window per chunk: a random window from memory, store of 10⁵"),
)  # fmt: skip
#: Data set of the second main comparison: real ECG, simulated PPG.
SECOND = "ptb-xl"
#: Profile in which everything is compared, trained as long as on real recordings: what the page shows where it is there.
EVERYTHING = "wide"
NOT_YET = "*Not made with this version yet: `make reproduce {}`, then `p2es readme`.*"
#: Metrics of the table of ablations, and their decimals; less of each is better.
ABLATION_METRICS = {"crps": 5, "rmse_lag": 4, "log_spectral_distance": 2, "ppe": 4}
#: Methods of the table of notebook 14, and how they are called in the columns of the README's.
SIM_TO_REAL = {MODEL: "P2Es", TEMPLATE: "template", DETECTOR: "detector"}


def write_minutes(dataset: str, profile: str) -> pd.DataFrame:
    """Write how long each notebook took, from the executed notebooks, beside the other tables."""
    rows = []
    for path in sorted((home() / "runs" / dataset / profile / "notebooks").glob("[0-9]*.ipynb")):
        if path.stem.endswith(".failed"):
            continue
        seconds = json.loads(path.read_text())["metadata"].get("papermill", {}).get("duration")
        if seconds is not None:
            rows.append({"notebook": path.stem, "minutes": seconds / 60})
    if not rows:
        raise InputError(
            f"no executed notebooks for {dataset}, {profile}; make them with: make reproduce PROFILE={profile}"
        )
    table = pd.DataFrame(rows)
    save_table(
        table,
        figures_dir(dataset, profile),
        MINUTES_TABLE,
        f"Minutes per notebook, data set {dataset}, profile {profile}.",
    )
    return table


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; make it with 'make reproduce', then 'p2es readme'")
    return pd.read_csv(path)


def _made_of(table: pd.DataFrame) -> str:
    seeds = sorted({int(count) for count in table["seeds"]})
    return (
        f"{int(table['n_subjects'].max())} test subjects, {' or '.join(map(str, seeds))} training seed(s)"
        + " a row" * (len(seeds) > 1)
    )


def headline_section(folder: Path) -> str:
    """Headline table in Markdown: one row per method, value with its interval per metric, over all leads."""
    table = _read(folder, "table02_results")
    table = table[table["lead"] == "all"]
    columns = {}
    for metric, digits in HEADLINE.items():
        rows = table[table["metric"] == metric]
        cells = [
            f"{v:.{digits}f}" + (f" ({lo:.{digits}f} to {hi:.{digits}f})" if pd.notna(lo) else "")
            for v, lo, hi in rows[["value", "lower", "upper"]].itertuples(index=False)
        ]
        unit = METRICS[metric].unit
        columns[METRICS[metric].label + (f" ({unit})" if unit else "")] = dict(zip(rows["method"], cells, strict=True))
    shown = pd.DataFrame(columns, index=pd.Index(table["method"].unique(), name="method")).fillna("").reset_index()
    note = (
        f"{_made_of(table)}, 95 % bootstrap intervals over subjects. File: `figures/{folder.name}/table02_results.csv`."
    )
    return f"{markdown_table(shown)}\n\n{note}"


def artefact_section(folder: Path) -> str:
    """Which notebook makes what, and how long it took in the run of ``make reproduce`` that made ``folder`` (2 cores)."""
    minutes = _read(folder, MINUTES_TABLE)
    minutes = minutes.groupby(minutes["notebook"].str.split("-").str[0])["minutes"].sum()
    minutes = {name: f"{minutes[name]:.1f}" if name in minutes else "" for name in ARTEFACTS}
    rows = [
        {"notebook": f"`{name}`", "writes": text, "minutes on 2 cores": minutes[name]}
        for name, text in ARTEFACTS.items()
    ]
    return markdown_table(pd.DataFrame(rows))


def ablations_section(folder: Path) -> str:
    """What each change costs: difference to the full model with its interval, **bold** if chance does not explain it."""
    table = _read(folder, "table08_ablations")
    table["shown"] = beyond_chance(table)
    columns: dict[str, dict[str, str]] = {}
    for metric, digits in ABLATION_METRICS.items():
        cells = {}
        for row in table[table["metric"] == metric].to_dict("records"):
            cell = f"{row['difference']:+.{digits}f} ({row['lower']:+.{digits}f} to {row['upper']:+.{digits}f})"
            cells[row["method"]] = f"**{cell}**" if row["shown"] else cell
        unit = f", {METRICS[metric].unit}" if METRICS[metric].unit else ""
        columns[f"{METRICS[metric].label}{unit} (+ is worse)"] = cells
    shown = pd.DataFrame(columns, index=pd.Index(table["method"].unique(), name="changed")).fillna("").reset_index()
    note = f"{_made_of(table)}. File: `figures/{folder.name}/table08_ablations.csv`."
    return f"{markdown_table(shown)}\n\n{note}"


def limits_section(folder: Path, second: Path) -> str:
    """What P2Es does badly, in figures that a headline of averages does not show, on both data sets."""
    columns = {"simulated": _limits(folder)}
    if (second / "table21_claims.csv").is_file():
        columns["real ECG"] = _limits(second)
    return markdown_table(pd.DataFrame(columns).fillna("").rename_axis("what").reset_index())


def _limits(folder: Path) -> dict[str, str]:
    name = VARIANTS["p2es"].label
    tables = {key: _read(folder, key) for key in ("table10_agreement", "table11_uncertainty", "table12_realism")}
    agreement, uncertainty, realism = (table[table["method"] == name] for table in tables.values())
    whole = agreement[agreement["lead"] == "all"].set_index("metric")
    qrs = agreement[agreement["metric"] == "qrs_mv"]
    worst = qrs.loc[qrs["bias"].abs().idxmax()]
    value = uncertainty.set_index("metric")["value"]
    forest = realism[(realism["test"] == "random forest") & (realism["features"] == "measurements")].iloc[0]
    return {
        "a random forest tells single samples from true windows by their measurements (AUROC; 0.5: it cannot)":
            f"{forest['value']:.3f} ({forest['lower']:.3f} to {forest['upper']:.3f})",
        "true values within the 80 % band of the samples": f"{100 * value['coverage_80']:.0f} %",
        "spread of the samples over the error of their mean (calibrated: 1)": f"{value['spread_ratio']:.2f}",
        "true values within the 95 % band after conformal calibration; its width": f"{100 * value['conformal_coverage']:.0f} %; {value['conformal_width']:.2f} mV",
        "QRS amplitude of a single sample, mean error in the worst lead": f"{worst['bias']:+.2f} mV ({worst['lead']})",
        "correlation of QRS duration, QTc and QRS axis with the person's own":
            ", ".join(f"{whole.loc[metric, 'correlation']:.2f}" for metric in ("qrs_ms", "qtc_ms", "qrs_axis_deg")),
    }  # fmt: skip


def claims_section(folder: Path, second: Path) -> str:
    """Every claim with its verdict, on both data sets if the second one's tables are there."""
    tables = {"simulated": _read(folder, "table21_claims").set_index("claim")}
    if (second / "table21_claims.csv").is_file():
        tables["real ECG"] = _read(second, "table21_claims").set_index("claim")
    first = tables["simulated"]
    columns = {"source": first["level"], "claim": first.index}
    for kind, table in tables.items():
        columns |= {f"found, {kind}": table["found"], f"verdict, {kind}": table["verdict"]}
    return markdown_table(pd.DataFrame(columns).reset_index(drop=True))


def sim_to_real_section(figures: Path, profile: str) -> str:
    """What a model that saw no real record does on each real data set, averaged over its records, and where it is beaten."""
    rows, worse_rate, worse_beats = [], 0, 0
    for path in sorted(figures.glob(f"*-{profile}/table22_sim_to_real.csv")):
        table = pd.read_csv(path)
        first = table[table["method"] == table["method"].iloc[0]]
        row = {
            "data set": path.parent.name.removesuffix(f"-{profile}"),
            "records": len(first),
            "windows": first["windows"].sum(),
        }
        mean = table.groupby("method")[["r_peak_f1_lag", "heart_rate_error", "pearson_lag", "lag_ms"]].mean()
        for name, short in SIM_TO_REAL.items():
            row[f"F1, {short}"] = f"{mean.loc[name, 'r_peak_f1_lag']:.3f}"
            row[f"heart rate, {short}"] = f"{mean.loc[name, 'heart_rate_error']:.2f}"
            if name != DETECTOR:  # it draws no waveform
                row[f"r, {short}"] = f"{mean.loc[name, 'pearson_lag']:.2f}".replace("nan", "")
        row[f"lag (ms), {' / '.join(SIM_TO_REAL.values())}"] = " / ".join(
            f"{mean.loc[name, 'lag_ms']:.0f}" for name in SIM_TO_REAL
        )
        rows.append(row)
        worse_rate += mean.loc[MODEL, "heart_rate_error"] > mean.loc[TEMPLATE, "heart_rate_error"]
        worse_beats += mean.loc[MODEL, "r_peak_f1_lag"] < mean.loc[DETECTOR, "r_peak_f1_lag"]
    if not rows:
        raise InputError(
            f"{figures}: no table22_sim_to_real.csv for profile {profile}; make it with: make reproduce DATASET=bidmc"
        )
    alone, n = sum(row["records"] == 1 for row in rows), len(rows)
    note = (
        f"P2Es's error of the heart rate exceeds the template's in {worse_rate} of {n} data sets, and its F1 lies below the detector's in "
        f"{worse_beats} of {n}. Rows of a single record, which say how it went with one person: {alone} of {n}."
    )
    return f"{markdown_table(pd.DataFrame(rows))}\n\n{note}"


def store_section() -> str:
    """What preparing and the store cost, from the table that ``p2es data measure`` wrote."""
    folder, rows = checkout() / "figures" / "store", []
    for name, part, what, n_windows, words in _STORE_ROWS:
        table = _read(folder, name)
        found = table[(table["part"] == part) & (table["what"] == what)]
        row = (found if n_windows is None else found[found["n_windows"] == n_windows]).iloc[0]
        than = f"{row['ratio']:.3g} x {row['reference']}".replace(" of 1 h", " that of 1 h")
        than = "" if row["reference"] == "recording itself" else than
        rows.append({"what": words, "measured": f"{row['value']:.3g} {row['unit']}", "against": than})
    return markdown_table(pd.DataFrame(rows))


def filled(text: str, folder: Path, profile: str = "quick") -> str:
    """README text with every generated section renewed.

    From the tables in ``folder`` (of the simulated cohort), and from those that the repository holds of the store, of
    PTB-XL and of other real recordings with this profile, and of the simulated cohort with everything compared. Where the
    latter is there, all but what ``folder`` is there to show comes from it: it has the longer trainings, and the variants
    that some claims need.
    """
    figures = checkout() / "figures"
    second, everything = figures / f"{SECOND}-{profile}", figures / f"simulated-{EVERYTHING}"
    second_is_there, all_there = ((path / "table21_claims.csv").is_file() for path in (second, everything))
    best = everything if all_there else folder
    sections = {
        "headline": headline_section(everything) if all_there else NOT_YET.format(f"PROFILE={EVERYTHING}"),
        "headline-real": headline_section(second) if second_is_there else NOT_YET.format(f"DATASET={SECOND}"),
        "quick": headline_section(folder),
        "ablations": ablations_section(best),
        "artefacts": artefact_section(folder),
        "store": store_section(),
        "limits": limits_section(best, second),
        "claims": claims_section(best, second),
        "sim-to-real": sim_to_real_section(figures, profile),
    }
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise InputError(f"README.md: the markers {begin} and {end} are missing")
        text = pattern.sub(lambda _, b=begin, s=section, e=end: f"{b}\n{s}\n{e}", text)
    return text
