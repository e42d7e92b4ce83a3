"""From a user's recording with PPG to a 12-lead ECG: WFDB files, a table, and a page of ECG paper."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import unicodedata
from datetime import date
from pathlib import Path

import numpy as np

from p2es_lib import __version__
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.learned import WEIGHTS_FILE, LearnedTranslator
from p2es_lib.core.paths import check_output_folder
from p2es_lib.experiments.runs import simulated_model_folder
from p2es_lib.signals.cleaning import fault_mask
from p2es_lib.signals.polarity import POLARITIES, turn_upright
from p2es_lib.training.registry import load_method
from p2es_lib.translation.ecg_files import CSV_BYTES_PER_LINE, CsvWriter, WfdbWriter
from p2es_lib.translation.live import EcgBlock, LiveTranslator, ecg_blocks
from p2es_lib.translation.report import Excerpt, Summary

#: Shown on everything that leaves this module.
DISCLAIMER = "research use only, not a diagnosis"
#: Told after each translation, because beats that line up with the pulses look as if their time had been measured.
PLACEMENT = (
    "the ECG is placed at the delay between heart and pulse that the model learned; "
    "the delay of the monitor that recorded this PPG is unknown"
)
#: Share of faulty samples (flat, clipped, wrapped around) from which on the user is warned.
MAX_FAULTS = 0.01
#: Recordings up to so long (s) are written as CSV too, unless the caller decides: a day would take 2.6 GB.
MAX_CSV_S = 3600.0


def default_model_folder() -> Path:
    """Model of the longest training on the simulated cohort that is here: of profile full, of wide, or that of the package.

    Not of quick, whose training is shorter than that of the package.
    """
    full = simulated_model_folder("full")
    return full if (full / WEIGHTS_FILE).is_file() else simulated_model_folder("wide")


def describe_model(model: LearnedTranslator, folder: str | Path) -> str:
    """Which model it is: method, version, training data, and the date and first digits of the SHA-256 of its weights."""
    weights = Path(folder) / WEIGHTS_FILE
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    written = date.fromtimestamp(weights.stat().st_mtime).isoformat()
    name = "P2Es" if model.name == "p2es" else model.name
    config = model.config
    return (
        f"{name} {__version__}, trained on {config.dataset} ({config.profile}), weights of {written}, SHA-256 {digest}"
    )


def translate_long(
    model: LearnedTranslator,
    ppg: np.ndarray,
    age: float | None,
    sex: str | None,
    *,
    n_samples: int,
    sampling_rate: float | None = None,
    seed: int = 0,
    where: str = "ppg",
    progress: bool = True,
) -> EcgBlock:
    """Translate a recording of any length that fits in memory, by :class:`p2es_lib.translation.live.LiveTranslator`.

    Parameters
    ----------
    model : LearnedTranslator
    ppg : array (T,)
        As recorded, pulses upward, NaN where missing.
    age, sex
        Years or None; ``"F"``, ``"M"`` or None.
    n_samples : int
        Samples per window, 2 or more for a spread.
    sampling_rate : float, optional
        Hz, of the PPG; default: the model's.
    where : str
        Named in errors.

    Raises
    ------
    InputError
        Shorter than one window, or no window with a usable PPG.
    """
    live = LiveTranslator(
        model, sampling_rate=sampling_rate, age=age, sex=sex, n_samples=n_samples, seed=seed, where=where
    )
    ecg = EcgBlock.joined(list(ecg_blocks(live, np.asarray(ppg, dtype=float), progress)))
    if not ecg.covered.any():
        raise InputError(_nothing_usable(live))
    return ecg


def _nothing_usable(live: LiveTranslator) -> str:
    window_s = live.n_window / live.rate
    return f"{live.where}: no stretch of {window_s:.1f} s has a usable PPG (all missing or flat); look at the sensor and the column"


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


def translate(
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
    csv: bool | None = None,
    progress: bool = True,
) -> dict[str, Path | str]:
    """Translate the PPG of a WFDB record, a table or an EDF file and write the ECG.

    The PPG is held in memory, the ECG is not: it is written as it is made.

    Parameters
    ----------
    record : path
        WFDB record (with or without ``.hea``), CSV file or EDF file.
    age, sex : optional
        Years; ``"F"`` or ``"M"``. None: not known.
    out : path
        Folder for the results, made if needed.
    model : path, optional
        Folder with ``weights.safetensors``; default: :func:`default_model_folder`.
    sampling_rate, column : optional
        Of a CSV without a time column (Hz), and which column holds the PPG (name or number).
    polarity : "auto", "up" or "down"
        Which way the pulses point as recorded. ``"down"`` is turned over; ``"auto"`` turns over where the evidence
        (:mod:`p2es_lib.signals.polarity`) is strong, and says so.
    n_samples : int
        Samples per window; their mean is written, their spread beside it.
    csv : bool, optional
        Write the table. Default: for recordings of up to an hour (:data:`MAX_CSV_S`).

    Returns
    -------
    dict
        ``ecg``: header of the WFDB record with the mean of the samples, 12 leads in mV at the model's sampling rate;
        ``spread``: the same for their standard deviation; ``csv``: time, mean and edges of the band per lead
        (:class:`p2es_lib.translation.ecg_files.CsvWriter`), or why there is none; ``quality``: a table of the windows, with the
        quality of each or why it was refused; ``picture`` and ``picture_pdf``: ten seconds on ECG paper, A4 at true
        scale; ``read``: how the file was read, and what was assumed where it does not say; ``note``: how much was
        translated, which way the pulses point, and a warning where the PPG is poor; ``delay``: :data:`PLACEMENT`, what
        the time between ECG and PPG is worth (these three also in the WFDB headers).

    Raises
    ------
    InputError
        See :func:`p2es_lib.translation.readers.user_file.read_ppg` and :func:`translate_long`; also an unknown model. Nothing is
        written then.
    """
    from p2es_lib.core.demographics import parse_age, parse_sex
    from p2es_lib.plots import plot_translation, save_figure
    from p2es_lib.translation.readers.user_file import read_ppg

    age, sex = parse_age(age, "--age"), parse_sex(sex, "--sex")
    if n_samples < 1:
        raise InputError(f"--samples {n_samples}: at least 1; 2 or more for a spread")
    check_choice("--polarity", polarity, POLARITIES)
    check_output_folder(out, "--out")
    folder = Path(model) if model else default_model_folder()
    network = load_method(folder)
    signal = network.config.signal
    rate, window_s = signal.sampling_rate, signal.window_samples / signal.sampling_rate
    recording = read_ppg(record, sampling_rate=sampling_rate, column=column, min_duration_s=window_s)
    raw = np.asarray(recording.ppg, dtype=float)
    # Judged as recorded: filtering hides a converter that overflowed.
    faults = float(fault_mask(raw, recording.sampling_rate)[np.isfinite(raw)].mean())
    upright, direction = turn_upright(raw, recording.sampling_rate, polarity)
    live = LiveTranslator(
        network,
        sampling_rate=recording.sampling_rate,
        age=age,
        sex=sex,
        n_samples=n_samples,
        seed=seed,
        where=str(record),
    )

    stem = _stem(record)
    name, out, existed = _record_name(stem), Path(out), Path(out).is_dir()
    model_line = f"{describe_model(network, folder)}, {n_samples} samples per window"
    known = (f"age {age:.0f}" if np.isfinite(age) else "age unknown") + ", sex " + (sex or "unknown")
    comments = [f"P2Es {__version__}, PPG to ECG, {DISCLAIMER}", f"model: {model_line}", known]
    comments += ["read: " + "; ".join(recording.notes), "polarity: " + direction, "delay: " + PLACEMENT]
    comments = [_plain(line) for line in comments]
    wants_csv = len(raw) / recording.sampling_rate <= MAX_CSV_S if csv is None else csv
    out.mkdir(parents=True, exist_ok=True)
    try:
        # Everything is made in a folder beside the results and moved at the end: a failure leaves nothing behind.
        with tempfile.TemporaryDirectory(dir=out, prefix=".translating-") as temporary:
            temporary = Path(temporary)
            ecg, spread = (WfdbWriter(temporary, f"{name}_{suffix}", rate) for suffix in ("p2es", "p2es_sd"))
            table = CsvWriter(temporary / f"{name}_p2es.csv", rate, comments) if wants_csv else None
            summary, excerpt = Summary(), Excerpt(rate)
            for block in ecg_blocks(live, upright, progress):
                ecg.write(block.mean)
                spread.write(block.std)
                if table:
                    table.write(block)
                summary.add(block)
                excerpt.add(block)
            if not summary.n_covered:
                raise InputError(_nothing_usable(live))
            report = summary.lines(rate, network.config.data.min_quality)
            if faults > MAX_FAULTS:
                report.append(
                    f"WARNING: {100 * faults:.0f} % of the PPG is flat, clipped or wrapped around as recorded"
                )
            for writer in (ecg, spread):
                writer.close([*comments, *map(_plain, report)])
            if table:
                table.close()
            summary.write_windows(temporary / f"{name}_p2es_quality.csv", window_s)
            shown = excerpt.longest()
            stretch_s = (shown.start / rate, (shown.start + len(shown)) / rate)
            worst = summary.worst_quality(stretch_s, window_s)
            figure = plot_translation(
                shown.mean,
                rate,
                shown.ppg,
                spread=(shown.lower, shown.upper) if n_samples > 1 else None,
                age=age if np.isfinite(age) else None,
                sex=sex,
                model=model_line,
                quality=summary.quality_line(stretch_s, window_s, network.config.data.min_quality)
                + "; "
                + "; ".join(report),
                record=f"{stem}, from {stretch_s[0]:.1f} s"
                + (", POOR PPG" if worst < network.config.data.min_quality else ""),
            )
            save_figure(figure, temporary, "fig01_translation")
            for extension in ("png", "pdf"):
                (temporary / f"fig01_translation.{extension}").rename(temporary / f"{name}_p2es.{extension}")
            for file in sorted(temporary.iterdir()):
                shutil.move(str(file), out / file.name)
    except BaseException:
        if not existed:  # empty, then: what was there before is never touched
            _remove_if_empty(out)
        raise
    size_gb = len(raw) / recording.sampling_rate * rate * CSV_BYTES_PER_LINE / 1e9
    return {
        "ecg": out / f"{name}_p2es.hea",
        "spread": out / f"{name}_p2es_sd.hea",
        "csv": out / f"{name}_p2es.csv" if table else f"not written, it would take {size_gb:.1f} GB; --csv writes it",
        "quality": out / f"{name}_p2es_quality.csv",
        "picture": out / f"{name}_p2es.png",
        "picture_pdf": out / f"{name}_p2es.pdf",
        "read": "; ".join(recording.notes),
        "note": "; ".join([*report, direction]),
        "delay": PLACEMENT,
    }


def _stem(record: str | Path) -> str:
    """Name of a recording without the suffix of a header or a table."""
    name = Path(record).name
    return next(
        (name.removesuffix(suffix) for suffix in (".hea", ".csv", ".edf", ".bdf") if name.endswith(suffix)), name
    )


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass
