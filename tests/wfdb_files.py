"""WFDB records as the data sets hold them, written by the tests themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import wfdb

RATE = 62.5  # frames; ECG 4 samples a frame, PPG 2


def write_multirate(
    folder, name, pair, *, ecg_names=("II", "V", "aVR"), units="mV", fmt="516", ppg_name="Pleth", rate=RATE
):
    """One segment as MIMIC-IV waveforms are: ECG at 250 Hz and PPG at 125 Hz, FLAC-compressed."""
    frames = int(len(pair.ecg) // 4)
    gains = {"II": 1.0, "aVR": -0.8, "V": 0.5, "III": 0.4, "Resp": 0.1}
    ecg = [np.round(200 * gains.get(signal, 1.0) * pair.ecg[: 4 * frames]).astype(np.int64) for signal in ecg_names]
    ppg = np.round(4000 * pair.ppg[::2][: 2 * frames]).astype(np.int64)
    n = len(ecg_names)
    record = wfdb.Record(
        record_name=name, n_sig=n + 1, fs=rate, sig_len=frames, fmt=[fmt] * (n + 1), samps_per_frame=[4] * n + [2],
        file_name=[f"{name}e.dat"] * n + [f"{name}p.dat"], adc_gain=[200.0] * n + [4096.0], baseline=[0] * (n + 1),
        units=[units] * n + ["NU"], sig_name=[*ecg_names, ppg_name], adc_res=[14] * n + [12], adc_zero=[0] * (n + 1),
        e_d_signal=[*ecg, ppg], block_size=[0] * (n + 1), init_value=[int(x[0]) for x in [*ecg, ppg]],
        checksum=[int(np.sum(x)) % 65536 for x in [*ecg, ppg]],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    record.wrsamp(write_dir=str(folder), expanded=True)
    return frames


def write_mimic4(root: Path, make_pair) -> Path:
    """Two patients with two segments each, a gap, a layout header, and one segment that is not there."""
    top = root / "mimic4wdb" / "0.1.0"
    top.mkdir(parents=True)
    listing = []
    for number, subject in enumerate(("10000001", "10000002")):
        record = f"8{number}"
        folder = top / "waves" / "p100" / f"p{subject}"
        listing.append(f"waves/p100/p{subject}/")
        pairs = [make_pair(100, 4 * RATE, 0.8 - 0.1 * number, 0.3, seed=10 * number + k, noise=0.01) for k in range(2)]
        frames = [write_multirate(folder / record, f"{record}_000{k + 1}", pair) for k, pair in enumerate(pairs)]
        (folder / "RECORDS").write_text(f"{record}/{record}\n")
        header = [
            f"{record}/5 4 {RATE} {sum(frames) + 900} 10:00:00 01/01/2150", f"{record}_0000 0",
            f"{record}_0001 {frames[0]}", "~ 500", f"{record}_0009 400", f"{record}_0002 {frames[1]}",
            f"# subject_id {subject}",
        ]  # fmt: skip
        (folder / record / f"{record}.hea").write_text("\n".join(header) + "\n")
        (folder / record / f"{record}_0000.hea").write_text(f"{record}_0000 1 {RATE} 0\n~ 0x4 200/mV 14 0 0 0 0 II\n")
    (top / "RECORDS").write_text("\n".join(listing) + "\n")
    return root


def write_record(
    folder: Path, name: str, signals: dict, rate: float = 125.0, *, fmt: str = "16", units=None, comments=()
) -> None:
    """One WFDB record of one rate; ``signals`` maps names to samples (T,), in mV or, for PPG and the like, in NU."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(signals)
    ecg = [not any(word in signal.lower() for word in ("pleth", "resp")) for signal in names]
    wfdb.wrsamp(
        name, rate, units or ["mV" if is_ecg else "NU" for is_ecg in ecg], names,
        np.column_stack(list(signals.values())),
        fmt=[fmt] * len(names), comments=list(comments), write_dir=str(folder),
    )  # fmt: skip


def read_record(source, mirror, record):
    """``source.read``, and what the source says beforehand of whose record it is must be what the reading says."""
    reading = source.read(mirror, record)
    assert source.subject(mirror, record) == reading.subject
    return reading
