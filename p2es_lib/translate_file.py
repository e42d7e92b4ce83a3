"""From a user's recording with PPG to a 12-lead ECG: WFDB files and a picture on ECG paper."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2es_lib import __version__
from p2es_lib.demographics import Demographics
from p2es_lib.errors import InputError, check_choice
from p2es_lib.leads import LEADS
from p2es_lib.learned import WEIGHTS_FILE, LearnedTranslator
from p2es_lib.methods import load_method
from p2es_lib.paths import check_output_folder, run_dir
from p2es_lib.polarity import POLARITIES, turn_upright
from p2es_lib.sampling import WindowNoise
from p2es_lib.signals import fault_mask, ppg_clean, ppg_quality

#: Shown on everything that leaves this module.
DISCLAIMER = "research use only, not a diagnosis"
#: Told after each translation, because beats that line up with the pulses look as if their time had been measured.
PLACEMENT = (
    "the ECG is placed at the delay between heart and pulse that the model learned; "
    "the delay of the monitor that recorded this PPG is unknown"
)
#: Neighbouring windows share this much, over which one fades into the next.
OVERLAP_S = 1.024
#: Windows in which more than this share of the PPG is missing are not translated.
MAX_MISSING = 0.1
#: Share of faulty samples (flat, clipped, wrapped around) from which on the user is warned.
MAX_FAULTS = 0.01


@dataclass(frozen=True)
class LongTranslation:
    """ECG of a recording of any length, at the model's sampling rate.

    Attributes
    ----------
    mean, std : float32 array (12, T)
        Mean and standard deviation of the samples, mV; NaN where the PPG was not usable or the lead was not trained.
    ppg : float array (T,)
        What was translated, cleaned.
    samples : float32 array (K, 12, T')
        Samples of the first window that could be translated, for the picture.
    samples_start : int
        Position of that window.
    covered : bool array (T,)
        Where there is a translation.
    quality : float array (n,)
        Signal quality, 0 to 1, of each window that was translated (:func:`p2es_lib.signals.ppg_quality`).
    """

    mean: np.ndarray
    std: np.ndarray
    ppg: np.ndarray
    samples: np.ndarray
    samples_start: int
    covered: np.ndarray
    quality: np.ndarray

    def report(self, sampling_rate: float, min_quality: float) -> list[str]:
        """Lines for the user: how much was translated, and a warning where the PPG is poor."""
        total_s, covered_s = len(self.ppg) / sampling_rate, self.covered.sum() / sampling_rate
        lines = [f"translated {covered_s:.1f} of {total_s:.1f} s"]
        if covered_s < total_s:
            lines[0] += "; the rest has no usable PPG (missing or flat) and is missing in the ECG"
        poor = float((self.quality < min_quality).mean())
        if poor > 0:
            lines.append(f"WARNING: the PPG is poor (quality below {min_quality:g}) in {100 * poor:.0f} % of the windows")
        return lines


def default_model_folder() -> Path:
    """Model that ``make reproduce`` trains."""
    return run_dir("simulated", "quick", "p2es", 0)


def window_starts(n_total: int, n_window: int, n_overlap: int) -> np.ndarray:
    """First samples of windows that cover n_total samples; the last one is moved back to end with the recording."""
    starts = np.arange(0, n_total - n_window + 1, n_window - n_overlap)
    last = n_total - n_window
    return starts if starts[-1] == last else np.append(starts, last)


def translate_long(
    model: LearnedTranslator, ppg: np.ndarray, age: float | None, sex: str | None, *, n_samples: int, seed: int = 0, where: str = "ppg", progress: bool = True
) -> LongTranslation:
    """Translate a recording of any length window by window.

    Windows overlap by :data:`OVERLAP_S` and fade linearly into one another; each is scaled by itself, as in training.
    Memory beyond the result is that of a few windows.

    Parameters
    ----------
    model : LearnedTranslator
    ppg : array (T,)
        Cleaned, at the model's sampling rate, NaN where missing.
    age, sex
        Years or None; ``"F"``, ``"M"`` or None.
    n_samples : int
        Samples per window, 2 or more for a spread.
    where : str
        Named in errors.

    Raises
    ------
    InputError
        Shorter than one window, or no window with a usable PPG.
    """
    from tqdm.auto import tqdm

    signal = model.config.signal
    n_window, n_overlap = signal.n_samples, round(OVERLAP_S * signal.sampling_rate)
    if len(ppg) < n_window:
        needed = n_window / signal.sampling_rate
        raise InputError(f"{where}: {len(ppg) / signal.sampling_rate:.1f} s of PPG; at least {needed:.1f} s are needed, one window")
    weight = np.ones(n_window, dtype=np.float32)
    ramp = (np.arange(n_overlap, dtype=np.float32) + 0.5) / n_overlap
    weight[:n_overlap], weight[-n_overlap:] = ramp, ramp[::-1]
    total, mean, variance = np.zeros(len(ppg), np.float32), *np.zeros((2, 12, len(ppg)), np.float32)
    shown, shown_start = None, 0
    starts = [s for s in window_starts(len(ppg), n_window, n_overlap) if _usable(ppg[s : s + n_window])]
    if not starts:
        raise InputError(f"{where}: no stretch of {n_window / signal.sampling_rate:.1f} s has a usable PPG (all missing or flat)")
    per_batch = max(1, model.config.sampling.batch_size // n_samples)
    for first in tqdm(range(0, len(starts), per_batch), desc="translating", unit="batch", disable=not progress):
        batch = starts[first : first + per_batch]
        windows = np.stack([_scaled(ppg[s : s + n_window]) for s in batch])[:, None]
        # Noise is named after the position: a window's samples depend on where it lies and on no other window.
        noise = WindowNoise(seed, [int(s) for s in batch], n_samples, shape=(12, n_window))
        samples = model.translate(windows, Demographics.of(age, sex, len(batch)), n_samples=n_samples, generator=noise).numpy()
        if shown is None:
            shown, shown_start = samples[0], batch[0]
        for s, window in zip(batch, samples, strict=True):
            part = slice(s, s + n_window)
            total[part] += weight
            mean[:, part] += weight * window.mean(0)
            variance[:, part] += weight * window.var(0, ddof=1 if n_samples > 1 else 0)
    covered = total > 0
    for array in (mean, variance):
        array[:, covered] /= total[covered]
        array[:, ~covered] = np.nan
    quality = np.array([ppg_quality(_bridged(ppg[s : s + n_window]), signal.sampling_rate) for s in starts])
    return LongTranslation(mean, np.sqrt(variance), ppg, shown, int(shown_start), covered, quality)


def _plain(text: str) -> str:
    """Text as a WFDB header may hold it: one line of ASCII."""
    return " ".join(text.replace("µ", "u").replace("μ", "u").encode("ascii", "replace").decode().split())


def _record_name(stem: str) -> str:
    """Name that WFDB allows for a record: ASCII letters, digits, ``_`` and ``-``; anything else becomes ``_``.

    A name that had to be changed gets a short hash of the original one, so that "Müller" and "Möller" do not overwrite
    each other's results.
    """
    # One name has two spellings in Unicode, and file systems differ in which they hand out.
    stem = unicodedata.normalize("NFC", stem)
    # Headers are read as ASCII, and isalnum alone holds for letters of any script.
    name = "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "_" for c in stem)
    if name == stem:
        return name
    # A file name may hold bytes that are no UTF-8 (surrogates here).
    return f"{name}_{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _usable(ppg: np.ndarray) -> bool:
    present = np.isfinite(ppg)
    return present.mean() >= 1 - MAX_MISSING and float(np.ptp(ppg[present])) > 0


def _bridged(ppg: np.ndarray) -> np.ndarray:
    """Short gaps bridged by a straight line."""
    present = np.isfinite(ppg)
    return np.interp(np.arange(len(ppg)), np.flatnonzero(present), ppg[present])


def _scaled(ppg: np.ndarray) -> np.ndarray:
    """Gaps bridged, zero mean, unit variance."""
    ppg = _bridged(ppg)
    return ((ppg - ppg.mean()) / ppg.std()).astype(np.float32)


def translate_file(
    record: str | Path,
    *,
    age: float | None = None,
    sex: str | None = None,
    out: str | Path,
    model: str | Path | None = None,
    sampling_rate: float | None = None,
    column: str | None = None,
    polarity: str = "auto",
    n_samples: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Path | str]:
    """Translate the PPG of a WFDB record or a CSV file and write the ECG.

    Parameters
    ----------
    record : path
        WFDB record (with or without ``.hea``) or CSV file.
    age, sex : optional
        Years; ``"F"`` or ``"M"``. None: not known.
    out : path
        Folder for the results, made if needed.
    model : path, optional
        Folder with ``weights.safetensors``; default: the one that ``make reproduce`` trains.
    sampling_rate, column : optional
        Of a CSV without a time column (Hz), and which column holds the PPG (name or number).
    polarity : "auto", "up" or "down"
        Which way the pulses point as recorded. ``"down"`` is turned over; ``"auto"`` turns over where the evidence
        (:mod:`p2es_lib.polarity`) is strong, and says so.
    n_samples : int
        Samples per window; their mean is written, their spread beside it.

    Returns
    -------
    dict
        ``ecg``: header of the WFDB record with the mean of the samples, 12 leads in mV at the model's sampling rate;
        ``spread``: the same for their standard deviation; ``picture`` and ``picture_pdf``: the first window on ECG
        paper; ``read``: how the file was read, and what was assumed where it does not say; ``note``: how much was
        translated, which way the pulses point, and a warning where the PPG is poor; ``delay``: :data:`PLACEMENT`, what
        the time between ECG and PPG is worth (these three also in the WFDB headers).

    Raises
    ------
    InputError
        See :func:`p2es_lib.sources.user_file.read_ppg` and :func:`translate_long`; also an unknown model. Nothing is
        written then.
    """
    from p2es_lib.demographics import parse_age, parse_sex
    from p2es_lib.plots import plot_translation, save_figure
    from p2es_lib.sources.user_file import read_ppg
    from p2es_lib.transforms import resample_signal

    age, sex = parse_age(age, "--age"), parse_sex(sex, "--sex")
    if n_samples < 1:
        raise InputError(f"--samples {n_samples}: at least 1; 2 or more for a spread")
    check_choice("--polarity", polarity, POLARITIES)
    check_output_folder(out, "--out")
    folder = Path(model) if model else default_model_folder()
    if not model and not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"no model: {folder / WEIGHTS_FILE} does not exist; run 'make reproduce' first, or name a model with --model")
    network = load_method(folder)
    signal = network.config.signal
    rate, window_s = signal.sampling_rate, signal.n_samples / signal.sampling_rate
    recording = read_ppg(record, sampling_rate=sampling_rate, column=column, min_duration_s=window_s)
    raw = np.asarray(recording.ppg, dtype=float)
    # Judged as recorded: filtering hides a converter that overflowed.
    faults = float(fault_mask(raw, recording.sampling_rate)[np.isfinite(raw)].mean())
    upright, direction = turn_upright(raw, recording.sampling_rate, polarity)
    # Light received stands far above zero, and resampling ripples by some 1e-5 of the level: a weak pulse would show it.
    ppg = ppg_clean(resample_signal(upright - np.nanmedian(upright), recording.sampling_rate, rate), rate)
    result = translate_long(network, ppg, age, sex, n_samples=n_samples, seed=seed, where=str(record), progress=progress)

    stem = Path(record).name.removesuffix(".hea").removesuffix(".csv")
    known = f"age {age:.0f}" if np.isfinite(age) else "age unknown"
    known += ", sex " + (sex or "unknown")
    report = result.report(rate, network.config.data.min_quality)
    if faults > MAX_FAULTS:
        report.append(f"WARNING: {100 * faults:.0f} % of the PPG is flat, clipped or wrapped around as recorded")
    is_poor = len(report) > 1
    report.append(direction)
    comments = [f"P2Es {__version__}, PPG to ECG, {DISCLAIMER}", f"model trained on {network.config.dataset} ({network.config.profile})", known]
    comments += [_plain(line) for line in ("read: " + "; ".join(recording.notes), *report, "delay: " + PLACEMENT)]
    shown = slice(result.samples_start, result.samples_start + signal.n_samples)
    figure = plot_translation(
        result.samples.mean(0),
        rate,
        result.ppg[shown],
        spread=tuple(np.percentile(result.samples, [5, 95], axis=0)) if n_samples > 1 else None,
        age=age if np.isfinite(age) else None,
        sex=sex,
        model=f"P2Es {__version__} ({network.config.dataset}, {network.config.profile}), {n_samples} samples",
        record=f"{stem}, from {result.samples_start / rate:.1f} s" + (", POOR PPG" if is_poor else ""),
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # Everything is made in a folder beside the results and moved at the end: a failure leaves nothing behind.
    with tempfile.TemporaryDirectory(dir=out, prefix=".translating-") as temporary:
        temporary = Path(temporary)
        name = _record_name(stem)
        for suffix, signals in (("p2es", result.mean), ("p2es_sd", result.std)):
            _write_wfdb(temporary, f"{name}_{suffix}", signals, rate, comments)
        save_figure(figure, temporary, "fig01_translation")
        for extension in ("png", "pdf"):
            (temporary / f"fig01_translation.{extension}").rename(temporary / f"{name}_p2es.{extension}")
        for file in sorted(temporary.iterdir()):
            shutil.move(str(file), out / file.name)
    return {
        "ecg": out / f"{name}_p2es.hea",
        "spread": out / f"{name}_p2es_sd.hea",
        "picture": out / f"{name}_p2es.png",
        "picture_pdf": out / f"{name}_p2es.pdf",
        "read": "; ".join(recording.notes),
        "note": "; ".join(report),
        "delay": PLACEMENT,
    }


def _write_wfdb(folder: Path, name: str, signals: np.ndarray, sampling_rate: float, comments: list[str]) -> None:
    """Write (12, T) mV as a WFDB record in 16 bits, 1 microvolt a step; NaN becomes WFDB's own mark for missing."""
    import wfdb

    wfdb.wrsamp(
        name,
        fs=sampling_rate,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        p_signal=np.clip(signals.T.astype(np.float64), -32.0, 32.0),
        fmt=["16"] * len(LEADS),
        adc_gain=[1000.0] * len(LEADS),
        baseline=[0] * len(LEADS),
        comments=comments,
        write_dir=str(folder),
    )
