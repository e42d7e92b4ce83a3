"""Tables and sentences of README.md and the book's pages: filled between markers, no number typed by hand.

Markers ``<!-- name:begin -->`` ... ``<!-- name:end -->`` are named as in :data:`SECTIONS`; words are in
``book/sections.toml``.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import checkout, figures_dir, home
from p2es_lib.evaluation.metrics import METRICS
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.experiments.claims import UNTESTED
from p2es_lib.experiments.reference_results import FLOOR, PASTED
from p2es_lib.experiments.sim_to_real import DETECTOR, MODEL, TEMPLATE
from p2es_lib.experiments.variants import LEADS_GIVEN, MORE_STEPS, VARIANTS
from p2es_lib.plots.saving import ARTEFACTS, MINUTES_TABLE, markdown_table, save_table

#: Folders of figures: everything compared; what `make reproduce` makes; real ECG with simulated PPG; the store; doubts.
WIDE, QUICK, REAL, STORE, FLAG = "simulated-wide", "simulated-quick", "ptb-xl-quick", "store", "flag"
#: Metrics of the headline, of the table of ablations (less is better) and of the table of notebook 14; their decimals.
HEADLINE = {"rmse": 3, "rmse_lag": 3, "pearson": 2, "pearson_lag": 2, "r_peak_f1": 2, "gaussian_frechet_distance": 2}
ABLATION_METRICS = {"crps": 5, "rmse_lag": 4, "log_spectral_distance": 2, "ppe": 4}
SIM_TO_REAL_METRICS = {"r_peak_f1_lag": ("F1", 3), "heart_rate_error": ("heart rate", 2), "pearson_lag": ("r", 2)}
#: Methods of the table of notebook 14, and how the columns call them.
SIM_TO_REAL = {MODEL: "P2Es", TEMPLATE: "template", DETECTOR: "detector"}
#: Measurements whose correlation with the person's own is told.
SHAPE = ["qrs_ms", "qtc_ms", "qrs_axis_deg"]


def write_minutes(dataset: str, profile: str) -> pd.DataFrame:
    """Write beside the other tables how long each notebook took; an :class:`InputError` if none was executed."""
    rows = []
    for path in sorted((home() / "runs" / dataset / profile / "notebooks").glob("[0-9]*.ipynb")):
        seconds = json.loads(path.read_text())["metadata"].get("papermill", {}).get("duration")
        if seconds is not None and not path.stem.endswith(".failed"):
            rows.append({"notebook": path.stem, "minutes": seconds / 60})
    if not rows:
        raise InputError(f"no executed notebooks for {dataset}, {profile}; run: make reproduce PROFILE={profile}")
    table = pd.DataFrame(rows)
    caption = f"Minutes per notebook, data set {dataset}, profile {profile}."
    save_table(table, figures_dir(dataset, profile), MINUTES_TABLE, caption)
    return table


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: missing; make it with 'make reproduce', then 'p2es readme'")
    return pd.read_csv(path)


def _words(name: str):
    return tomllib.loads((checkout() / "book" / "sections.toml").read_text(encoding="utf-8"))[name]


def _by_metric(table: pd.DataFrame, metrics: Mapping[str, int], cell: Callable[[dict, int], str], source: str) -> str:
    """A row per method and a column per metric, with a line below that says what the table is made of."""
    columns = {}
    for metric, digits in metrics.items():
        label = METRICS[metric].label + (f" ({METRICS[metric].unit})" if METRICS[metric].unit else "")
        rows = table[table["metric"] == metric].to_dict("records")
        columns[label] = {row["method"]: cell(row, digits) for row in rows}
    shown = pd.DataFrame(columns, index=pd.Index(table["method"].unique(), name="method")).fillna("").reset_index()
    seeds = " or ".join(map(str, sorted({int(count) for count in table["seeds"]})))
    people = f"{int(table['n_subjects'].max())} test subjects, {seeds} training(s) a row"
    return f"{markdown_table(shown)}\n\n{people}, 95 % bootstrap intervals over subjects. File: `figures/{source}.csv`."


def verdict_section(figures: Path) -> str:
    """The seven lines of the front page; what a reference brings is measured in ``quick``."""
    wide, p2es = figures / WIDE, VARIANTS["p2es"].label
    table = _read(wide, "table02_results")
    table = table[table["lead"] == "all"].set_index(["metric", "method"])["value"]
    rmse, f1, ours = table["rmse"], table["r_peak_f1"], f"{p2es}, mean of 16 samples"
    templates = [name for name in rmse.index if "template" in name]
    agreement = _read(wide, "table10_agreement").query("method == @p2es and lead == 'all'").set_index("metric")
    by_time = _read(wide, "table24_error_by_time").query("variant == 'no_deblurring' and stage == 'both stages'")
    numbers = {"p2es": rmse[ours], "unet": rmse[VARIANTS["unet"].label], "floor": rmse["Irreducible error"]}
    numbers |= {"template_low": rmse[templates].min(), "template_high": rmse[templates].max()}
    numbers |= {"f1": f1[ours], "template_f1": f1[templates].max()} | dict(agreement.loc[SHAPE, "correlation"])
    numbers["ratio"] = by_time.set_index("t").loc[0.1, "ratio"]
    blur = {"few": ("table08_ablations", "no_blur"), "more": ("table27_more_steps", f"no_blur_steps_{MORE_STEPS}")}
    for key, (name, variant) in blur.items():
        row = _read(wide, name).set_index(["variant", "metric"]).loc[(variant, "crps")]
        numbers[key] = 100 * row["difference"] / (row["value"] - row["difference"])
    table = _read(figures / QUICK, "table28_references").query("metric == 'rmse' and session == 'same'")
    table = table.set_index(["method", "regime"])["value"]
    numbers |= {f"reference_{regime}": table[p2es, regime] for regime in ("I", "all")}
    numbers |= {f"pasted_{regime}": table[PASTED, regime] for regime in ("I", "all")} | {
        "floor_all": table[FLOOR, "all"]
    }
    return _words("verdict").format(**numbers).strip()


def _interval(row: dict, name: str, form: str) -> str:
    """Value of a column and its bounds, each in a number format; the value alone where there are no bounds."""
    return f"{row[name]:{form}} ({row['lower']:{form}} to {row['upper']:{form}})".replace(" (nan to nan)", "")


def headline_section(folder: Path) -> str:
    """Headline table: one row per method, value with its interval per metric, over all leads."""
    table = _read(folder, "table02_results").query("lead == 'all'")
    source = f"{folder.name}/table02_results"
    return _by_metric(table, HEADLINE, lambda row, n: _interval(row, "value", f".{n}f"), source)


def references_section(folder: Path) -> str:
    """What a reference buys: RMSE of the estimated mean and CRPS, a row per reference, a column per method."""
    table = _read(folder, "table28_references")
    seeds, people = sorted({int(count) for count in table["seeds"]}), int(table["n_subjects"].max())
    table["leads"] = table["regime"].map(LEADS_GIVEN)
    table["reference"] = table["leads"] + table["session"].map(
        lambda name: f", {name} session", na_action="ignore"
    ).fillna("")
    parts = table[table["metric"].isin(["rmse", "crps"])].pivot(
        index=["reference", "method"], columns="metric", values="value"
    )
    shown = (parts["rmse"].map("{:.3f}".format) + " / " + parts["crps"].map("{:.4f}".format)).unstack()
    order = {"index": table["reference"].unique(), "columns": table["method"].unique()}
    note = (
        f"RMSE of the estimated mean / CRPS (mV); {people} test subjects, {' or '.join(map(str, seeds))} training(s) "
    )
    note += f"a column. File: `figures/{folder.name}/table28_references.csv`, with intervals."
    return f"{markdown_table(shown.reindex(**order).fillna('').reset_index())}\n\n{note}"


def ablations_section(folder: Path) -> str:
    """What each change costs: difference to the full model and its interval, **bold** if chance does not explain it."""

    def cell(row: dict, n: int) -> str:
        return "{0}{1}{0}".format("**" if row["shown"] else "", _interval(row, "difference", f"+.{n}f"))

    table = _read(folder, "table08_ablations")
    table["shown"] = beyond_chance(table)
    return _by_metric(table, ABLATION_METRICS, cell, f"{folder.name}/table08_ablations")


def limits_section(folder: Path, second: Path) -> str:
    """What P2Es does badly, in figures that a headline of averages does not show, on both data sets."""
    columns = {}
    for kind, place in (("simulated", folder), ("real ECG", second)):
        tables = [_read(place, name) for name in ("table10_agreement", "table11_uncertainty", "table12_realism")]
        agreement, uncertainty, realism = (table[table["method"] == VARIANTS["p2es"].label] for table in tables)
        own = agreement[agreement["lead"] == "all"].set_index("metric").loc[SHAPE, "correlation"]
        value = uncertainty.set_index("metric")["value"]
        forest = realism.query("test == 'random forest' and features == 'measurements'").iloc[0]
        worst = agreement.query("metric == 'qrs_mv'").sort_values("bias", key=abs).iloc[-1]
        numbers = {
            "forest": _interval(forest, "value", ".3f"),
            "coverage": f"{100 * value['coverage_80']:.0f} %",
            "spread": f"{value['spread_ratio']:.2f}",
            "conformal": f"{100 * value['conformal_coverage']:.0f} %; {value['conformal_width']:.2f} mV",
            "qrs": f"{worst['bias']:+.2f} mV ({worst['lead']})",
            "correlation": ", ".join(f"{r:.2f}" for r in own),
        }
        columns[kind] = {words: numbers[key] for key, words in _words("limits").items()}
    return markdown_table(pd.DataFrame(columns).rename_axis("what").reset_index())


def claims_section(folder: Path, second: Path) -> str:
    """One row per claim: both verdicts, one sentence (an :class:`InputError` if there is none), the numbers folded."""
    real, sentences = _read(second, "table21_claims").set_index("claim")[["found", "verdict"]], _words("claims")
    lines = ["| claim | simulated | real ECG | from |", "|:--|:--|:--|:--|"]
    for row in _read(folder, "table21_claims").fillna("").to_dict("records"):
        claim, verdict = row["claim"], row["verdict"]
        of_real = dict(real.loc[claim]) if claim in real.index else {"found": "", "verdict": UNTESTED}
        if verdict not in sentences.get(claim, {}):
            raise InputError(f"book/sections.toml: no sentence for '{claim}', verdict '{verdict}'; write one")
        numbers = {"Tested by": row["tested by"], "Simulated": row["found"], "Real ECG": of_real["found"]}
        folded = "<br>".join(f"<b>{name}:</b> {text}" for name, text in numbers.items() if text).replace("|", "\\|")
        words = f"**{claim}**<br>{sentences[claim][verdict]}<details><summary>numbers</summary>{folded}</details>"
        lines.append(f"| {words} | {verdict} | {of_real['verdict']} | {row['level']} |")
    return "\n".join(lines)


def sim_to_real_section(figures: Path, profile: str = "quick") -> str:
    """What a model that saw no real record does on real data (InputError: no table), by record; where it is beaten."""
    rows, worse_rate, worse_beats = [], 0, 0
    for path in sorted(figures.glob(f"*-{profile}/table22_sim_to_real.csv")):
        table = pd.read_csv(path)
        first = table[table["method"] == table["method"].iloc[0]]
        name = path.parent.name.removesuffix(f"-{profile}")
        row = {"data set": name, "records": len(first), "windows": first["windows"].sum()}
        mean = table.groupby("method")[[*SIM_TO_REAL_METRICS, "lag_ms"]].mean()
        for method, short in SIM_TO_REAL.items():
            for metric, (words, n) in SIM_TO_REAL_METRICS.items():
                if (method, metric) != (DETECTOR, "pearson_lag"):  # it draws no waveform
                    row[f"{words}, {short}"] = f"{mean.loc[method, metric]:.{n}f}".replace("nan", "")
        lags = " / ".join(f"{mean.loc[method, 'lag_ms']:.0f}" for method in SIM_TO_REAL)
        row[f"lag (ms), {' / '.join(SIM_TO_REAL.values())}"] = lags
        rows.append(row)
        worse_rate += mean.loc[MODEL, "heart_rate_error"] > mean.loc[TEMPLATE, "heart_rate_error"]
        worse_beats += mean.loc[MODEL, "r_peak_f1_lag"] < mean.loc[DETECTOR, "r_peak_f1_lag"]
    if not rows:
        raise InputError(f"{figures}: no table22_sim_to_real.csv of {profile}; make it: make reproduce DATASET=bidmc")
    numbers = {"n": len(rows), "alone": sum(row["records"] == 1 for row in rows)}
    note = _words("sim-to-real").format(**numbers, worse_rate=worse_rate, worse_beats=worse_beats)
    return f"{markdown_table(pd.DataFrame(rows))}\n\n{note}"


def artefact_section(folder: Path) -> str:
    """Which notebook makes what, and how long it took in the run that made ``folder`` (2 cores)."""
    minutes = _read(folder, MINUTES_TABLE)
    minutes = minutes.groupby(minutes["notebook"].str.split("-").str[0])["minutes"].sum().map("{:.1f}".format)
    rows = [f"| `{name}` | {text} | {minutes.get(name, '')} |" for name, text in ARTEFACTS.items()]
    return "\n".join(["| notebook | writes | minutes on 2 cores |", "|:--|:--|--:|", *rows])


def store_section(folder: Path) -> str:
    """What preparing and the store cost, from the tables that ``p2es data measure`` wrote."""
    rows = []
    for name, part, what, n_windows, words in _words("store"):
        table = _read(folder, name)
        found = table[(table["part"] == part) & (table["what"] == what)]
        row = (found[found["n_windows"] == n_windows] if n_windows else found).iloc[0]
        than = f"{row['ratio']:.3g} x {row['reference']}".replace(" of 1 h", " that of 1 h")
        than = "" if row["reference"] == "recording itself" else than
        rows.append({"what": words, "measured": f"{row['value']:.3g} {row['unit']}", "against": than})
    return markdown_table(pd.DataFrame(rows))


def flag_section(folder: Path) -> str:
    """How well windows in doubt are those that are bad, from the table that ``tools/measure_flag.py`` wrote."""
    return markdown_table(_read(folder, "table01_flag"), ".2f")


#: What stands between the markers of each name, from the folder of all figures.
SECTIONS: dict[str, Callable[[Path], str]] = {
    "verdict": verdict_section,
    "headline": lambda figures: headline_section(figures / WIDE),
    "headline-real": lambda figures: headline_section(figures / REAL),
    "quick": lambda figures: headline_section(figures / QUICK),
    "references": lambda figures: references_section(figures / QUICK),
    "ablations": lambda figures: ablations_section(figures / WIDE),
    "limits": lambda figures: limits_section(figures / WIDE, figures / REAL),
    "claims": lambda figures: claims_section(figures / WIDE, figures / REAL),
    "sim-to-real": sim_to_real_section,
    "artefacts": lambda figures: artefact_section(figures / QUICK),
    "store": lambda figures: store_section(figures / STORE),
    "flag": lambda figures: flag_section(figures / FLAG),
}


def fill(pages: Mapping[Path, str], sections: Mapping[str, str]) -> dict[Path, str]:
    """Texts of pages with what stands between the markers of each section renewed; an error if no page has them."""
    pages = dict(pages)
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{begin}.*?{end}", re.DOTALL)
        if not any(pattern.search(text) for text in pages.values()):
            raise InputError(f"README.md and book/pages: no page has the markers {begin} and {end}")
        new = f"{begin}\n{section}\n{end}"
        pages = {path: pattern.sub(lambda _, new=new: new, text) for path, text in pages.items()}
    return pages


def read_pages() -> dict[Path, str]:
    """Path and text of README.md and of every page in book/pages."""
    paths = [checkout() / "README.md", *sorted((checkout() / "book" / "pages").glob("*.md"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def filled_pages(figures: Path | None = None) -> dict[Path, str]:
    """README.md and the book's pages with every section renewed from ``figures`` (default: the repository's)."""
    figures = figures or checkout() / "figures"
    return fill(read_pages(), {name: section(figures) for name, section in SECTIONS.items()})
