"""From a user's recording with PPG to a 12-lead ECG, step by step.

What takes long to import is imported where it is needed: a wrong option or a mistyped name is answered at once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p2es_lib import __version__
from p2es_lib.core.errors import check_choice
from p2es_lib.core.paths import PRETRAINED, check_output_folder, run_dir
from p2es_lib.core.weights import WEIGHTS_FILE, check_weights
from p2es_lib.translation.readers.checks import check_file, check_options
from p2es_lib.translation.reference_file import check_reference, describe_reference, elapsed_s, read_reference

if TYPE_CHECKING:
    from p2es_lib.core.learned import LearnedTranslator
    from p2es_lib.core.reference import Reference
    from p2es_lib.translation.live import EcgBlock

#: Told after each translation, because beats that line up with the pulses look as if their time had been measured.
PLACEMENT = (
    "the ECG is placed at the delay between heart and pulse that the model learned; "
    "the delay of the monitor that recorded this PPG is unknown"
)
#: Told instead where the delay of a reference is known.
PLACEMENT_BY_REFERENCE = (
    "the model knows the delay between heart and pulse of the reference; "
    "it changes by tens of milliseconds from day to day, and by more from one monitor to another"
)
#: Recordings up to so long (s) are written as CSV too, unless the caller decides: a day would take 2.6 GB.
MAX_CSV_S = 3600.0


def default_model_folder() -> Path:
    """Longest training on the simulated cohort that is here: of profile full, of wide, or that of the package.

    Not of quick, whose training is shorter than that of the package.
    """
    own = (run_dir("simulated", profile, "p2es", 0) for profile in ("full", "wide"))
    return next((folder for folder in own if (folder / WEIGHTS_FILE).is_file()), PRETRAINED)


def load_model(folder: str | Path | None) -> LearnedTranslator:
    """The model of a folder, or the default one; an :class:`InputError` at once if there are no weights in it."""
    weights = check_weights(folder or default_model_folder())
    from p2es_lib.core.learned import load_method  # takes seconds

    return load_method(weights.parent)


def translate(
    record: str | Path, *, age: float | None = None, sex: str | None = None, out: str | Path,
    model: str | Path | None = None, sampling_rate: float | None = None, column: str | None = None,
    polarity: str = "auto", n_samples: int = 8, seed: int = 0, csv: bool | None = None, progress: bool = True,
    reference: str | Path | None = None, time_column: str | None = None,
) -> dict[str, Path | str]:  # fmt: skip
    """Translate the PPG of a recording and write the ECG, as it is made; files of the same names are replaced.

    An :class:`InputError`, and nothing is written, for an option out of its range, a file that cannot be read or has no
    usable PPG, or where there is no such model or reference.

    Parameters
    ----------
    record, out, model : path
        WFDB record (with or without ``.hea``), table, EDF or another file that
        :func:`p2es_lib.translation.readers.user_file.read_ppg` reads; folder for the results, made if needed; folder
        with ``weights.safetensors``, by default :func:`default_model_folder`.
    age, sex : float, str
        Years; ``"F"`` or ``"M"``. None: not known.
    sampling_rate, column, time_column : optional
        Of a table whose times are absent or wrong (Hz), and which columns hold the PPG and the time (name or number;
        "none": no time).
    polarity : "auto", "up" or "down"
        Which way the pulses point as recorded. ``"down"`` is turned over; ``"auto"`` turns over where the evidence
        (:mod:`p2es_lib.signals.polarity`) is strong, and says so.
    reference : path, optional
        File of :func:`p2es_lib.translation.calibrate.calibrate`, of the same person.
    n_samples, csv : int, bool
        Samples per window, whose mean is written, and their spread beside it; whether to write the table, by default
        for recordings of up to an hour (:data:`MAX_CSV_S`).

    Returns
    -------
    dict
        Paths: ``ecg`` (header of the WFDB record of the mean, 12 leads in mV at the model's sampling rate), ``central``
        (of the sample nearest to all others: one person's ECG), ``spread`` (of the standard deviation), ``csv``
        (:func:`p2es_lib.translation.results.append_csv`; or why there is none), ``quality`` (of each window:
        :class:`p2es_lib.translation.check.WindowReport`), ``picture`` and ``picture_pdf`` (ten seconds on
        ECG paper, A4 at true scale). And what to tell the user, as the WFDB headers do: ``read`` (how the file was
        read), ``note`` (how much was translated, how the pulses point, warnings), ``delay`` (:data:`PLACEMENT`), and
        ``reference``, where one is given.

    Examples
    --------
    >>> written = translate("watch.csv", age=63, sex="F", out="results")  # doctest: +SKIP
    >>> ecg = pandas.read_csv(written["csv"], comment="#")  # in mV; written["picture"]: the page  # doctest: +SKIP
    """
    person = check_options(age, sex, n_samples, None)
    check_choice("polarity", polarity, ("auto", "up", "down"))
    check_output_folder(out, "--out")
    check_file(record)
    known = {} if reference is None else check_reference(reference)
    check_weights(model or default_model_folder())
    from p2es_lib.signals.polarity import turn_upright
    from p2es_lib.translation.live import LiveTranslator
    from p2es_lib.translation.readers.user_file import check_duration, read_ppg
    from p2es_lib.translation.results import write_results

    columns = {"column": column, "time_column": time_column}
    recording = read_ppg(record, sampling_rate=sampling_rate, **columns, min_duration_s=0.0)
    network, rate = load_model(model), recording.sampling_rate  # takes seconds, so a file of no use is told before
    check_duration(record, recording, network.config.signal.window_samples / network.config.signal.sampling_rate)
    live = LiveTranslator(
        network, sampling_rate=rate, age=age, sex=sex, n_samples=n_samples, seed=seed, where=str(record),
        reference=load_reference(reference, recording.recorded_on),
    )  # fmt: skip
    upright, direction = turn_upright(recording.ppg, rate, polarity)
    model_line = f"{describe_model(network)}, {n_samples} samples per window"
    known_age = None if np.isnan(person.age[0]) else float(person.age[0])
    about = {"model": model_line, "age": known_age, "sex": str(person.sex[0])}
    told = {"read": "; ".join(recording.notes), "polarity": direction}
    told["delay"] = PLACEMENT_BY_REFERENCE if known.get("delay_ms") else PLACEMENT
    told |= {"reference": describe_reference(known)} if known else {}
    name = re.sub(r"\.(hea|csv|edf|bdf)(\.gz)?\Z", "", Path(record).name)
    wants_csv = len(upright) / rate <= MAX_CSV_S if csv is None else csv
    written, report = write_results(Path(out), name, about, told, live, upright, wants_csv, progress)
    also = {what: told[what] for what in ("delay", "reference") if what in told}
    return {**written, "read": told["read"], "note": "; ".join([*report, direction]), **also}


def load_reference(path: str | Path | None, recorded_on: str = "") -> Reference | None:
    """The reference of a file, for a recording of that time (ISO 8601; "": not known), or None without a file."""
    if path is None:
        return None
    import torch

    reference, about = read_reference(path)
    return replace(reference, elapsed_s=torch.full((1,), elapsed_s(recorded_on, about["recorded_on"])))


def describe_model(model: LearnedTranslator) -> str:
    """Which model it is: method, version, training data, and the day (if known) and SHA-256 of its weights."""
    name, config = "P2Es" if model.name == "p2es" else model.name, model.config
    weights = f"weights of {model.made_on}" if model.made_on else "weights"
    origin = f"trained on {config.dataset} ({config.profile})"
    return f"{name} {__version__}, {origin}, {weights}, SHA-256 {model.sha256[:12]}"


def translate_long(
    model: LearnedTranslator, ppg: np.ndarray, age: float | None, sex: str | None, *, n_samples: int,
    sampling_rate: float | None = None, seed: int = 0, progress: bool = True,
) -> EcgBlock:  # fmt: skip
    """Translate a recording of any length that fits in memory: ``ppg`` (T,) with pulses upward, NaN where missing.

    Else as :class:`p2es_lib.translation.live.LiveTranslator`. An :class:`InputError` if no window has a usable PPG.
    """
    from p2es_lib.translation.live import EcgBlock, LiveTranslator, ecg_blocks, nothing_usable

    live = LiveTranslator(model, sampling_rate=sampling_rate, age=age, sex=sex, n_samples=n_samples, seed=seed)
    ecg = EcgBlock.joined(list(ecg_blocks(live, np.asarray(ppg, dtype=float), progress)))
    if not ecg.covered.any():
        raise nothing_usable(live)
    return ecg
