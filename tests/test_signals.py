"""Beats against known times and against NeuroKit2; quality falls where a signal is spoilt, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from p2es_lib.core.errors import InputError
from p2es_lib.signals import cleaning, transforms


def matched(found, true, tolerance_s: float) -> float:
    """F1 of times in seconds."""
    found, true = np.asarray(found), np.asarray(true)
    if len(found) == 0:
        return 0.0
    hits = np.sum(np.min(np.abs(found[:, None] - true[None, :]), axis=0) <= tolerance_s)
    return 2 * hits / (len(found) + len(true))


# ---------------------------------------------------------------------------------------------------------------- beats
@pytest.mark.parametrize("rate", [62.5, 125.0, 249.89, 1000.0])
@pytest.mark.parametrize("interval_s", [0.4, 0.8, 1.5])
def test_rpeaks_are_where_they_were_put(make_pair, rate, interval_s):
    pair = make_pair(24, rate, interval_s)
    found = cleaning.ecg_rpeaks(pair.ecg, rate)
    assert found.dtype.kind == "i"
    assert matched(found / rate, pair.rpeaks_s, 0.5 / rate + 0.006) > 0.985


@pytest.mark.parametrize("sign", [1, -1])
def test_rpeaks_of_noisy_and_inverted_leads(make_pair, sign):
    pair = make_pair(40, 125.0, noise=0.08)
    assert matched(cleaning.ecg_rpeaks(sign * pair.ecg, 125.0) / 125.0, pair.rpeaks_s, 0.03) > 0.97


def test_rpeaks_survive_an_artefact_elsewhere(make_pair):
    """NeuroKit2's global threshold loses most beats of such a recording: the reason why ours is local."""
    pair = make_pair(120, 125.0)
    ecg = pair.ecg.copy()
    ecg[6000:6300] += 50 * np.sin(np.arange(300))
    keep = np.abs(pair.rpeaks_s - 49.2) > 8
    found = cleaning.ecg_rpeaks(ecg, 125.0) / 125.0
    assert matched(found[np.abs(found - 49.2) > 8], pair.rpeaks_s[keep], 0.02) > 0.97


def test_rpeaks_agree_with_neurokit():
    import neurokit2 as nk

    ecg = nk.ecg_simulate(duration=15, sampling_rate=250, heart_rate=75, noise=0.05, random_state=1)
    _, reference = nk.ecg_peaks(nk.ecg_clean(ecg, sampling_rate=250), sampling_rate=250)
    both = cleaning.ecg_rpeaks(ecg, 250), reference["ECG_R_Peaks"]
    inner = [beats[(beats > 50) & (beats < 3700)] / 250 for beats in both]  # one at sample 0 is a matter of taste
    assert matched(*inner, 0.02) > 0.98


@pytest.mark.parametrize("rate", [50.0, 125.0, 500.0])
@pytest.mark.parametrize("interval_s", [0.5, 0.8, 1.3])
def test_onsets_are_where_pulses_begin(make_pair, rate, interval_s):
    pair = make_pair(24, rate, interval_s)
    found = cleaning.ppg_onsets(pair.ppg, rate) / rate
    assert matched(found, pair.onsets_s, 0.06) > 0.97
    offset = found[np.argmin(np.abs(found[:, None] - pair.onsets_s[None]), axis=0)] - pair.onsets_s
    # A tangent foot may sit beside the mathematical beginning of a pulse, but always at the same distance.
    assert np.std(offset) < 0.015 and abs(np.median(offset)) < 0.04


def test_onsets_agree_with_neurokit():
    import neurokit2 as nk

    ppg = nk.ppg_simulate(duration=15, sampling_rate=125, heart_rate=75, random_state=1, motion_amplitude=0)
    _, reference = nk.ppg_peaks(nk.ppg_clean(ppg, sampling_rate=125), sampling_rate=125)
    peaks = reference["PPG_Peaks"]
    found = cleaning.ppg_onsets(ppg, 125)
    following = peaks[np.searchsorted(peaks, found[:-1])] - found[:-1]  # a systolic peak soon after every onset
    assert abs(len(found) - len(peaks)) <= 2
    assert np.all((following > 0.05 * 125) & (following < 0.35 * 125))


