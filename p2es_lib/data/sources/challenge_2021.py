"""PhysioNet/CinC Challenge 2021: real 12-lead ECGs from eight collections, age, sex and diagnoses in the headers.

No PPG, so pairs are semi-synthetic.
"""

import posixpath
import re

from p2es_lib.core.demographics import parse_age, parse_sex
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.wfdb_records import read_header, record_files, record_stretches, walk_records

#: SNOMED CT codes with the same meaning as labels of the simulator, the first that applies, ordered as in ``ptb_xl``;
#: meanings as in dx_mapping_*.csv of the organisers (github.com/physionetchallenges/evaluation-2021). Without a label:
#: infarction without a site (164865005), hypertrophy by voltage criteria alone (55827005).
_RHYTHMS = {
    "164889003": "af", "426177001": "bradycardia", "427084000": "tachycardia", "426783006": "sinus",
    "427393009": "sinus",  # sinus arrhythmia
}  # fmt: skip
_MORPHOLOGIES = {
    "733534002": "lbbb", "164909002": "lbbb", "713427006": "rbbb", "59118001": "rbbb", "54329005": "anterior_mi",
    "445118002": "lafb", "164873001": "lvh", "164931005": "st_elevation", "429622005": "st_depression",
}  # fmt: skip


def list_records(mirror: Mirror) -> list[Record]:
    """All records of all collections, as the tree of RECORDS files names them; a folder is a shard."""
    records = []
    for path in walk_records(mirror):
        collection, folder = path.split("/")[-3:-1] if path.count("/") >= 2 else ("training", "records")
        records.append(Record(posixpath.basename(path), path, f"{collection}-{folder}"))
    return records


def _comment(comments: list[str], key: str) -> str:
    found = next((text for text in comments if re.match(rf"\s*#?\s*{key}\s*:", text, re.IGNORECASE)), "")
    value = found.partition(":")[2].strip()
    return "" if value.lower() in ("", "nan", "unknown", "n/a") else value


def labels(codes: list[str]) -> tuple[str, str]:
    """Rhythm and morphology in the words of the simulator; "" where none of them applies."""
    rhythm = next((label for code, label in _RHYTHMS.items() if code in codes), "")
    morphology = next((label for code, label in _MORPHOLOGIES.items() if code in codes), "")
    # Sinus rhythm as the only statement is how these collections code a normal ECG.
    return rhythm, morphology or ("normal" if codes == ["426783006"] else "")


def read(mirror: Mirror, record: Record) -> Reading:
    """One record, with what its header says of the person."""
    path = mirror.fetch(f"{record.path}.hea")
    comments = read_header(path).comments or []
    codes = [code for code in re.split(r"[,\s]+", _comment(comments, "Dx")) if code]
    rhythm, morphology = labels(codes)
    age, sex = parse_age(_comment(comments, "Age"), str(path)), parse_sex(_comment(comments, "Sex"), str(path))
    reading = Reading(record.name, age, sex, rhythm=rhythm, morphology=morphology, diagnoses=" ".join(codes))
    reading.stretches = record_stretches(mirror, record.path, reading, needs_ppg=False)
    return reading


SOURCE = Source(
    name="challenge-2021", slug="challenge-2021", version="1.0.3", role="ecg only",
    title="Will Two Do? Varying Dimensions in Electrocardiography: the PhysioNet/Computing in Cardiology Challenge "
    "2021, 1.0.3",
    about={
        "size": "88,253 records, mostly 10 s", "access": "open", "licence": "Creative Commons Attribution 4.0",
        "cite": "Reyna MA et al. Will two do? Varying dimensions in electrocardiography: the PhysioNet/Computing in "
        "Cardiology Challenge 2021. Computing in Cardiology 2021;48:1-4. doi:10.13026/34va-7q14",
        'lead "V"': "none: V1 to V6 are standard leads",
        "note": "PPG simulated from the beats of the ECG; patients are not named, so each record counts as a subject "
        "of its own and one person's records may be in two splits, except exact copies, which are dropped; it holds "
        "PTB-XL too",
    },
    list_records=list_records, files=lambda mirror, record: record_files(mirror, record.path), read=read,
)  # fmt: skip
