"""Sittings of one person: what stays, what changes by how much, drift within one, fast hearts, changes of the heart."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, lead_residual
from p2es_lib.simulator import CHANGES, SimulatorConfig, simulate
from p2es_lib.simulator.draws import generator
from p2es_lib.simulator.rhythm import BEAT_PVC

#: First digits of the SHA-256 of the ECG, and of the PPG without drift, of BEFORE_CONFIG before there were sessions (on
#: x86 with AVX512), and the mean of |V3| in 1e-6 mV of every second window, for other machines.
BEFORE_CONFIG = SimulatorConfig(window_samples=512, premature_beats=5.0, arrhythmia=2.0, morphology=2.0, pat_drift=0.0)
ECG_HASH, PPG_HASH = "ad164ba2bc3d2aff", "2021d356a78c9712"
V3_BEFORE = [
    147473, 153920, 115492, 119281, 91071, 103557, 68186, 141541, 167061, 187165, 93174, 124814, 86942, 226529,
    53215, 165926, 71375, 81937, 77471, 114135
]  # fmt: skip
PAIRS_CONFIG = SimulatorConfig(
    sampling_rate=500, window_samples=1500, morphology=0, arrhythmia=0, premature_beats=0, breathing=0, hrv=0
)
N_PAIRS = 240
AROUND_R = np.arange(-100, 200) / 500  # 600 ms


def beats_of(windows) -> np.ndarray:
    """One beat of each window, 600 ms around R, (N, 12, 300), mV."""
    t = np.arange(PAIRS_CONFIG.window_samples) / PAIRS_CONFIG.sampling_rate
    found = []
    for ecg, r in zip(windows.ecg, windows.latents.r_times, strict=True):
        at = r[(r > 0.3) & (r < 2.5)][0] + AROUND_R
        found.append([np.interp(at, t, lead) for lead in ecg])
    return np.array(found)


def waves_of(windows, beats) -> tuple[np.ndarray, np.ndarray]:
    """Height of R and of T (whichever sign), (N, 12) each, mV from the beginning of QRS."""
    high, late = [], []
    for beat, qrs in zip(beats, windows.latents.qrs_s, strict=True):
        onset, end = -0.45 * qrs - 0.005, 0.55 * qrs + 0.01
        beat = beat - beat[:, [np.searchsorted(AROUND_R, onset)]]
        high.append(beat[:, (onset <= AROUND_R) & (end >= AROUND_R)].max(axis=1))
        late.append(np.abs(beat[:, end + 0.06 < AROUND_R]).max(axis=1))
    return np.array(high), np.array(late)


def axis_of(beats, begin, end) -> np.ndarray:
    area = beats[:, :, (begin < AROUND_R) & (end > AROUND_R)].sum(axis=2)
    return np.rad2deg(np.arctan2(area[:, LEADS.index("aVF")] * 2 / np.sqrt(3), area[:, 0]))


@pytest.fixture(scope="module")
def pairs():
    """Two sittings of normal people, and a beat of each."""
    both = [simulate(range(N_PAIRS), 1, PAIRS_CONFIG, session=session) for session in (1, 2)]
    return both, [beats_of(windows) for windows in both]


def within(first, second) -> np.ndarray:
    """SD within a person of one recording, from pairs."""
    return np.sqrt(np.mean((first - second) ** 2, axis=0) / 2)


def robust(first, second) -> float:
    return float(np.median(np.abs(first - second)) / 0.6745 / np.sqrt(2))


def test_session_0_is_the_person_as_before():
    windows = simulate(range(40, 60), 2, BEFORE_CONFIG)
    digests = [hashlib.sha256(part.tobytes()).hexdigest()[:16] for part in (windows.ecg, windows.ppg)]
    v3 = 1e6 * np.abs(windows.ecg[::2, LEADS.index("V3")]).mean(axis=1)
    assert v3 == pytest.approx(np.array(V3_BEFORE), abs=2)
    if digests != [ECG_HASH, PPG_HASH]:
        warnings.warn(f"other bits than where the hashes were taken: {digests}", stacklevel=1)
    with_drift = simulate(range(40, 60), 2, BEFORE_CONFIG.replace(pat_drift=1.0))
    assert np.array_equal(with_drift.ecg, windows.ecg) and not np.array_equal(with_drift.ppg, windows.ppg)
    assert windows.index["record"].tolist() == windows.index["subject"].tolist()


def test_a_session_is_the_same_bytes_in_any_company():
    config = SimulatorConfig(window_samples=256, extreme_rates=0.3)
    for session, change in ((1, "none"), (7, "pvc")):
        forward, backward = (
            simulate(part, 2, config, session=session, change=change) for part in (range(60), range(59, -1, -1))
        )
        for subject in range(0, 60, 7):
            alone = simulate([subject], 2, config, session=session, change=change)
            for row in range(2):
                same = (forward, 2 * subject + row), (backward, 2 * (59 - subject) + row), (alone, row)
                assert len({(w.ecg[i].tobytes(), w.ppg[i].tobytes()) for w, i in same}) == 1
                assert forward.index.iloc[2 * subject + row].equals(alone.index.iloc[row])


def test_sessions_are_other_recordings_of_the_same_person():
    sittings = [simulate([12, 5], 2, session=session) for session in range(3)]
    assert [w.index["record"].iloc[0] for w in sittings] == ["sim-000012", "sim-000012-s1", "sim-000012-s2"]
    assert [w.index["session"].unique().tolist() for w in sittings] == [[0], [1], [2]]
    for column in ("subject", "age", "sex", "height_cm", "weight_kg", "stiffness", "morphology", "start_s", "change"):
        assert sittings[0].index[column].equals(sittings[2].index[column])
    for name in ("pat_residual_s", "pr_s"):
        values = [getattr(w.latents, name) for w in sittings]
        assert all(v[0] == v[1] for v in values) and len({v[0] for v in values}) == 3
    assert len({w.latents.r_times[0, 3] for w in sittings}) == 3  # other beats
    assert lead_residual(simulate(range(60), 1, session=1).ecg).max() < 1e-6  # Einthoven, Goldberger


def test_streams_of_sessions_are_distinct():
    keys = [(1, 2), (1, 2, None, 1), (1, 2, None, 2), (1, 2, 0), (1, 2, 0, 1), (1, 2, 1, 1)]
    streams = [generator(*key) for key in keys] + [generator(*key, later=True) for key in keys]
    numbers = [stream.random() for stream in streams]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("options", [{"change": "af"}, {"session": 1, "change": "flu"}, {"session": -1}])
def test_wrong_sessions_are_refused(options):
    with pytest.raises(InputError):
        simulate([0], 1, **options)
    with pytest.raises(InputError):
        SimulatorConfig(extreme_rates=1.5)


def test_no_variation_between_sessions_where_it_is_switched_off():
    config = SimulatorConfig.without_variation(window_samples=256)
    one, two = (simulate(range(5), 1, config, session=session).latents for session in (0, 4))
    for name in ("qrs_s", "pr_s", "pat_residual_s", "breathing_hz"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert not np.nansum(np.abs(two.pat_slow_s))


def test_mean_beats_of_two_sessions_differ_as_pairs_of_real_records_do(pairs):
    """Pairs of PTB-XL NORM: median RMS 0.054 mV (0.028-0.118), r 0.96 (0.79-0.99), 12 leads, 600 ms."""
    _, (first, second) = pairs
    rms = np.sqrt(np.mean((first - second) ** 2, axis=(1, 2)))
    r = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second, strict=True)]
    assert 0.050 < np.median(rms) < 0.061 and 0.955 < np.median(r) < 0.975
    # Session 0 has no deviation of its own: nearer by the square root of 2.
    person = beats_of(simulate(range(N_PAIRS), 1, PAIRS_CONFIG))
    nearer = np.median(np.sqrt(np.mean((first - person) ** 2, axis=(1, 2)))) / np.median(rms)
    assert nearer == pytest.approx(np.sqrt(0.5), rel=0.1)


def test_sizes_of_waves_change_as_in_real_records(pairs):
    """CV of R and T within a person; V4 (30 % in 8 pairs with low R) by its SD, 0.25 mV."""
    both, beats = pairs
    (r_1, t_1), (r_2, t_2) = (waves_of(w, b) for w, b in zip(both, beats, strict=True))
    cv_r, cv_t = (100 * within(a, b) / (a.mean(axis=0) + b.mean(axis=0)) * 2 for a, b in ((r_1, r_2), (t_1, t_2)))
    for lead, low, high in (
        ("I", 5, 9), ("II", 4, 8), ("V1", 24, 36), ("V2", 13, 23), ("V3", 16, 25), ("V5", 11, 18), ("V6", 9, 15)
    ):  # fmt: skip
        assert low < cv_r[LEADS.index(lead)] < high, lead
    assert 0.20 < within(r_1, r_2)[LEADS.index("V4")] < 0.32
    assert 10 < cv_t[0] < 19 and 8 < cv_t[1] < 15


def test_axes_and_intervals_change_as_in_real_records(pairs):
    (one, two), (first, second) = pairs
    turn = (axis_of(first, -0.05, 0.06) - axis_of(second, -0.05, 0.06) + 180) % 360 - 180
    assert 3.3 < robust(turn, 0) < 5.5
    turn = (axis_of(first, 0.15, 0.40) - axis_of(second, 0.15, 0.40) + 180) % 360 - 180
    assert 5.5 < robust(turn, 0) < 8.5
    one, two = (simulate(range(1500), 1, SimulatorConfig(window_samples=128), session=s).latents for s in (1, 2))
    assert 1e3 * within(one.qrs_s, two.qrs_s) == pytest.approx(3, rel=0.08)
    assert 1e3 * within(one.pr_s, two.pr_s) == pytest.approx(6, rel=0.08)
    change = 1e3 * (one.pat_residual_s - two.pat_residual_s) / np.sqrt(2)
    assert robust(change, 0) * np.sqrt(2) == pytest.approx(9.5, rel=0.1)  # the middle: 9 ms
    assert change.std() == pytest.approx(np.sqrt(0.9 * 81 + 0.1 * 400), rel=0.1)
    assert 25 < np.abs(1e3 * (one.pat_residual_s - two.pat_residual_s)).max() < 100  # a tail


def test_heart_rate_and_qtc_change_between_sessions():
    config = SimulatorConfig(arrhythmia=0, premature_beats=0, hrv=0, window_samples=512)
    one, two = (simulate(range(1200), 1, config, session=s).index for s in (1, 2))
    rate = within(np.log(one["heart_rate"]), np.log(two["heart_rate"]))
    assert rate == pytest.approx(np.hypot(0.09, 0.04), rel=0.08)  # with what differs between windows
    assert 5 < within(one["heart_rate"], two["heart_rate"]) < 9
    # QT follows the rate along its own curve and not Fridericia's, which adds a little.
    assert within(one["qtc_ms"], two["qtc_ms"]) == pytest.approx(9, rel=0.15)


def test_slow_drift_within_a_session():
    windows = simulate(range(300), 3)
    slow = 1e3 * windows.latents.pat_slow_s
    mean, spread = np.nanmean(slow, axis=1), np.nanstd(slow, axis=1)
    assert np.nanstd(slow) == pytest.approx(np.sqrt(18), rel=0.06)
    assert 1.5 < np.median(spread) < 3.2 and 2.8 < mean.std() < 4.0
    by_subject = mean.reshape(300, 3)
    assert abs(np.corrcoef(by_subject[:, 0], by_subject[:, 1])[0, 1]) < 0.2  # a minute apart: another offset
    regular = (windows.index["heart_rate"] > 55).to_numpy()
    steps = np.nanstd(np.diff(slow[regular], axis=1), axis=1)
    assert np.median(steps) < 0.9 * np.median(spread[regular])  # slow: neighbours are alike
    assert not np.nansum(np.abs(simulate(range(3), 1, SimulatorConfig(pat_drift=0.0)).latents.pat_slow_s))


@pytest.fixture(scope="module")
def far():
    return simulate(range(600), 1, SimulatorConfig(extreme_rates=1.0, morphology=0))


def test_rates_far_from_rest(far):
    rate, latents, index = far.index["heart_rate"].to_numpy(), far.latents, far.index
    slow, fast = latents.far_way < 0, latents.far_way > 0
    assert slow.mean() == pytest.approx(0.25, abs=0.06) and (slow | fast).all()
    assert rate[slow].min() > 25 and np.median(rate[slow]) == pytest.approx(40, abs=3) and rate[slow].max() < 60
    assert rate[fast].min() > 85 and rate[fast].max() > 190
    sinus = (index["rhythm"] != "af").to_numpy()
    limit = np.minimum(222 - 0.64 * latents.age, 220)
    assert (rate[sinus] < 1.16 * limit[sinus]).all()  # 4 % from window to window
    assert set(index["rhythm"][sinus & fast]) == {"tachycardia"}
    assert set(index["rhythm"][sinus & slow]) == {"bradycardia"}
    assert np.nanmin(np.diff(latents.r_times, axis=1)) > 0.24


def test_intervals_and_delay_follow_the_rate(far):
    rest = simulate(range(600), 1, SimulatorConfig(morphology=0))
    latents, rate = far.latents, 60 / far.latents.mean_rr_s
    sinus = ((far.index["rhythm"] != "af") & (rest.index["rhythm"] != "af")).to_numpy()
    assert (latents.qt_s < 0.83 * latents.mean_rr_s).all() and latents.qrs_s.min() > 0.05
    assert (latents.pr_s + 0.45 * latents.qrs_s < 0.75 * latents.mean_rr_s)[sinus].all()
    exercise = sinus & (rate > 120) & (rate < 150)
    assert 1e3 * (latents.pr_s - rest.latents.pr_s)[exercise].mean() == pytest.approx(-35, abs=10)
    shorter = far.index["pat_ms"] - rest.index["pat_ms"]
    assert -60 < shorter[exercise].mean() < -30
    at_150 = sinus & (rate > 140) & (rate < 160)
    assert 0.27 < latents.qt_s[at_150].mean() < 0.31
    very_fast = sinus & (rate > 185)
    assert 0.21 < latents.qt_s[very_fast].mean() < 0.27
    assert (far.index["pr_ms"][sinus & (rate < 45)].mean()) > rest.index["pr_ms"][sinus].mean() + 15


def test_others_are_as_without_rates_far_from_rest():
    windows, before = (simulate(range(80), 1, SimulatorConfig(extreme_rates=share)) for share in (0.3, 0.0))
    same = windows.latents.far_way == 0
    assert 0.5 < same.mean() < 0.9
    assert np.array_equal(windows.ecg[same], before.ecg[same]) and np.array_equal(windows.ppg[same], before.ppg[same])


def test_fast_hearts_are_continuous_and_fill_the_window():
    coarse_config = SimulatorConfig(sampling_rate=1000, window_samples=3000, extreme_rates=1.0)
    fine_config = coarse_config.replace(sampling_rate=2000, window_samples=6000)
    coarse, fine = (simulate(range(60), 1, config) for config in (coarse_config, fine_config))
    assert np.array_equal(coarse.ecg, fine.ecg[..., ::2])
    steps = [np.abs(np.diff(w.ecg, axis=2)).max(axis=2) for w in (coarse, fine)]
    assert (steps[1] < 0.56 * steps[0] + 2e-4).all()
    long = simulate(range(100), 1, SimulatorConfig(extreme_rates=1.0, window_samples=4096))
    assert (np.nanmax(long.latents.r_times, axis=1) > 4096 / 125 - 2.5).all()


def test_pulses_of_fast_hearts_are_one_per_beat(far):
    t = np.arange(1024) / 125
    rows = np.flatnonzero((far.index["heart_rate"] > 170) & (far.index["rhythm"] == "tachycardia"))
    assert len(rows) > 20
    for row in rows[:40]:
        ppg, onsets = far.ppg[row, 0], far.latents.pulse_onsets[row]
        onsets = onsets[(onsets > 0.5) & (onsets < 7.5)]
        troughs = t[1:-1][(ppg[1:-1] < ppg[:-2]) & (ppg[1:-1] <= ppg[2:]) & (ppg[1:-1] < 0)]
        near = np.abs(troughs[:, None] - onsets).min(axis=0)
        assert (near < 0.08).mean() > 0.9


@pytest.fixture(scope="module")
def changes():
    """The same sitting with every change of the heart."""
    config = SimulatorConfig(morphology=0, arrhythmia=0, premature_beats=0)
    return {change: simulate(range(40), 1, config, session=1, change=change) for change in CHANGES}


def test_changes_are_told_and_leave_the_rest(changes):
    assert tuple(changes) == ("none", "af", "pvc", "st_elevation", "lbbb", "long_qt")
    for change, windows in changes.items():
        assert set(windows.index["change"]) == {change}
        assert np.array_equal(windows.latents.pat_residual_s, changes["none"].latents.pat_residual_s)
    for change in ("st_elevation", "lbbb"):  # nothing that PPG shows
        assert np.array_equal(changes[change].ppg, changes["none"].ppg)


def test_new_atrial_fibrillation_and_frequent_pvcs(changes):
    def irregular(windows):
        steps = np.diff(windows.latents.pulse_onsets, axis=1)
        return np.nanstd(steps, axis=1) / np.nanmean(steps, axis=1)

    assert np.median(irregular(changes["af"])) > 0.12 > 3 * np.median(irregular(changes["none"]))
    assert set(changes["af"].index["rhythm"]) == {"af"} and changes["af"].index["pr_ms"].isna().all()
    n_pvc = changes["pvc"].index["n_pvc"]
    assert n_pvc.min() >= 1 and 1.8 < n_pvc.mean() < 4 and not changes["none"].index["n_pvc"].any()
    latents = changes["pvc"].latents
    weak = latents.pulse_amplitude[latents.beat_type == BEAT_PVC]
    assert np.median(weak) < 0.5


def test_new_st_elevation_block_and_long_qt(changes):
    t, plain = np.arange(1024) / 125, changes["none"]

    def at_j(windows):
        found = []
        for row, r in enumerate(windows.latents.r_times):
            r = r[(r > 0.5) & (r < 7)]
            late = windows.latents.qrs_s[row] * 0.55 + 0.04
            found.append(np.median(windows.ecg[row][:, np.searchsorted(t, r + late)], axis=1))
        return np.array(found)

    raised = (at_j(changes["st_elevation"]) - at_j(plain)).max(axis=1)
    assert raised.min() > 0.08 and raised.max() < 1.2
    assert set(changes["st_elevation"].index["morphology"]) == {"st_elevation"}
    block = changes["lbbb"].index
    assert block["qrs_ms"].min() >= 112 and (block["qrs_ms"] > plain.index["qrs_ms"] + 20).all()
    longer = changes["long_qt"].index["qtc_ms"] - plain.index["qtc_ms"]
    assert longer.min() > 55 and longer.max() < 112
    # T itself comes later in V5.
    v5, later = LEADS.index("V5"), []
    for row, r in enumerate(plain.latents.r_times):
        near = (t > (r := r[(r > 0.3) & (r < 6.5)][0]) + 0.15) & (t < r + 0.55)
        peaks = [t[near][w.ecg[row, v5, near].argmax()] for w in (plain, changes["long_qt"])]
        later.append(peaks[1] - peaks[0])
    assert 0.03 < np.median(later) < 0.10


def test_st_elevation_adds_to_a_heart_that_is_not_normal():
    config = SimulatorConfig(morphology=2.0, premature_beats=0, arrhythmia=0, window_samples=512)
    plain, raised = (simulate(range(80), 1, config, session=1, change=c) for c in ("none", "st_elevation"))
    odd = plain.index["morphology"].isin(["lbbb", "rbbb", "lvh", "lafb", "anterior_mi", "inferior_mi"]).to_numpy()
    assert odd.sum() > 10 and plain.index["morphology"][odd].equals(raised.index["morphology"][odd])
    assert (np.abs(raised.ecg - plain.ecg)[odd].max(axis=(1, 2)) > 0.1).all()
