"""What can be refused at once: wrong options, and a file that is not there or is of no kind that is read here.

Nothing that takes time is imported here (no PyTorch, SciPy or pandas), so a mistyped name is answered within a second.
"""

from pathlib import Path

from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import parse_lead

CSV_SUFFIXES = (".csv", ".txt", ".tsv", ".log", ".asc", ".prn", ".puls")
EDF_SUFFIXES, PACKED = (".edf", ".bdf"), (".gz", ".bz2", ".xz", ".zip")
_KINDS = {
    "table": CSV_SUFFIXES, "EDF": EDF_SUFFIXES, "sheet": (".xlsx", ".xlsm"), "frame": (".parquet", ".feather"),
    "MATLAB": (".mat",), "HDF5": (".h5", ".hdf5"), "NumPy": (".npy", ".npz"), "JSON": (".json", ".jsonl", ".ndjson"),
    "AcqKnowledge": (".acq",), "XDF": (".xdf", ".xdfz"), "Avro": (".avro",),
}  # fmt: skip
#: Suffix of a file to its kind, each of which has a reader.
KINDS = {suffix: kind for kind, suffixes in _KINDS.items() for suffix in suffixes}
#: How files of these kinds begin, where their names do not tell.
_BEGINNINGS = {
    b"\x1f\x8b": "gz", b"PK\x03\x04": "zip", b"\x89HDF": "HDF5", b"MATLAB ": "MATLAB", b"PAR1": "frame",
    b"Obj\x01": "Avro", b"XDF:": "XDF", b"\x93NUMPY": "NumPy", b"0       ": "EDF", b"\xffBIOSEMI": "EDF",
    b"BZh": "bz2", b"\xfd7zXZ": "xz",
}  # fmt: skip
#: Sampling rates (Hz) that a PPG can have: pulses need 20 Hz, and nothing samples a finger faster than 10 kHz.
RATE_RANGE_HZ = (20.0, 10_000.0)

_TO_CSV = "export it as CSV (UTF-8) with a column of time and one of the PPG"
#: Kinds of file that people have and that are not read here: what each is, and what to do.
_FOREIGN = {
    ".xls .ods .numbers": f"a spreadsheet of another kind: save it as .xlsx, or {_TO_CSV}",
    ".pkl .pickle .joblib": f"a Python pickle, which could run any program: {_TO_CSV} (pandas: to_csv)",
    ".7z .tar .tgz .rar": "a packed folder: unpack it and name the recording inside",
    ".fit .tcx .gpx": "a record of an activity, which holds heart rates and no wave: export the raw PPG",
    ".adicht .adidat": "LabChart's own format: export it as text or MATLAB from LabChart",
    ".vital": "a VitalDB file: vitaldb.VitalFile(name).to_pandas(['SNUADC/PLETH'], 1/100).to_csv makes a table of it",
    ".sqlite .db .sqlite3": f"a data base: {_TO_CSV}",
    ".xml .dcm .rds .rdata .sav .vhdr .eeg .c3d .tdms .smr": f"not read here: {_TO_CSV}",
    ".pdf .png .jpg .jpeg .svg .docx .doc .mp4 .mov .avi": "a document, picture or film: give the samples",
    ".py .ipynb .m .r .c .cpp .ino .js .html .md .yaml .toml": "a program or a page: give the recording it speaks of",
    ".wav .mp3 .flac": f"a sound file: {_TO_CSV}",
    ".dat .bin": "signals without a header: put the .hea file of the WFDB record beside it; a table ends in .csv",
}
FOREIGN = {suffix: advice for suffixes, advice in _FOREIGN.items() for suffix in suffixes.split()}
_UNKNOWN = f"of no kind known here, and no text: {_TO_CSV}"


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
    """What a recording is, by its name and by how it begins: ``"WFDB"``, or one of :data:`KINDS`.

    Of a packed file, it is what lies in it. An :class:`InputError` if nothing has that name, or it is not read here,
    says what it is and what to do.
    """
    path = Path(path)
    suffix, header = suffix_of(path), header_of(path)
    if str(path) == "-":
        raise InputError("-: standard input is read by 'p2es live' alone; name a file")
    if path.is_dir():
        names = [entry.name for entry in _recordings(path)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        some = f", such as {', '.join(names[:3])}{more}" if names else " (none that is read here lies in it)"
        raise InputError(f"{path}: a folder; name one recording in it{some}")
    own = path.with_suffix(".hea")
    is_part = path.is_file() and own.is_file() and suffix not in (*CSV_SUFFIXES, ".hea")
    if suffix in KINDS and path.is_file() and not is_part:
        return KINDS[suffix]
    if header.is_file():
        return "WFDB"
    if path.is_file():
        if is_part:
            raise InputError(f"{path}: there is such a file, but it is part of a WFDB record: give its header, {own}")
        return _kind_by_content(path, suffix)
    if suffix in KINDS or suffix in FOREIGN:
        raise InputError(f"{path}: no such file{_beside(path)}")
    endings = ", ".join(CSV_SUFFIXES[:3] + EDF_SUFFIXES)
    raise InputError(f"{path}: no such recording (no {header.name}, and not a file ending in {endings}){_beside(path)}")


def suffix_of(path: Path) -> str:
    """Last suffix of a name in lower case, that of what is inside for a packed one (``.tsv`` of ``a.tsv.gz``)."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() or suffix if suffix in PACKED else suffix


def _kind_by_content(path: Path, suffix: str) -> str:
    """Kind of a file whose name does not say it; text is a table until it is found to be none."""
    with path.open("rb") as file:
        begin = file.read(4096)
    if suffix in FOREIGN and suffix not in (".dat", ".bin"):
        raise InputError(f"{path}: there is such a file, but it is {FOREIGN[suffix]}")
    found = next((kind for mark, kind in _BEGINNINGS.items() if begin.startswith(mark)), None)
    if found in KINDS.values():
        return found
    if found or suffix in PACKED:
        return "table"  # as what is inside turns out to be
    if b"\0" in begin and not begin.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        raise InputError(f"{path}: there is such a file, but it is {FOREIGN.get(suffix, _UNKNOWN)}")
    return "table"


def header_of(path: Path) -> Path:
    """Header of the WFDB record of that name, given with or without ``.hea``."""
    return path if path.suffix == ".hea" else path.with_name(path.name + ".hea")


def _recordings(folder: Path) -> list[Path]:
    """What can be read in a folder, by name."""
    kinds = (*KINDS, ".hea")
    return sorted(path for path in folder.iterdir() if suffix_of(path) in kinds and not path.name.startswith("."))


def _beside(path: Path) -> str:
    """What lies in the folder under nearly the same name."""
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = {entry.stem: entry.name for entry in _recordings(path.parent)}
    found = get_close_matches(path.stem, names, n=1, cutoff=0.7)
    return f"; did you mean {path.with_name(names[found[0]])}?" if found else ""
