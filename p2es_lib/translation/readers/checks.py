"""What can be refused at once: wrong options, and a file that is not there or is of no kind that is read here.

Nothing that takes time is imported here (no PyTorch, SciPy or pandas), so a mistyped name is answered within a second.
"""

from pathlib import Path

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import parse_lead

CSV_SUFFIXES, EDF_SUFFIXES = (".csv", ".txt", ".tsv"), (".edf", ".bdf")
#: Sampling rates (Hz) that a PPG can have: pulses need 20 Hz, and nothing samples a finger faster than 10 kHz.
RATE_RANGE_HZ = (20.0, 10_000.0)

_TO_CSV = "export it as CSV (UTF-8) with a column of time and one of the PPG"
#: Kinds of file that people have and that are not read here: what each is, and what to do.
_FOREIGN = {
    ".mat": "a MATLAB file, not read here: writematrix([t(:) ppg(:)], 'ppg.csv') makes a CSV of it, with t in s",
    ".npy .npz": "a file of NumPy arrays: numpy.savetxt('ppg.csv', ppg) makes a CSV of one",
    ".xlsx .xls .ods": f"a spreadsheet: {_TO_CSV}",
    ".h5 .hdf5 .parquet .feather .pkl": f"a binary table, not read here: {_TO_CSV} (pandas: to_csv)",
    ".json .jsonl .xml .avro .acq": f"not read here: {_TO_CSV}",
    ".zip .gz .bz2 .xz .7z .tar .tgz": "a packed file: unpack it and name the recording inside",
    ".dat": "signals without a header: put the .hea file of the WFDB record beside it; a table ends in .csv or .txt",
}
FOREIGN = {suffix: advice for suffixes, advice in _FOREIGN.items() for suffix in suffixes.split()}
_UNKNOWN = "of no kind known here: a table in plain text must end in .csv, .txt or .tsv, EDF in .edf or .bdf"


def check_rate(rate: float, what: str) -> float:
    """The rate as a number, if a PPG can have it; otherwise an :class:`InputError` that begins with ``what``."""
    low, high = RATE_RANGE_HZ
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise InputError(f"{what} {rate!r} is not a number of hertz") from None
    if not low <= value <= high:
        raise InputError(f"{what} {value:g} Hz: a PPG recording has {low:g} to {high:g} Hz")
    return value


def check_options(age: float | None, sex: str | None, n_samples: int, rate: float | None, where="") -> Demographics:
    """The person, as a table of one row; an :class:`InputError` that begins with ``where`` if anything is out of range.

    ``age`` in years, ``n_samples`` per window, ``rate`` of the PPG in Hz (None: not given).
    """
    person = Demographics.of(age, sex)
    if n_samples < 1:
        raise InputError(f"{where}{n_samples} samples per window; at least 1, 2 or more for a spread")
    if rate is not None:
        check_rate(rate, f"{where}sampling rate")
    return person


def check_leads(leads: str | None) -> tuple[tuple[str, str], ...]:
    """``"I,II"`` or ``"ch1=I,ch2=V5"`` as signals ("": the next one of unknown lead) and leads; InputError if wrong."""
    pairs = []
    for entry in (leads or "").split(",") if leads is not None else ():
        signal, _, name = entry.rpartition("=")
        if (lead := parse_lead(name)) is None or lead in [other for _, other in pairs]:
            problem = "no lead" if lead is None else "there twice"
            raise InputError(f"--leads {leads}: {entry.strip()!r} is {problem}; name leads as in I,II or ch1=I,ch2=V5")
        pairs.append((signal.strip(), lead))
    return tuple(pairs)


def check_file(path: str | Path) -> str:
    """What the name of a recording says it is: ``"table"``, ``"EDF"`` or ``"WFDB"``.

    An :class:`InputError` if nothing has that name, or it is not read here, says what it is and what to do.
    """
    path = Path(path)
    suffix, header = path.suffix.lower(), header_of(path)
    if str(path) == "-":
        raise InputError("-: standard input is read by 'p2es live' alone; name a file")
    if path.is_dir():
        names = [entry.name for entry in _recordings(path)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        some = f", such as {', '.join(names[:3])}{more}" if names else " (none that is read here lies in it)"
        raise InputError(f"{path}: a folder; name one recording in it{some}")
    if suffix in CSV_SUFFIXES + EDF_SUFFIXES:
        if not path.is_file():
            raise InputError(f"{path}: no such file{_beside(path)}")
        return "EDF" if suffix in EDF_SUFFIXES else "table"
    if header.is_file():
        return "WFDB"
    if path.exists() or suffix in FOREIGN:
        there = "there is such a file, but it is" if path.exists() else "no such file, and it would be"
        own = path.with_suffix(".hea")
        advice = f"part of a WFDB record: give its header, {own}" if own.is_file() else FOREIGN.get(suffix, _UNKNOWN)
        raise InputError(f"{path}: {there} {advice}")
    endings = ", ".join(CSV_SUFFIXES + EDF_SUFFIXES)
    raise InputError(f"{path}: no such recording (no {header.name}, and not a file ending in {endings}){_beside(path)}")


def header_of(path: Path) -> Path:
    """Header of the WFDB record of that name, given with or without ``.hea``."""
    return path if path.suffix == ".hea" else path.with_name(path.name + ".hea")


def _recordings(folder: Path) -> list[Path]:
    """What can be read in a folder, by name."""
    kinds = (*CSV_SUFFIXES, *EDF_SUFFIXES, ".hea")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in kinds and not path.name.startswith("."))


def _beside(path: Path) -> str:
    """What lies in the folder under nearly the same name."""
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = {entry.stem: entry.name for entry in _recordings(path.parent)}
    found = get_close_matches(path.stem, names, n=1, cutoff=0.7)
    return f"; did you mean {path.with_name(names[found[0]])}?" if found else ""
