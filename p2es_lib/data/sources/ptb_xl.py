"""PTB-XL: real 12-lead ECGs of 10 s with age, sex and diagnoses; no PPG, so pairs are semi-synthetic."""

import ast
import posixpath
import re
from pathlib import Path

import pandas as pd

from p2es_lib.core.demographics import parse_age
from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror, check_relative
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.tables import once_per_state, read_table
from p2es_lib.data.sources.wfdb_records import record_files, record_stretches

TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
_FILE = re.compile(r"([A-Za-z0-9._-]+/)+[A-Za-z0-9._-]+")
_NUMBERS = ("patient_id", "age", "sex", "strat_fold")
#: Sex codes, the age that stands for all ages over 89, and the split that the authors recommend (Wagner et al. 2020).
_SEX, _OVER_89, _OLD = {0: "M", 1: "F"}, 300.0, 90.0
_SPLIT_OF_FOLD = {**dict.fromkeys(range(1, 9), "train"), 9: "validation", 10: "test"}
#: Statements with the same meaning as labels of the simulator, the first that applies: what reshapes the whole QRS
#: complex before what changes a part of it, its size or the ST segment. Rhythm statements carry no likelihood (0 there
#: means "not stated"); a diagnosis counts from 50 % on.
_RHYTHMS = {"AFIB": "af", "SBRAD": "bradycardia", "STACH": "tachycardia", "SR": "sinus", "SARRH": "sinus"}
_MORPHOLOGIES = {
    "CLBBB": "lbbb", "CRBBB": "rbbb", "AMI": "anterior_mi", "ASMI": "anterior_mi", "ALMI": "anterior_mi",
    "IMI": "inferior_mi", "ILMI": "inferior_mi", "IPMI": "inferior_mi", "IPLMI": "inferior_mi", "LAFB": "lafb",
    "LVH": "lvh", "STE_": "st_elevation", "STD_": "st_depression", "NORM": "normal",
}  # fmt: skip
_FORM_STATEMENTS = ("STE_", "STD_")  # of form, without a likelihood too
LEAST_LIKELIHOOD = 50.0


@once_per_state
def _read_table(path: Path) -> pd.DataFrame:
    table = read_table(path, f"PTB-XL's {TABLE}", "filename_hr", ("scp_codes", *_NUMBERS), _NUMBERS)
    for number, file in enumerate(table.index, start=2):
        where = f"{path}: row {number}, filename_hr"
        try:
            check_relative(file)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if not _FILE.fullmatch(file):  # its folder and its name become those of a shard and a record
            raise InputError(f"{where} {file!r} is no path such as records500/00000/00001_hr")
    names = table.index.map(posixpath.basename)
    if (twice := names.duplicated()).any():
        row, file = int(twice.argmax()) + 2, table.index[twice][0]
        raise InputError(f"{path}: row {row}, filename_hr {file!r} has the name of another row's file")
    return table.assign(path=table.index).set_index(names)


def list_records(mirror: Mirror) -> list[Record]:
    """The records in 500 Hz that the table names; a folder of a thousand is a shard."""
    found = _read_table(mirror.fetch_required(TABLE))["path"]
    return [Record(name, path, posixpath.basename(posixpath.dirname(path))) for name, path in found.items()]


def parse_statements(text: str, where: str) -> dict[str, float]:
    """SCP-ECG statements, likelihoods in percent, from the table's Python notation (not run); else an InputError."""
    try:
        return {str(code): float(likelihood) for code, likelihood in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise InputError(f"{where}: scp_codes {text!r} is not a dictionary of statements") from error


def labels(codes: dict[str, float]) -> tuple[str, str]:
    """Rhythm and morphology in the words of the simulator; "" where none of them applies."""
    rhythm = next((label for code, label in _RHYTHMS.items() if code in codes), "")
    certain = {code for code, likelihood in codes.items() if likelihood >= LEAST_LIKELIHOOD or code in _FORM_STATEMENTS}
    if "NORM" in certain:  # a fascicular block beside it changed nothing for the cardiologist
        certain.discard("LAFB")
    return rhythm, next((label for code, label in _MORPHOLOGIES.items() if code in certain), "")


def _find_row(mirror: Mirror, record: Record) -> tuple[pd.Series, str]:
    """What the table says of a record, and where it says so."""
    path = mirror.fetch_required(TABLE)
    table = _read_table(path)
    if record.name not in table.index:
        raise InputError(f"{path}: record {record.name} is not in this table")
    return table.loc[record.name], f"{path}, record {record.name}"


def _subject(record: Record, row: pd.Series) -> str:
    return record.name if pd.isna(row["patient_id"]) else str(int(row["patient_id"]))


def stratum(mirror: Mirror, record: Record) -> str:
    """The fold, so that a sample is split as the whole is; counted back, so that 3 records have all splits."""
    fold = _find_row(mirror, record)[0]["strat_fold"]
    return f"{10 - int(fold)}" if fold in _SPLIT_OF_FOLD else "none"  # which have the last turn


def read(mirror: Mirror, record: Record) -> Reading:
    """One record, with what the table says of it; an InputError if its sex is neither 0 nor 1."""
    row, where = _find_row(mirror, record)
    mirror.fetch(f"{record.path}.hea")
    if row["sex"] not in _SEX and pd.notna(row["sex"]):
        raise InputError(f"{where}: sex {row['sex']:g} is neither 0 nor 1")
    age = _OLD if row["age"] == _OVER_89 else parse_age(row["age"], where)
    codes = parse_statements(row["scp_codes"], where)
    rhythm, morphology = labels(codes)
    reading = Reading(
        _subject(record, row), age, _SEX.get(row["sex"], ""), rhythm=rhythm, morphology=morphology,
        diagnoses=" ".join(codes), fold=_SPLIT_OF_FOLD.get(row["strat_fold"], ""),
    )  # fmt: skip
    reading.stretches = record_stretches(mirror, record.path, reading, needs_ppg=False)
    return reading


SOURCE = Source(
    name="ptb-xl", title="PTB-XL, a large publicly available electrocardiography dataset 1.0.3",
    slug="ptb-xl", version="1.0.3", role="ecg only",
    about={
        "size": "21,799 records of 18,869 patients, 10 s each",
        "access": "open", "licence": "Creative Commons Attribution 4.0",
        "cite": "Wagner P et al. PTB-XL, a large publicly available electrocardiography dataset. Sci Data 2020;7:154. "
        "doi:10.1038/s41597-020-0495-6",
        'lead "V"': "none: V1 to V6 are standard leads",
        "note": "PPG simulated from the beats of the ECG; the split is the one that its authors recommend (folds 1-8, "
        "9, 10), in which no patient is in two splits; ages over 89 count as 90",
    },
    list_records=list_records, files=lambda mirror, record: record_files(mirror, record.path), read=read,
    subject=lambda mirror, record: _subject(record, _find_row(mirror, record)[0]), stratum=stratum,
    tables=(TABLE, STATEMENTS),
)  # fmt: skip