def test_beats_of_the_simulated_cohort():
    """All rhythms and morphologies, with their own widths, amplitudes and ectopic beats."""
    from p2es_lib.simulator import simulate

    windows = simulate(range(80), 1)
    hits = {"R peak": [0, 0], "onset": [0, 0]}
    for row in range(80):
        lead, rate = windows.ecg[row, 1], 125.0
        for name, found, true in (
            ("R peak", cleaning.ecg_rpeaks(lead, rate) / rate, windows.latents.r_times[row]),
            ("onset", cleaning.ppg_onsets(windows.ppg[row, 0], rate) / rate, windows.latents.pulse_onsets[row]),
        ):
            found, true = (x[(x > 0.5) & (x < 7.7)] for x in (found, true))  # NaN padding falls out too
            hits[name][0] += 2 * np.sum(np.min(np.abs(found[:, None] - true), axis=0, initial=9) <= 0.06)
            hits[name][1] += len(found) + len(true)
    f1 = {name: hit / total for name, (hit, total) in hits.items()}
    assert f1["R peak"] > 0.96 and f1["onset"] > 0.99, f1


def ecg_agreement(ecg, rate=125):
    return cleaning.template_agreement(cleaning.ecg_clean(ecg, rate), cleaning.ecg_rpeaks(ecg, rate), rate)


def test_flat_signals_have_no_beats():
    for x in (np.zeros(1000), np.full(1000, 3.7), np.full(1000, np.nan)):
        assert len(cleaning.ecg_rpeaks(x, 125)) == 0
        assert len(cleaning.ppg_onsets(x, 125)) == 0
        assert cleaning.ppg_quality(x, 125) == ecg_agreement(x) == 0


def test_too_short_is_an_input_error():
    for function in (cleaning.ppg_clean, cleaning.ecg_clean, cleaning.ppg_onsets, cleaning.ecg_rpeaks):
        with pytest.raises(InputError, match="at least 2 s"):
            function(np.ones(100), 125)


# ------------------------------------------------------------------------------------------------------------- cleaning
def test_bands_pass_and_stop_without_delay():
    t = np.arange(2500) / 125
    middle = slice(500, 2000)
    for clean, kept, stopped in ((cleaning.ppg_clean, 2.0, 20.0), (cleaning.ecg_clean, 12.0, 60.0)):
        wave = np.sin(2 * np.pi * kept * t)
        assert np.max(np.abs(clean(wave, 125)[middle] - wave[middle])) < 0.02  # no phase shift, no loss
        assert np.max(np.abs(clean(np.sin(2 * np.pi * stopped * t), 125)[middle])) < 0.06
        assert np.max(np.abs(clean(5 + 0.1 * t, 125)[middle])) < 0.01  # offset and drift
    assert np.isnan(cleaning.ppg_clean(np.where(t == t[700], np.nan, wave), 125)).sum() == 1


def test_low_rates_keep_what_they_have():
    t = np.arange(2000) / 50
    wave = np.sin(2 * np.pi * 15 * t)  # 40 Hz is beyond the Nyquist frequency of 50 Hz
    assert np.max(np.abs(cleaning.ecg_clean(wave, 50)[500:1500] - wave[500:1500])) < 0.02


# -------------------------------------------------------------------------------------------------------------- quality
def test_quality_of_clean_noisy_and_random_signals(make_pair):
    pair = make_pair(8.192, 125.0)
    rng = np.random.default_rng(0)
    assert cleaning.ppg_quality(pair.ppg, 125) > 0.95
    assert ecg_agreement(pair.ecg) > 0.95
    noise = rng.standard_normal(1024)
    assert cleaning.ppg_quality(noise, 125) < 0.7
    assert ecg_agreement(noise) < 0.7
    ladder = [ecg_agreement(pair.ecg + level * noise) for level in (0, 0.1, 0.3)]
    assert ladder[0] > ladder[1] > ladder[2]


def test_few_beats_or_an_absurd_rate_are_no_quality(make_pair):
    pair = make_pair(8.192, 125.0)
    beats = np.round(pair.rpeaks_s * 125)
    assert cleaning.template_agreement(pair.ecg, beats, 125) > 0.95
    assert cleaning.template_agreement(pair.ecg, beats[:2], 125) == 0
    assert cleaning.template_agreement(pair.ecg, np.arange(100, 900, 25), 125) == 0  # 300 per minute


