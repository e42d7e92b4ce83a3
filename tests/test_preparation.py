"""One stretch of a record on one clock: alignment, millivolts, bands, limb leads, faults, simulated pulses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from fake_source import stretch_of
from wfdb_files import write_multirate

from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS, LIMB_LEADS
from p2es_lib.data.preparation import clean_stretch, list_jobs, reject, run_job
from p2es_lib.data.preparation.assembly import collect_index
from p2es_lib.data.sources.contract import Reading, Stretch
from p2es_lib.data.sources.wfdb_records import segment_stretches
from p2es_lib.signals import cleaning

RATE = 125.0


def reading(**known):
    return Reading(**({"subject": "s", "age": 60.0, "sex": "F", "stretches": iter(())} | known))


def recording_of(stretch, **known):
    return clean_stretch(stretch, reading(**known), "r", RATE)


def bumps(times_s, duration_s, rate, width_s):
    """Gaussian bumps of height 1 at known times, sampled at ``rate``."""
    x, t = np.zeros(int(duration_s * rate)), np.arange(int(duration_s * rate)) / rate
    for time in times_s:
        part = slice(max(0, int((time - 8 * width_s) * rate)), int((time + 8 * width_s) * rate))
        x[part] += np.exp(-0.5 * ((t[part] - time) / width_s) ** 2)
    return x


def peak_times(x, near_s):
    """Times of the maxima of ``x`` at 125 Hz next to given times, by a parabola through three samples."""
    near = np.rint(np.asarray(near_s) * RATE).astype(int)
    top = near + np.argmax(x[near[:, None] + np.arange(-3, 4)], axis=1) - 3
    before, at, after = x[top - 1], x[top], x[top + 1]
    return (top + 0.5 * (before - after) / (before - 2 * at + after)) / RATE


def beat_times(duration_s, seed=0):
    times = np.arange(2.0, duration_s - 2, 1.0)
    return times + np.random.default_rng(seed).uniform(-0.05, 0.05, len(times))


# ----------------------------------------------------------------------------------------------------------- one clock
@pytest.mark.parametrize("rates", [(500.0, 125.0), (249.89, 124.945), (360.0, 100.0), (125.0, 62.4725)])
def test_signals_of_different_rates_are_aligned_to_a_tenth_of_a_sample(rates):
    """To the end of a long stretch: an error in the ratio of the rates would add up."""
    beats = beat_times(1200)
    ecg, ppg = bumps(beats, 1200, rates[0], 0.015), bumps(beats, 1200, rates[1], 0.06)
    recording = recording_of(Stretch(0.0, (ppg, rates[1]), {"II": (ecg, rates[0])}))
    assert len(recording.ppg) == recording.ecg.shape[1] == pytest.approx(1200 * RATE, abs=2)
    for x in (recording.ppg, recording.ecg[1]):
        error = (peak_times(x, beats) - beats) * RATE
        assert abs(np.median(error)) < 0.03 and np.max(np.abs(error)) < 0.1
        assert abs(np.mean(error[-50:]) - np.mean(error[:50])) < 0.05


def test_a_wfdb_record_of_two_rates_is_aligned_in_every_part(tmp_path, monkeypatch, make_pair):
    monkeypatch.setattr("p2es_lib.data.sources.wfdb_records.PART_S", 40.0)
    pair = make_pair(120, 4 * 62.4725, noise=0.002)
    write_multirate(tmp_path, "m", pair, rate=62.4725)
    ecg_offsets, ppg_offsets = [], []
    for stretch in segment_stretches(tmp_path / "m.hea"):
        recording = recording_of(stretch)
        seen = slice(recording.begins_s + 2, recording.begins_s + len(recording.ppg) / RATE - 2)
        beats = pair.rpeaks_s[(pair.rpeaks_s > seen.start) & (pair.rpeaks_s < seen.stop)] - recording.begins_s
        ecg_offsets.append((peak_times(recording.ecg[1], beats) - beats) * RATE)
        onsets = cleaning.ppg_onsets(recording.ppg, RATE) / RATE
        ppg_offsets.append((onsets[np.argmin(np.abs(onsets - beats[:, None] - 0.25), axis=1)] - beats - 0.25) * RATE)
    assert len(ecg_offsets) == 3
    assert np.max(np.abs(np.concatenate(ecg_offsets))) < 0.3
    for offsets in (ecg_offsets, ppg_offsets):  # the same in each part, wherever it was cut
        assert np.ptp([np.median(part) for part in offsets]) < 0.1


def test_time_of_the_first_sample_is_before_the_margin():
    ecg = bumps(beat_times(20), 20, RATE, 0.015)
    assert recording_of(Stretch(100.0, (ecg, RATE), {"II": (ecg, RATE)}, margin_s=16.0, keep_s=4.0)).begins_s == 84.0


def test_the_shortest_signal_ends_the_recording():
    long, short = (bumps(beat_times(30), seconds, RATE, 0.02) for seconds in (30, 20))
    recording = recording_of(Stretch(0.0, (short, RATE), {"I": (long, RATE), "II": (long, RATE)}))
    assert recording.ecg.shape == (12, 2500) and len(recording.ppg) == len(recording.rhythm) == 2500
    assert {len(mask) for mask in recording.faults.values()} == {2500}


# ------------------------------------------------------------------------------------------------ millivolts and bands
@pytest.mark.parametrize("rate", [125.0, 249.89, 500.0, 1000.0])
@pytest.mark.parametrize("hertz", [2.0, 8.0, 20.0])
def test_millivolts_are_kept(rate, hertz):
    t = np.arange(int(40 * rate)) / rate
    ecg = 1.7 * np.sin(2 * np.pi * hertz * t)
    recording = recording_of(Stretch(0.0, (ecg, rate), {"V2": (ecg, rate)}))
    found = recording.ecg[LEADS.index("V2"), 1000:4000]
    wave = np.sin(2 * np.pi * hertz * np.arange(1000, 4000) / RATE)
    assert 2 * np.mean(found * wave) == pytest.approx(1.7, rel=0.02)  # in phase: filters shift nothing
    assert np.std(found - 1.7 * wave) < 0.03


@pytest.mark.parametrize("units, size", [("mV", 200.0), ("uV", 0.2)])
def test_millivolts_are_kept_from_file_to_recording(tmp_path, make_pair, units, size):
    pair = make_pair(30, 250.0)
    wave = np.sin(2 * np.pi * 8 * np.arange(len(pair.ecg)) / 250)
    scaled = type(pair)(wave * 1.2, pair.ppg, 250.0, pair.rpeaks_s, pair.onsets_s)
    write_multirate(tmp_path, "m", scaled, ecg_names=("II",))
    header = (tmp_path / "m.hea").read_text()
    (tmp_path / "m.hea").write_text(header.replace("200.0(0)/mV", f"{size}(0)/{units}"))
    (stretch,) = segment_stretches(tmp_path / "m.hea")
    found = recording_of(stretch).ecg[1, 500:3000]
    assert np.sqrt(2) * found.std() == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize("rate", [125.0, 500.0])
def test_mains_drift_and_noise_above_the_band_are_removed(make_pair, rate):
    pair = make_pair(40, rate)
    t = np.arange(len(pair.ecg)) / rate
    disturbance = {"mains": 0.5 * np.sin(2 * np.pi * 50 * t), "60 Hz": 0.5 * np.sin(2 * np.pi * 60 * t)}
    disturbance |= {"drift": 2 + 0.02 * t, "breath": 0.5 * np.sin(2 * np.pi * 0.1 * t)}
    if rate > 400:  # would come back as 45 Hz without an anti-aliasing filter
        disturbance["alias"] = 0.5 * np.sin(2 * np.pi * 170 * t)
    clean = recording_of(stretch_of(pair))
    for name, wave in disturbance.items():
        leads = {"I": (0.6 * pair.ecg + wave, rate), "II": (pair.ecg + wave, rate)}
        moved = recording_of(Stretch(0.0, (pair.ppg + wave, rate), leads))
        assert np.std((moved.ecg[1] - clean.ecg[1])[500:-500]) < 0.036, name  # a tenth of 0.5 mV, as RMS
        assert np.std((moved.ppg - clean.ppg)[500:-500]) < 0.036, name


def test_ppg_and_ecg_have_bands_of_their_own(make_pair):
    pair = make_pair(40, 250.0)
    wave = 0.2 * np.sin(2 * np.pi * 15 * np.arange(len(pair.ecg)) / 250)
    clean = recording_of(stretch_of(pair))
    moved = recording_of(Stretch(0.0, (pair.ppg + wave, 250.0), {"II": (pair.ecg + wave, 250.0)}))
    assert np.std((moved.ecg[1] - clean.ecg[1])[500:-500]) == pytest.approx(0.2 / np.sqrt(2), rel=0.02)
    assert np.std((moved.ppg - clean.ppg)[500:-500]) < 0.015


# --------------------------------------------------------------------------------------------------------------- leads
def twelve_leads(make_pair):
    """Physical limb leads with distinct shapes, and the same filtered: (6, T) each."""
    one, two = make_pair(20, RATE, 0.8).ecg, 0.7 * make_pair(20, RATE, 0.8, seed=3).ecg
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return limb, cleaning.ecg_clean(limb, RATE)


@pytest.mark.parametrize("names", list(combinations(LIMB_LEADS, 2)), ids="-".join)
def test_any_two_limb_leads_give_all_six(make_pair, names):
    limb, filtered = twelve_leads(make_pair)
    leads = {name: (limb[LEADS.index(name)], RATE) for name in names}
    recording = recording_of(Stretch(0.0, (limb[0], RATE), leads))
    assert np.allclose(recording.ecg[:6], filtered, atol=1e-9) and not recording.ecg[6:].any()
    assert list(recording.lead_mask) == [2 if name in names else 1 if name in LIMB_LEADS else 0 for name in LEADS]
    assert recording.lead_mask.dtype == np.uint8 and recording.lead_residual.max() < 1e-9


def test_one_limb_lead_gives_no_other(make_pair):
    limb, filtered = twelve_leads(make_pair)
    recording = recording_of(Stretch(0.0, (limb[0], RATE), {"aVF": (limb[5], RATE), "V5": (limb[1], RATE)}))
    assert [LEADS[row] for row in np.flatnonzero(recording.lead_mask)] == ["aVF", "V5"]
    assert set(recording.lead_mask) == {0, 2} and np.allclose(recording.ecg[5], filtered[5])
    assert not np.delete(recording.ecg, [5, 10], axis=0).any() and not recording.lead_residual.any()


def test_a_dead_lead_is_absent_or_derived_and_the_others_stay(make_pair):
    """Zeros, another constant, or nothing at all; a limb lead follows from two others."""
    limb, filtered = twelve_leads(make_pair)
    nothing = np.full_like(limb[0], np.nan)
    leads = {"I": limb[0], "II": 0 * limb[0], "aVF": limb[5], "V2": 0 * limb[0] - 3.2, "V4": nothing, "V5": limb[1]}
    recording = recording_of(Stretch(0.0, (limb[0], RATE), {lead: (x, RATE) for lead, x in leads.items()}))
    assert recording.dead_leads == ("II", "V2", "V4")
    assert "".join(map(str, recording.lead_mask)) == "211112" + "000020"
    assert np.allclose(recording.ecg[:6], filtered, atol=1e-9) and not recording.ecg[[6, 7, 8, 9, 11]].any()
    assert not recording.faults["ecg_faults"].any() and recording.lead_residual.max() < 1e-9
    assert np.array_equal(recording.rhythm, recording.ecg[0])  # beats are looked for in a lead that has some


def test_an_ecg_without_a_living_lead_is_a_missing_ecg(make_pair):
    pair = make_pair(20, RATE)
    recording = recording_of(Stretch(0.0, (pair.ppg, RATE), {"I": (0 * pair.ecg, RATE), "V2": (0 * pair.ecg, RATE)}))
    assert recording.dead_leads == () and recording.faults["ecg_flat"].mean() > 0.99


def test_a_lead_that_fails_in_a_part_spoils_that_part_only(make_pair):
    pair = make_pair(20, RATE)
    failing = np.where(np.arange(len(pair.ecg)) < 1250, pair.ecg, 0.0)
    recording = recording_of(Stretch(0.0, (pair.ppg, RATE), {"II": (pair.ecg, RATE), "V2": (failing, RATE)}))
    assert recording.dead_leads == () and recording.lead_mask[LEADS.index("V2")] == 2
    assert recording.faults["ecg_flat"][1260:].all() and not recording.faults["ecg_flat"][:1240].any()


def test_measured_leads_stay_as_measured_and_contradictions_are_told(make_pair):
    limb, filtered = twelve_leads(make_pair)
    leads = {name: (limb[LEADS.index(name)].copy(), RATE) for name in ("I", "II", "III")}
    assert recording_of(Stretch(0.0, (limb[0], RATE), leads)).lead_residual.max() < 1e-9
    third = leads["III"][0] + 0.3 * bumps([8.4], 20, RATE, 0.03)
    recording = recording_of(Stretch(0.0, (limb[0], RATE), leads | {"III": (third, RATE)}))
    assert np.allclose(recording.ecg[2], cleaning.ecg_clean(third, RATE))
    assert np.allclose(recording.ecg[[0, 1, 3, 4, 5]], filtered[[0, 1, 3, 4, 5]])  # derived from the first two
    assert recording.lead_residual[1000:1100].max() > 0.05 and recording.lead_residual[:400].max() < 0.005


def test_an_ecg_of_unknown_lead_serves_for_beats_only(make_pair):
    pair = make_pair(20, RATE)
    recording = recording_of(Stretch(0.0, (pair.ppg, RATE), {}, rhythm=(pair.ecg, RATE)))
    assert not recording.ecg.any() and not recording.lead_mask.any()
    assert np.allclose(recording.rhythm, cleaning.ecg_clean(pair.ecg, RATE))
    leads = {"V1": (pair.ecg, RATE), "II": (-pair.ecg, RATE)}
    named = recording_of(Stretch(0.0, (pair.ppg, RATE), leads, rhythm=(pair.ppg, RATE)))
    assert np.array_equal(named.rhythm, named.ecg[1])  # a named lead goes before it


# -------------------------------------------------------------------------------------------------------------- faults
def test_faults_as_recorded_keep_their_place_at_the_common_rate(make_pair):
    """A single missing sample at 1 kHz is not lost at 125 Hz, and a gap in any lead is a gap of the ECG."""
    pair = make_pair(20, 1000.0, noise=0.01)
    first, second, ppg = pair.ecg.copy(), 0.6 * pair.ecg, pair.ppg.copy()
    first[5003] = second[8000:9000] = ppg[12000:12500] = np.nan
    recording = recording_of(Stretch(0.0, (ppg, 1000.0), {"I": (first, 1000.0), "V6": (second, 1000.0)}))
    assert np.flatnonzero(recording.faults["ecg_gap"]).tolist() == [625, *range(1000, 1125)]
    assert np.flatnonzero(recording.faults["ppg_gap"]).tolist() == list(range(1500, 1563))
    for fault in ("flat", "clipped", "jump"):
        assert not recording.faults[f"ecg_{fault}"].any() and not recording.faults[f"ppg_{fault}"].any()
    assert all(np.isfinite(x).all() for x in (recording.ecg, recording.ppg, recording.rhythm))


@pytest.mark.parametrize("rate", [62.4725, 100.0, 125.0, 249.89])
def test_faults_keep_their_place_at_odd_rates(make_pair, rate):
    pair = make_pair(60, rate, noise=0.01)
    ppg = pair.ppg.copy()
    ppg[round(50 * rate) : round(52 * rate)] = np.nan
    marked = np.flatnonzero(recording_of(stretch_of(pair, ppg=ppg)).faults["ppg_gap"]) / RATE
    assert marked[[0, -1]] == pytest.approx([50, 52], abs=1.01 / rate + 1 / RATE)
    assert len(marked) == pytest.approx(2 * RATE, abs=3)


# ---------------------------------------------------------------------------------------------- simulated PPG, refusals
def test_without_a_ppg_one_is_simulated_from_the_beats(make_pair):
    pair = make_pair(30, 250.0)
    stretch = Stretch(0.0, None, {"II": (pair.ecg, 250.0)})
    recording = recording_of(stretch)
    assert recording.ppg_origin == "simulated" and recording_of(stretch_of(pair)).ppg_origin == "measured"
    assert recording.ppg.shape == (3750,) and not recording.faults["ppg_faults"].any()
    onsets = cleaning.ppg_onsets(recording.ppg, RATE) / RATE
    delays = onsets[np.searchsorted(onsets, pair.rpeaks_s[1:-1] + 0.08)] - pair.rpeaks_s[1:-1]
    assert 0.1 < np.median(delays) < 0.4 and np.std(delays) < 0.05
    assert np.array_equal(recording.ppg, recording_of(stretch).ppg)
    assert not np.array_equal(recording.ppg, recording_of(stretch, subject="another").ppg)


def test_what_cannot_be_used_is_refused(make_pair):
    pair = make_pair(20, RATE)
    with pytest.raises(InputError, match="record r: no ECG"):
        recording_of(Stretch(0.0, (pair.ppg, RATE), {}))
    with pytest.raises(InputError, match="at least 2 s"):
        recording_of(Stretch(0.0, (pair.ppg[:200], RATE), {"II": (pair.ecg[:200], RATE)}))
    with pytest.raises(InputError, match="0 R peak"):
        recording_of(Stretch(0.0, None, {"II": (0 * pair.ecg, RATE)}))


def test_windows_of_a_long_real_record(mirror, home):
    """Ten-second windows of a bedside record of 4.4 h: all there, and about four of five clean."""
    config = (
        get_config("smoke", "mimic4wdb").replace("signal.sampling_rate", 128.0).replace("signal.window_samples", 1280)
    )
    jobs = list_jobs(config, mirror)
    index, info = collect_index([("mimic4wdb", run_job(job, config, mirror)) for job in jobs])
    first = index[index["start_s"] < index["start_s"].min() + 15_960]
    assert info["records"] == 1 and len(first) == pytest.approx(1594, abs=2)
    clean = (reject(first, config.data.min_quality) == "").sum()
    assert 1250 <= clean <= 1400 and clean < (reject(first, 0.0) == "").sum() <= len(first)
