"""What is drawn anew about the PPG of training windows, step by step: disturbances, and simulated pulses.

A wearable's PPG is seldom as clean as the windows that a cohort is made of: breathing moves its baseline, the hand
moves, the skin is cold. A network that has seen clean pulses only is lost in them, though their upstrokes are plain to
see. So a share of the training windows is disturbed, at random. And where the PPG was simulated from the beats of a
real ECG, it is simulated again, as of another person of the same age and sex: a few hundred windows are learned by
heart less easily when they never look the same twice. Validation and test windows stay as they are stored.
"""

import numpy as np

from p2es_lib.core.errors import InputError
from p2es_lib.data.windows.store import WindowSet, stored_beats
from p2es_lib.signals.cleaning import ppg_clean
from p2es_lib.simulator.disturbances import disturb
from p2es_lib.simulator.semi_synthetic import semi_synthetic_ppg

#: Signal-to-noise ratio of a disturbed training window, dB: uniform between these.
SNR_DB = (0.5, 20.0)
#: How often each kind is drawn. Motion most often: a pulse wave is worn.
_SHARES = {"motion": 0.4, "drift": 0.15, "low_perfusion": 0.15, "clipping": 0.15, "gaps": 0.15}
#: Simulated to both sides of the window, so that the filter has settled where it begins, s.
_MARGIN_S = 2.0


def clean_and_scale(ppg: np.ndarray, sampling_rate: float) -> np.ndarray:
    """PPG (..., T) as every stored one is: in the band, zero mean, unit variance per window; float32."""
    ppg = ppg_clean(np.asarray(ppg, dtype=float), sampling_rate)
    ppg = ppg - ppg.mean(-1, keepdims=True)
    return (ppg / np.maximum(ppg.std(-1, keepdims=True), 1e-6)).astype(np.float32)


def disturb_share(ppg: np.ndarray, share: float, sampling_rate: float, key: tuple[int, ...]) -> np.ndarray:
    """Disturb training windows (B, 1, T) with probability ``share``, each by a kind and a noise ratio of its own.

    The draws depend on the row and on ``key``, the seed and the step. The others are returned as they are, in float32.
    """
    disturbed = np.array(ppg, dtype=np.float32)
    for row in range(len(disturbed)):
        rng = np.random.default_rng((*key, row))
        if rng.random() < share:
            kind, snr_db = rng.choice(list(_SHARES), p=list(_SHARES.values())), rng.uniform(*SNR_DB)
            disturbed[row] = clean_and_scale(disturb(disturbed[row], kind, snr_db, [rng], sampling_rate), sampling_rate)
    return disturbed


class FreshPulses:
    """PPG for windows of real ECG, simulated again for each step as of another person of the same age and sex.

    It is that of the windows with a simulated PPG (column ``ppg_origin``) and stored beats (``rpeaks_s``). Only the
    beats inside the window are known; those around it are continued with the median interval.
    """

    def __init__(self, windows: WindowSet, sampling_rate: float):
        index, self.sampling_rate = windows.index, sampling_rate
        simulated = index["ppg_origin"] == "simulated" if "ppg_origin" in index else np.zeros(len(index), dtype=bool)
        beats = [row[np.isfinite(row)] for row in stored_beats(index)] if simulated.any() else []
        #: Beats of the rows that can be simulated again, s.
        self.beats_s = {row: beats[row] for row in np.flatnonzero(simulated) if len(beats[row]) > 1}
        self.age, self.sex = index["age"].to_numpy(), index["sex"].to_numpy()

    def __call__(self, ppg: np.ndarray, rows: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Stored PPG (B, 1, T) of these rows, a new one where it was simulated; ``key``: what the draws depend on."""
        if len(ppg) != len(rows):
            raise InputError(f"PPG of {len(ppg)} windows for {len(rows)} rows")
        fresh, rate = np.array(ppg, dtype=np.float32), self.sampling_rate
        margin, duration_s = round(_MARGIN_S * rate), fresh.shape[-1] / rate + 2 * _MARGIN_S
        for place, row in enumerate(rows):
            if row in self.beats_s:
                name = "-".join(str(part) for part in (*key, place))
                person = {"age": self.age[row], "sex": self.sex[row], "record": name, "subject": name}
                pulse = semi_synthetic_ppg(self.beats_s[row] + _MARGIN_S, duration_s, rate, **person)
                inside = ppg_clean(pulse, rate)[margin : margin + fresh.shape[-1]]
                fresh[place, 0] = (inside - inside.mean()) / inside.std()
        return fresh