def test_agreement_weighs_leads_by_amplitude(make_pair):
    pair = make_pair(8.192, 125.0)
    beats = np.round(pair.rpeaks_s * 125)
    noise = np.random.default_rng(0).standard_normal(1024)
    weak, strong = (cleaning.template_agreement(np.stack([pair.ecg, a * noise]), beats, 125) for a in (0.02, 1.0))
    assert weak > 0.9 and strong < 0.6


def test_faults_are_found_where_they_are(make_pair):
    pair = make_pair(40, 125.0)
    rate, clean = 125.0, pair.ppg + 1e-4 * np.sin(np.arange(5000))
    assert not cleaning.fault_mask(clean, rate).any()
    assert not cleaning.fault_mask(pair.ecg + 1e-4 * np.sin(np.arange(5000)), rate, "ecg").any()
    missing, flat = clean.copy(), clean.copy()
    missing[1000:1100] = np.nan
    missing[2000] = np.inf
    assert np.array_equal(np.flatnonzero(cleaning.fault_mask(missing, rate)), [*range(1000, 1100), 2000])
    flat[1000:1200] = flat[1000]
    assert np.array_equal(np.flatnonzero(cleaning.fault_mask(flat, rate)), np.arange(1001, 1200))
    clipped = np.minimum(clean, np.percentile(clean, 90))
    mask = cleaning.fault_mask(clipped, rate)
    assert 0.08 < mask.mean() < 0.101 and np.all(clipped[mask] == clipped.max())
    assert cleaning.fault_mask(np.full(500, np.nan), rate).all()


def test_wrapped_signals_are_faulty(make_pair):
    """An overflowing converter jumps from one end of its range to the other, as in record v102s of CinC 2015."""
    ppg = make_pair(40, 125.0).ppg
    limit = np.percentile(ppg, 80)
    wrapped = np.where(ppg > limit, ppg - np.ptp(ppg), ppg)
    mask = cleaning.fault_mask(wrapped, 125.0)
    jumps = np.flatnonzero(np.abs(np.diff(wrapped)) > 0.6 * np.ptp(wrapped))
    assert len(jumps) > 50 and mask[jumps].all() and mask.mean() > 0.5
    assert cleaning.ppg_quality(wrapped, 125.0) == 0


@pytest.mark.parametrize("rate", [20.0, 25.0, 30.0])
@pytest.mark.parametrize("seconds", [10, 40])
def test_long_samples_may_hold_much_of_an_upstroke(rate, seconds):
    """At 20 Hz an upstroke is two samples: good PPG had been called faulty. A sensor that is switched still is."""
    from p2es_lib.simulator import SimulatorConfig, simulate

    windows = simulate(range(9000, 9012), 1, SimulatorConfig(window_samples=125 * seconds)).ppg[:, 0].astype(float)
    t = np.arange(0, seconds - 0.1, 1 / rate)
    steepest = 0.0
    for window in windows:
        ppg = np.interp(t, np.arange(window.size) / 125, window)
        steepest = max(steepest, np.abs(np.diff(ppg)).max() / np.ptp(ppg))
        assert not cleaning.fault_mask(ppg, rate).any()
        middle = len(ppg) // 2
        switched = ppg + np.where(np.arange(len(ppg)) < middle, 0.0, 20 * np.ptp(ppg))
        mask = cleaning.fault_masks(switched, rate)["jump"]
        assert mask[middle] and mask.sum() < rate
    assert rate > 25 or steepest > 0.4, "the old limit would have called some of them faulty"


def test_largest_step_is_unchanged_from_50_hz_on():
    assert [cleaning.largest_step("ppg", rate) for rate in (50.0, 62.5, 125.0, 1000.0)] == [0.4] * 4
    falling = [cleaning.largest_step("ppg", rate) for rate in (1.0, 20.0, 25.0, 30.0, 40.0, 50.0)]
    np.testing.assert_allclose(falling, [0.75, 0.75, 0.633, 0.556, 0.458, 0.4], atol=1e-3)


