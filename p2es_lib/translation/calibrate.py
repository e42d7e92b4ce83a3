"""From a person's recording with an ECG to one small file: a reference, which translations of that person can use.

What takes long to import is imported where it is needed: a wrong option or a mistyped name is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2es_lib import __version__
from p2es_lib.core.config import SignalConfig
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.paths import check_output_folder
from p2es_lib.translation.readers.checks import check_file, check_leads, check_options, check_rate
from p2es_lib.translation.reference_file import write_reference

if TYPE_CHECKING:
    from p2es_lib.core.reference import Reference


@dataclass(frozen=True)
class Calibration:
    """A reference (one row), what its file says of the recording, and what to tell the user, by topic, and warnings."""

    path: Path
    reference: Reference
    about: dict[str, Any]
    told: dict[str, str]
    warnings: list[str]


def calibrate(
    record: str | Path, *, out: str | Path, age: float | None = None, sex: str | None = None,
    sampling_rate: float | None = None, column: str | None = None, polarity: str = "auto", leads: str | None = None,
    time_column: str | None = None,
) -> Calibration:  # fmt: skip
    """Make a reference of a recording with an ECG of 1 to 12 leads, and a PPG if there is one, and write its file.

    An :class:`InputError`, and nothing is written, for an option out of its range, a file that cannot be read or has no
    ECG of known lead, amplitudes that are no mV, or fewer than four beats that are alike.

    Parameters
    ----------
    record, out : path
        WFDB record (with or without ``.hea``), table or EDF file; file to write, replaced if there is one. It holds
        mean beats, their rate and delay, and the name (no path) of ``record``, not the recording.
    age, sex : float, str
        Years; ``"F"`` or ``"M"``. Kept beside the reference. None: not known.
    sampling_rate, column, polarity, time_column : optional
        As for :func:`p2es_lib.translation.file.translate`.
    leads : str, optional
        Leads of ECG columns whose names do not say them: ``"I"``, in order ``"I,II,V2"``, or by name ``"ch1=I"``.

    Examples
    --------
    >>> me = calibrate("clinic.hea", out="me.p2es")  # doctest: +SKIP
    >>> me.about["leads"], me.about["beats_used"], me.about["delay_ms"]  # doctest: +SKIP
    """
    person = check_options(age, sex, 1, None)
    check_choice("polarity", polarity, ("auto", "up", "down"))
    check_leads(leads)
    if sampling_rate is not None:
        check_rate(sampling_rate, "sampling rate")
    out = Path(out).expanduser()
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it, such as {out / 'me.p2es'}")
    check_output_folder(out.parent, "--out")
    check_file(record)
    from p2es_lib.translation.calibration_report import Findings, describe
    from p2es_lib.translation.readers.user_file import read_ecg

    recording = read_ecg(record, sampling_rate=sampling_rate, column=column, leads=leads, time_column=time_column)
    findings = Findings.of(recording, polarity, SignalConfig().sampling_rate, str(record))
    about = findings.about() | {
        "version": __version__, "made_on": date.today().isoformat(), "recorded_on": recording.recorded_on,
        "source": Path(record).name, "age": age, "sex": str(person.sex[0]),
    }  # fmt: skip
    told, warnings = describe(findings, recording)
    return Calibration(write_reference(out, findings.reference, about), findings.reference, about, told, warnings)
