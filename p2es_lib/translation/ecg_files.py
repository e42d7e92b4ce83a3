"""Writers of a 12-lead ECG that takes no more memory than a block of it: WFDB and CSV.

Blocks are appended as they come; the file is whole after ``close``. The folder that a writer is given is the caller's
to move into place afterwards, so that nothing half-written gets its final name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from p2es_lib.core.leads import LEADS
from p2es_lib.translation.live import EcgBlock

#: Steps per mV of the WFDB files: 1 microvolt a step, so 16 bits hold 32 mV.
GAIN_PER_MV = 1000
#: WFDB's own mark for a missing sample in 16 bits.
_MISSING = -32768
#: A line of CSV holds 37 numbers: about so many bytes.
CSV_BYTES_PER_LINE = 240


class WfdbWriter:
    """Appends (12, n) mV to a WFDB record in 16 bits; NaN becomes WFDB's own mark for missing.

    Parameters
    ----------
    folder : path
    name : str
        Of the record: ASCII letters, digits, ``_`` and ``-``.
    sampling_rate : float
        Hz.
    """

    def __init__(self, folder: Path, name: str, sampling_rate: float):
        self.folder, self.name, self.sampling_rate = Path(folder), name, sampling_rate
        self._file = open(self.folder / f"{name}.dat", "wb")  # noqa: SIM115 (closed by close)
        self._first: np.ndarray | None = None
        self._checksum, self._length = np.zeros(len(LEADS), dtype=np.int64), 0

    def write(self, signals: np.ndarray) -> None:
        """Append (12, n) mV."""
        steps = np.clip(np.round(np.asarray(signals, np.float64) * GAIN_PER_MV), _MISSING + 1, 32767)
        steps = np.where(np.isnan(steps), _MISSING, steps).astype("<i2")
        if not steps.shape[1]:
            return
        self._first = steps[:, 0] if self._first is None else self._first
        self._checksum += steps.sum(axis=1, dtype=np.int64)
        self._length += steps.shape[1]
        self._file.write(np.ascontiguousarray(steps.T).tobytes())

    def close(self, comments: list[str]) -> Path:
        """Write the header, with these comment lines, and return its path."""
        import wfdb

        self._file.close()
        n = len(LEADS)
        first = np.zeros(n, int) if self._first is None else self._first
        record = wfdb.Record(
            record_name=self.name,
            n_sig=n,
            fs=self.sampling_rate,
            sig_len=self._length,
            file_name=[f"{self.name}.dat"] * n,
            fmt=["16"] * n,
            adc_gain=[float(GAIN_PER_MV)] * n,
            baseline=[0] * n,
            units=["mV"] * n,
            adc_res=[16] * n,
            adc_zero=[0] * n,
            init_value=[int(value) for value in first],
            # The sum of all samples as 16 bits with sign, as the format defines it.
            checksum=[int(value) for value in self._checksum.astype(np.int16)],
            block_size=[0] * n,
            sig_name=list(LEADS),
            comments=comments,
        )
        record.wrheader(write_dir=str(self.folder))
        return self.folder / f"{self.name}.hea"


class CsvWriter:
    """Appends blocks to a table: ``time_s``, then per lead mean and edges of the band (``II_mV``, ``II_lower_mV``...).

    The first lines, which begin with ``#``, are comments (``pandas.read_csv(..., comment="#")``). Missing is empty.
    """

    def __init__(self, path: Path, sampling_rate: float, comments: list[str]):
        self.path, self.sampling_rate = Path(path), sampling_rate
        self._file = open(self.path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by close)
        self._file.writelines(f"# {line}\n" for line in comments)
        names = [f"{lead}{part}_mV" for lead in LEADS for part in ("", "_lower", "_upper")]
        self._file.write(",".join(["time_s", *names]) + "\n")

    def write(self, block: EcgBlock) -> None:
        """Append a block."""
        import pandas as pd

        rows = np.stack([block.mean, block.lower, block.upper], axis=1).reshape(3 * len(LEADS), -1)
        time = [f"{(block.start + i) / self.sampling_rate:.4f}" for i in range(len(block))]
        table = pd.DataFrame(rows.T)
        table.insert(0, "time", time)
        table.to_csv(self._file, header=False, index=False, float_format="%.4f", lineterminator="\n")

    def close(self) -> Path:
        """Finish the file and return its path."""
        self._file.close()
        return self.path