def test_a_long_sample_may_hold_much_of_a_qrs_complex():
    """At 100 Hz a quarter of the clean ECG had been called faulty, at 50 Hz more than half; none must be."""
    from p2es_lib.simulator import SimulatorConfig, simulate

    config = SimulatorConfig(sampling_rate=500.0, window_samples=4096, arrhythmia=0.0, premature_beats=0.0)
    leads, steep = simulate(range(42), 1, config).ecg[:, 1].astype(float), 0
    for rate in (500.0, 125.0, 100.0, 62.5, 50.0):
        for ecg in (transforms.resample_signal(lead, 500.0, rate) for lead in leads):
            masks = cleaning.fault_masks(ecg, rate, "ecg")
            assert not masks["jump"].any()
            assert ecg_agreement(ecg, rate) > 0.7  # what a window must have (data.min_quality)
            steep += np.abs(np.diff(ecg)).max() > cleaning.largest_step("ecg", 125.0) * np.ptp(ecg)
            middle = len(ecg) // 2  # a sensor that is switched
            switched = np.where(np.arange(len(ecg)) < middle, ecg, ecg - 40 * np.ptp(ecg))
            assert cleaning.fault_masks(switched, rate, "ecg")["jump"][middle]
    assert steep > 10, "the limit of 125 Hz would have called some of them faulty"


def test_the_largest_step_of_an_ecg_is_unchanged_from_125_hz_on():
    assert [cleaning.largest_step("ecg", rate) for rate in (125.0, 250.0, 1000.0)] == [0.7] * 3
    np.testing.assert_allclose([cleaning.largest_step("ecg", rate) for rate in (100.0, 50.0, 20.0)], [0.76, 0.93, 0.93])


# -------------------------------------------------------------------------------------------------------------- pairing
def test_pairs_of_one_constant_delay(make_pair):
    for delay_s in (0.15, 0.3, 0.5):
        pair = make_pair(8.192, 125.0, delay_s=delay_s)
        beats, onsets = cleaning.ecg_rpeaks(pair.ecg, 125), cleaning.ppg_onsets(pair.ppg, 125)
        score, delays = cleaning.pair_beats(beats, onsets, 1024, 125)
        assert score > 0.95 and abs(np.median(delays) - delay_s) < 0.04 and np.std(delays) < 0.02


def test_pairing_falls_with_lost_extra_and_unrelated_pulses():
    rpeaks = np.arange(50, 1024, 100)
    onsets = rpeaks + 30.0
    onsets = onsets[onsets < 1000]
    assert cleaning.pair_beats(rpeaks, onsets, 1024, 125)[0] == 1
    half = cleaning.pair_beats(rpeaks, onsets[::2], 1024, 125)[0]
    assert 0.6 < half < 0.75  # 2 * 5 / (10 + 5)
    stopped = cleaning.pair_beats(rpeaks, onsets[:4], 1024, 125)[0]  # sensor off in mid-window
    assert stopped < 0.65
    doubled = np.sort(np.concatenate([onsets, onsets + 45]))
    assert 0.6 < cleaning.pair_beats(rpeaks, doubled, 1024, 125)[0] < 0.75
    unrelated = np.cumsum(np.random.default_rng(0).uniform(50, 150, 9))
    assert cleaning.pair_beats(rpeaks, unrelated, 1024, 125)[0] < 0.6
    assert cleaning.pair_beats(rpeaks, onsets - 60, 1024, 125)[0] > 0.7  # pulses of the beats before: still one delay
    for empty in ((rpeaks, []), ([], onsets), (rpeaks + 500, onsets[:2] - 40)):
        assert cleaning.pair_beats(*empty, 1024, 125)[0] == 0


@pytest.mark.parametrize("rate", [125.0, 250.0, 500.0])
@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_mains_are_taken_off_the_ecg_at_any_rate(rate, mains_hz):
    t = np.arange(int(10 * rate)) / rate
    left = cleaning.ecg_clean(np.sin(2 * np.pi * mains_hz * t), rate)[int(2 * rate) : -int(2 * rate)]
    assert 20 * np.log10(np.sqrt(2 * np.mean(left**2))) < -23
    kept = cleaning.ecg_clean(np.sin(2 * np.pi * 10 * t), rate)[int(2 * rate) : -int(2 * rate)]
    np.testing.assert_allclose(np.sqrt(2 * np.mean(kept**2)), 1.0, atol=0.02)
