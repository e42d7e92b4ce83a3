"""Every statement about P2Es that we know of, how it is tested here, and what came out.

Levels: A, the paper's abstract; B, a summary of its full text, probably right; C, another one, which contradicts A and
B in places. Each test gives a number in words, from the notebooks' tables, and a verdict, by a rule in the test.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.summary import beyond_chance
from p2es_lib.experiments.variants import FLOORS, GIVEN_REFERENCES, LEADS_GIVEN, MORE_STEPS, VARIANTS

SUPPORTED, NOT, CONTRADICTED, UNTESTED = "supported", "not supported", "contradicted", "cannot be tested here"
#: Share of the full model's value that a difference must have to speak for or against anything.
RELEVANT = 0.01
#: Trainings that a comparison of trained models asks for: intervals are over people, and another training differs.
SEEDS_ASKED = 3
#: Weights, and operations per second of signal, that a phone of today does not notice.
MOBILE_PARAMETERS, MOBILE_GFLOP_PER_S = 5e6, 1.0

Finding = tuple[str, str]  # the number in words, the verdict


class NotMeasured(InputError):
    """A data set lacks what a claim is about: too few leads for Einthoven's law, no QRS that could be measured."""


class Tables:
    """The tables of one run of the workflow, read as they are asked for."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def __call__(self, name: str) -> pd.DataFrame:
        """One table, such as ``table02_results``."""
        if not self.has(name):
            path = self.folder / f"{name}.csv"
            raise InputError(f"{path}: missing; it is made by the notebooks before this one (make reproduce)")
        return pd.read_csv(self.folder / f"{name}.csv")

    def has(self, name: str) -> bool:
        """Whether the run wrote this table."""
        return (self.folder / f"{name}.csv").is_file()

    def result(self, method: str, metric: str) -> pd.Series:
        """Row of the headline table, all leads; ``method``: how its label begins."""
        table = self("table02_results")
        rows = table[(table["lead"] == "all") & (table["metric"] == metric) & table["method"].str.startswith(method)]
        if rows.empty:
            raise NotMeasured(f"no {metric} of {method} on this data set")
        return rows.iloc[0]


@dataclass(frozen=True)
class Claim:
    """One statement: where it comes from, what it says, how it is tested, and the test."""

    level: str
    statement: str
    how: str
    test: Callable[[Tables], Finding]


def _interval(row, digits: int = 4) -> str:
    return f"{row['difference']:+.{digits}f} ({row['lower']:+.{digits}f} to {row['upper']:+.{digits}f})"


def _clear(rows: pd.DataFrame, sign: int, share: float = 0.0) -> pd.Series:
    """Which differences have this sign beyond chance, in each training, and exceed a share of the full value."""
    size, full = sign * rows["difference"], (rows["value"] - rows["difference"]).abs()
    return beyond_chance(rows) & (size > share * full)


def _verdict(tables: list[pd.DataFrame], better: int) -> str:
    """Verdict from tables of differences, of which those of sign ``better`` (1 or -1) speak for a claim: supported if
    each table has a relevant one for it and none a clear one against it, contradicted the other way round.
    """
    if min(rows["seeds"].min() for rows in tables) < SEEDS_ASKED:
        return NOT
    for sign, verdict in ((better, SUPPORTED), (-better, CONTRADICTED)):
        against = any(_clear(rows, -sign).any() for rows in tables)
        if all(_clear(rows, sign, RELEVANT).any() for rows in tables) and not against:
            return verdict
    return NOT


def _better_than_baselines(tables: Tables) -> Finding:
    """Supported if the error (of the mean of samples) is lower than every other method's, clearly and by 1 %, as it is
    and after the lag. Contradicted if some method is better in both. Neither by fewer than three trainings.
    """
    table = tables("table20_against_methods")
    table = table[table["about"].isin(["baseline", "reference"])]
    # Of beats that are pasted those of the person are for :func:`_with_reference`.
    table = table[~table["variant"].isin([*FLOORS, "transfer"]) & ~table["variant"].str.startswith("pasted_")]
    better, worse, parts = set(table["variant"]), set(table["variant"]), []
    for metric, name in {"rmse": "RMSE", "rmse_lag": "RMSE after lag", "crps": "CRPS"}.items():
        rows = table[table["metric"] == metric]
        if metric != "crps":  # of which an answer without uncertainty has no good one
            better &= set(rows.loc[_clear(rows, 1, RELEVANT), "variant"])  # the other method minus P2Es
            worse &= set(rows.loc[_clear(rows, -1, RELEVANT), "variant"])
        for _, closest in rows.nsmallest(1, "difference").iterrows():
            parts.append(f"{name}, closest: {closest['method']} minus P2Es {_interval(closest)} mV")
    n_methods = table["variant"].nunique()
    text = f"clearly better than {len(better)} of {n_methods} methods in both errors, clearly worse than {len(worse)}; "
    text += "; ".join(parts)
    if len(better) == n_methods and table["seeds"].min() >= SEEDS_ASKED:
        return text, SUPPORTED
    return text, CONTRADICTED if (table.loc[table["variant"].isin(worse), "seeds"] >= SEEDS_ASKED).any() else NOT


def _innovation(variant: str) -> Callable[[Tables], Finding]:
    """Supported if leaving it out hurts the CRPS or the spectrum and helps neither (:func:`_verdict`), with the usual
    steps of the sampler and with more, where that was tried: what is lost with few steps only is time.
    """

    def test(tables: Tables) -> Finding:
        found = {"without it": _without(tables, "table08_ablations", variant)}
        more = f"{variant}_steps_{MORE_STEPS}"
        if more in VARIANTS and tables.has("table27_more_steps"):
            found[f"with {MORE_STEPS} steps"] = _without(tables, "table27_more_steps", more)
        found = {words: rows for words, rows in found.items() if not rows.empty}
        if not found:
            raise NotMeasured(f"this profile does not train that variant ({VARIANTS[variant].label})")
        parts = []
        for words, rows in found.items():
            crps, spectrum = _interval(rows.loc["crps"], 5), _interval(rows.loc["log_spectral_distance"], 2)
            parts.append(f"{words}: CRPS {crps} mV, log-spectral distance {spectrum} dB")
        text, n = "; ".join(parts) + _by_time(tables, variant), int(min(rows["seeds"].min() for rows in found.values()))
        if n < SEEDS_ASKED:  # no verdict
            text += f"; {n} training{'s' if n > 1 else ''}, {SEEDS_ASKED} are asked for"
        return text, _verdict(list(found.values()), better=1)

    return test


def _with_reference(regime: str, *variants: str) -> Callable[[Tables], Finding]:
    """Supported if the CRPS of all these variants is larger than that of P2Es with the same reference, clearly and by
    1 %, in both sessions. Contradicted if that of one is smaller in both. Neither by fewer than three trainings.
    """

    def test(tables: Tables) -> Finding:
        table = tables("table33_others_by_regime") if tables.has("table33_others_by_regime") else pd.DataFrame()
        labels = [VARIANTS[variant].label for variant in variants]
        rows = table[table["method"].isin(labels) & (table["regime"] == regime)] if len(table) else table
        if rows.empty:
            raise NotMeasured("nothing is compared with this reference on this data set")
        parts = []
        for session, of_session in rows.groupby("session", sort=False):
            closest = of_session.loc[of_session["difference"].idxmin()]
            parts.append(f"{session} session, closest: {closest['method']} minus P2Es {_interval(closest)} mV")
        text, better = f"CRPS, {'; '.join(parts)}", _clear(rows, 1, RELEVANT).all()
        worse = _clear(rows, -1, RELEVANT).groupby(rows["method"]).all().any()
        if (n := int(rows["seeds"].min())) < SEEDS_ASKED:
            return f"{text}; {n} training{'s' if n > 1 else ''}, {SEEDS_ASKED} are asked for", NOT
        return text, SUPPORTED if better else CONTRADICTED if worse else NOT

    return test


def _without(tables: Tables, name: str, variant: str) -> pd.DataFrame:
    """Rows of one variant in a table of differences, by metric: of all samples as one answer, and of a single one."""
    table = tables(name)
    wanted = (table["variant"] == variant) & table["metric"].isin(["crps", "log_spectral_distance"])
    return table[wanted].set_index("metric")


def _by_time(tables: Tables, variant: str) -> str:
    """What leaving it out does to one call of the denoiser at two times, if the table says; no part of the verdict."""
    table = tables("table24_error_by_time") if tables.has("table24_error_by_time") else None
    if table is None or variant not in set(table["variant"]):
        return ""
    rows = table[(table["variant"] == variant) & (table["stage"] == "both stages")].set_index("t")
    words = "{ratio:.2f} ({lower:.2f} to {upper:.2f}) at t = {t:g}"
    parts = (words.format(t=t, **rows.loc[t, ["ratio", "lower", "upper"]]) for t in (0.7, 0.1))
    return f"; squared error of one estimate times {' and '.join(parts)} (first training)"


def _hybrid(tables: Tables) -> Finding:
    """Supported if both losses together make the CRPS or the spectrum better, and neither worse; as above."""
    text, _ = _innovation("adversarial")(tables)  # what changes when they are there, not without them
    verdict = _verdict([_without(tables, "table08_ablations", "adversarial")], better=-1)
    return text.replace("without it", "with both"), verdict


def _demographics(tables: Tables) -> Finding:
    """Supported if wrong age and sex make the error of the same trained model larger: beyond chance, and by 1 %."""
    table = tables("table16_demographics")
    rows = table[(table["variant"] == "wrong_demographics") & (table["metric"] == "rmse_lag")]
    if rows.empty:
        raise NotMeasured("the profile does not try wrong age and sex")
    text = f"wrong age and sex: RMSE after lag {_interval(rows.iloc[0], 5)} mV"
    return text, SUPPORTED if _clear(rows, 1, RELEVANT).all() else NOT


def _lead_relations(tables: Tables) -> Finding:
    """Supported if Einthoven's and Goldberger's equations hold to rounding."""
    residual = tables.result(VARIANTS["p2es"].label, "einthoven_residual")["value"]
    return f"Einthoven residual {residual:.1e} mV", SUPPORTED if residual < 1e-5 else NOT


def _clinically_valid(tables: Tables) -> Finding:
    """Supported if QRS, QTc and axis scatter less around the truth than people differ from each other."""
    table = tables("table10_agreement")
    rows = table[(table["method"] == VARIANTS["p2es"].label) & (table["lead"] == "all")].set_index("metric")
    rows = rows.reindex(["qrs_ms", "qtc_ms", "qrs_axis_deg"]).dropna(subset=["sd"])
    if rows.empty:
        raise NotMeasured("none of QRS, QTc and axis could be measured")
    ratio = rows["sd"] / rows["sd_true"]
    parts = [f"{name}: SD of the difference {value:.2f} times that between people" for name, value in ratio.items()]
    return ", ".join(parts), SUPPORTED if ratio.max() < 1 else NOT


def _diagnostic(tables: Tables) -> Finding:
    """Supported if some diagnosis is told better from the translated ECG than from PPG, age and sex."""
    if not tables.has("table13_diagnostic"):
        raise NotMeasured("no diagnosis that enough people have")
    table = tables("table13_diagnostic")
    rows = table[(table["fit_on"] == "true ECG") & (table["tried_on"] == "translated ECG")]
    gains = rows[rows["gain_lower"] > 0]
    text = "; ".join(f"{row.label}: AUROC {row.auroc:.2f}, gain {row.gain:+.2f}" for row in rows.itertuples())
    return text, SUPPORTED if len(gains) else NOT


def _light(tables: Tables) -> Finding:
    """Supported if parameters and operations per second of signal are what a phone does not notice."""
    rows = tables("table18_efficiency").set_index("method")
    row = rows[rows.index.str.startswith("P2Es")].iloc[0]
    parameters, per_s = row["parameters"], row["GFLOP per 10 s"] / 10
    # No milliseconds here: this table is the same wherever the same results come out.
    text = f"{parameters / 1e6:.2f} M parameters, {per_s:.3f} GFLOP per second of signal (times: table18_efficiency)"
    return text, SUPPORTED if parameters <= MOBILE_PARAMETERS and per_s <= MOBILE_GFLOP_PER_S else NOT


def _untested(tables: Tables) -> Finding:
    """Never."""
    raise NotMeasured("which recordings, and how 12 leads came from them, is not known")


def _much_compute(tables: Tables) -> Finding:
    """The opposite of being light."""
    text, verdict = _light(tables)
    return text, CONTRADICTED if verdict == SUPPORTED else SUPPORTED


def _preserved(metric: str, what: str, largest_bias_mv=None, duration: str = "") -> Callable[[Tables], Finding]:
    """Supported if single samples keep a measurement in every lead: the bias is small (at most half of the spread
    between people, if no limit is given), and the difference to the truth scatters less than people do, as the average
    for everybody does. ``duration``: of all leads together, with a bias of at most 10 ms.
    """

    def test(tables: Tables) -> Finding:
        table = tables("table10_agreement")
        rows = table[(table["method"] == VARIANTS["p2es"].label) & table["bias"].notna()]
        leads, whole = rows[rows["metric"] == metric], rows[rows["metric"] == duration]
        if leads.empty or (duration and whole.empty):
            raise NotMeasured(f"no {what} could be measured")
        worst = leads.loc[leads["bias"].abs().idxmax()]
        ratio = leads["sd"] / leads["sd_true"]
        text = f"{what}: bias at most {worst['bias']:+.3f} mV ({worst['lead']}), SD of the difference "
        text += f"{ratio.min():.2f} to {ratio.max():.2f} times that between people, "
        text += f"correlation {leads['correlation'].min():.2f} to {leads['correlation'].max():.2f}"
        limit = leads["sd_true"] / 2 if largest_bias_mv is None else largest_bias_mv
        kept = (leads["bias"].abs() <= limit).all() and (ratio < 1).all()
        for row in whole.to_dict("records"):
            text += f"; QRS duration: bias {row['bias']:+.1f} ms, SD {row['sd'] / row['sd_true']:.2f} times, "
            text += f"correlation {row['correlation']:.2f}"
            kept &= abs(row["bias"]) <= 10 and row["sd"] < row["sd_true"]
        return text, SUPPORTED if kept else NOT

    return test


def _ssim(tables: Tables) -> Finding:
    """Supported above 0.98."""
    value = tables.result(VARIANTS["p2es"].label, "ssim")
    text = f"SSIM {value['value']:.3f} ({value['lower']:.3f} to {value['upper']:.3f})"
    with contextlib.suppress(NotMeasured):  # real people, of whom nobody knows that average
        floor = tables.result("Irreducible error", "ssim")["value"]
        text += f"; the average over all that PPG, age and sex leave open has {floor:.3f}"
    return text, SUPPORTED if value["lower"] > 0.98 else NOT


def _peak_error(tables: Tables) -> Finding:
    """Supported if the peak-to-peak error of a single sample, in mV or relative, is at most 0.034."""
    method = f"{VARIANTS['p2es'].label}, single"
    absolute, relative = (tables.result(method, name)["value"] for name in ("ppe", "ppe_relative"))
    text = f"{absolute:.3f} mV, relative {relative:.3f} (which of them is meant is not known)"
    return text, SUPPORTED if min(absolute, relative) <= 0.034 else NOT


def _eighteen_percent(tables: Tables) -> Finding:
    """Supported if the error of the mean of samples is 18 % below that of the best other method."""
    table = tables("table02_results")
    rows = table[(table["lead"] == "all") & (table["metric"] == "rmse")].set_index("method")["value"]
    p2es, names = VARIANTS["p2es"].label, rows.index.str
    ours = rows[names.startswith(f"{p2es}, mean of")].iloc[0]
    others = rows[~(names.startswith((p2es, "Irreducible", "Own beat")) | names.contains("single sample"))]
    gain = 100 * (1 - ours / others.min())
    side = "below" if gain > 0 else "above"
    text = f"RMSE {abs(gain):.1f} % {side} that of the best other method ({others.idxmin()})"
    return text, SUPPORTED if gain >= 18 else NOT


def _noise(tables: Tables) -> Finding:
    """Supported if most disturbances add to the error at the lowest ratio, beyond chance (95 % interval, paired)."""
    table = tables("table17_noise")
    rows = table[(table["method"] == VARIANTS["p2es"].label) & (table["windows"] == "all windows")]
    by_snr = rows.groupby("snr_db")["rmse_lag"].mean()
    low, high = by_snr.index.min(), by_snr.index.max()
    worst = rows[rows["snr_db"] == low].set_index("disturbance")
    clear = worst.index[worst["rmse_lag_added_lower"] > 0]
    text = f"RMSE after lag {by_snr[high]:.3f} mV at {high} dB, {by_snr[low]:.3f} mV at {low} dB; "
    text += f"clearly more with {', '.join(clear) or 'none'} ({len(clear)} of {len(worst)})"
    return text, SUPPORTED if 2 * len(clear) > len(worst) else NOT


#: What is asked again of each kind of reference: in which words, and of which variants.
_AGAIN = {
    "better than baselines": tuple(name for name in GIVEN_REFERENCES if VARIANTS[name].about == "baseline"),
    "frequency-domain blurring": ("no_blur",),
    "frequency deblurring": ("no_deblurring",),
    "affinity matrices": ("no_affinity",),
}

CLAIMS: tuple[Claim, ...] = (
    Claim("A", "better than baselines in 12-lead reconstruction",
          "RMSE against every other method, with and without lag", _better_than_baselines),
    Claim("A", "frequency-domain blurring before the noise", "trained without the blur; usual steps, and more",
          _innovation("no_blur")),
    Claim("A", "frequency deblurring in the reverse process", "trained without it; usual steps, and more",
          _innovation("no_deblurring")),
    Claim("A", "temporal multi-scale generation", "trained with a single scale; usual steps, and more",
          _innovation("single_scale")),
    Claim("A", "affinity matrices from KNN-based clustering", "trained without lead affinity; usual steps, and more",
          _innovation("no_affinity")),
    *(
        Claim("A", f"{what}, {LEADS_GIVEN[regime]} known", "CRPS, same reference", _with_reference(regime, *names))
        for regime in ("I", "all") for what, names in _AGAIN.items()
    ),
    Claim("A", "demographic-specific translation", "wrong age and sex at test time", _demographics),
    Claim("A", "inter-lead constraints", "Einthoven's and Goldberger's equations", _lead_relations),
    Claim("A", "clinically valid", "intervals and axis against the spread between people", _clinically_valid),
    Claim("A", "clinically valid: diagnoses", "classifier on translated ECG against PPG, age and sex", _diagnostic),
    Claim("B", "light enough for mobile devices", "parameters, operations", _light),
    Claim("B", "QRS morphology preserved", "QRS of single samples",
          _preserved("qrs_mv", "QRS amplitude", duration="qrs_ms")),
    Claim("B", "ST segments preserved", "ST level of single samples",
          _preserved("st60_mv", "ST level", largest_bias_mv=0.05)),
    Claim("B", "MIMIC II-IV", "", _untested),
    Claim("C", "hybrid of diffusion and GAN, perceptual and adversarial loss", "trained with both losses besides",
          _hybrid),
    Claim("C", "peak-to-peak error 0.034", "single samples", _peak_error),
    Claim("C", "18 % better than others", "RMSE against the best other method", _eighteen_percent),
    Claim("C", "SSIM above 0.98 on all data sets", "mean of samples", _ssim),
    Claim("C", "degrades on noisy PPG", "disturbances at 1 to 20 dB", _noise),
    Claim("C", "needs much compute", "as above", _much_compute),
)  # fmt: skip


def claims_table(folder: Path, kind: str) -> pd.DataFrame:
    """All claims with what the tables in ``folder`` say; ``kind``: :func:`p2es_lib.experiments.runs.data_kind`."""
    tables, rows = Tables(folder), []
    for claim in CLAIMS:
        try:
            found, verdict = claim.test(tables)
        except NotMeasured as reason:
            found, verdict = str(reason), UNTESTED
        rows.append((claim.level, claim.statement, claim.how, found, verdict))
    return pd.DataFrame(rows, columns=["level", "claim", "tested by", "found", "verdict"]).assign(data=kind)
