"""The arrays of one 12-lead picture, checked: reference, estimate and the band of its samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import ABSENT


@dataclass
class EcgTraces:
    """Reference, estimate, and lower and upper edge of its samples, each (12, T) mV or None; and the lead mask."""

    sampling_rate: float
    ecg: np.ndarray | None = None
    estimate: np.ndarray | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    lead_mask: np.ndarray = field(default_factory=lambda: np.full(12, 2))

    @classmethod
    def of(cls, sampling_rate, ecg=None, estimate=None, samples=None, spread=None, lead_mask=None) -> EcgTraces:
        """Check shapes; take mean and 5th to 95th percentile of the samples where they are not given."""
        if samples is not None:
            samples = np.asarray(samples, dtype=float)
            if samples.ndim != 3 or samples.shape[1] != 12:
                raise InputError(f"samples has shape {samples.shape}; expected (K, 12, T) in mV")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a lead that is NaN throughout stays NaN
                estimate = np.nanmean(samples, axis=0) if estimate is None else estimate
                spread = np.nanpercentile(samples, [5, 95], axis=0) if spread is None and len(samples) > 1 else spread
        lower, upper = (None, None) if spread is None else spread
        arrays = {"ecg": ecg, "estimate": estimate, "lower": lower, "upper": upper}
        arrays = {name: None if a is None else np.array(a, dtype=float) for name, a in arrays.items()}
        shapes = {a.shape for a in arrays.values() if a is not None}
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or shape[0] != 12 or shape[1] < 2:
            raise InputError(f"ECG arrays have shapes {sorted(shapes)}; give at least one, all (12, T) in mV")
        lead_mask = np.full(12, 2) if lead_mask is None else np.asarray(lead_mask).reshape(-1)
        if lead_mask.shape != (12,):
            raise InputError(f"lead_mask has shape {lead_mask.shape}; expected (12,)")
        if arrays["ecg"] is not None:
            arrays["ecg"][lead_mask == ABSENT] = np.nan
        return cls(float(sampling_rate), lead_mask=lead_mask, **arrays)

    @property
    def length(self) -> int:
        """Samples of the window."""
        return next(a.shape[1] for a in (self.ecg, self.estimate, self.lower) if a is not None)

    def values(self, row: int, part: slice) -> np.ndarray:
        """All finite values of one lead within a part of the window, mV; (0,) array if the lead is absent."""
        stacked = [a[row, part] for a in (self.ecg, self.estimate, self.lower, self.upper) if a is not None]
        stacked = np.concatenate(stacked)
        return stacked[np.isfinite(stacked)]
