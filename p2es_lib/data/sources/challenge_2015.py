"""PhysioNet/CinC Challenge 2015: 750 records of bedside alarms, two ECG leads and PPG at 250 Hz, 5 minutes and more."""

import posixpath

from p2es_lib.core.errors import InputError
from p2es_lib.data.download.mirror import Mirror
from p2es_lib.data.sources.contract import Reading, Record, Source
from p2es_lib.data.sources.wfdb_records import find_ppg, read_header, record_files, record_stretches, walk_records


def list_records(mirror: Mirror) -> list[Record]:
    """The records of the public training set; those of the test set were never published."""
    top = "RECORDS" if not mirror.try_fetch("training/RECORDS") and mirror.try_fetch("RECORDS") else "training/RECORDS"
    # The lists name them with and without the folder.
    found = [path.replace("training/training/", "training/") for path in walk_records(mirror, top)]
    found = [path for path in dict.fromkeys(found) if path.startswith("training/")]
    shards = (f"training-{number // 50:02d}" for number in range(len(found)))
    return [Record(posixpath.basename(path), path, shard) for path, shard in zip(found, shards)]


def read(mirror: Mirror, record: Record) -> Reading:
    """One record; an InputError without PPG. Nothing is known of the patients; the header's comments name the alarm."""
    header = read_header(mirror.fetch(f"{record.path}.hea"))
    if find_ppg(header.sig_name or []) is None:
        raise InputError(f"{record.path}: no PPG among the signals {', '.join(header.sig_name or [])}")
    alarm = "_".join(comment.strip().replace(" ", "_") for comment in header.comments or [])
    reading = Reading(record.name, diagnoses=alarm)
    reading.stretches = record_stretches(mirror, record.path, reading)
    return reading


SOURCE = Source(
    name="challenge-2015", slug="challenge-2015", version="1.0.0", role="paired",
    title="Reducing False Arrhythmia Alarms in the ICU: the PhysioNet/Computing in Cardiology Challenge 2015, 1.0.0",
    about={
        "size": "750 records of 5 to 5.5 minutes",
        "access": "open", "licence": "Open Data Commons Attribution License 1.0",
        "cite": "Clifford GD et al. The PhysioNet/Computing in Cardiology Challenge 2015: reducing false arrhythmia "
        "alarms in the ICU. Computing in Cardiology 2015;42:273-276. doi:10.13026/mp2q-8g41",
        'lead "V"': "a chest electrode of unknown position: not used as a lead",
        "note": "every record ends in an alarm, true or false, so rhythms are selected for trouble; neither age, sex "
        "nor who is who is known: each record counts as a subject of its own; mostly one limb lead, from which no "
        "other follows",
    },
    list_records=list_records, files=lambda mirror, record: record_files(mirror, record.path), read=read,
)  # fmt: skip
