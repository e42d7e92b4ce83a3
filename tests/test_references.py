"""References of training and of test windows: of random leads, of the same person, and never of the time they serve."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from known_beats import ecg_of, ppg_of, wave
from scipy.stats import binomtest

from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEADS
from p2es_lib.core.reference import BEFORE_S, Reference, beat_samples
from p2es_lib.data.sources.simulated import simulate_cohort
from p2es_lib.data.windows import TrainingBatches, WindowSet, batches, simulator_config
from p2es_lib.data.windows.references import NOISE_MV, WITHOUT_PULSE, recorded_ecg, target_beats, training_references
from p2es_lib.experiments import regimes
from p2es_lib.experiments.regimes import references_of
from p2es_lib.reference.mean_beat import find_r, make_references, pulse_delay
from p2es_lib.reference.regimes import REGIMES, SHARES, draw_given, leads_of
from p2es_lib.signals.pulse_features import pulse_upstrokes
from p2es_lib.simulator import simulate

RATE, N = 125.0, 1024


def likely(count: int, n: int, share: float) -> bool:
    return binomtest(count, n, share).pvalue > 1e-4


# --------------------------------------------------------------------------------------------------------- given leads
def test_leads_of_the_regimes():
    assert [int(leads_of(name)[0].sum()) for name in ("none", "I", "limb", "all")] == [0, 1, 6, 12]
    assert leads_of("I", 3).shape == (3, 12) and leads_of("I", 3)[:, 0].tolist() == [1, 1, 1]
    assert leads_of("limb")[0, :6].sum() == 6 and set(REGIMES) >= {"none", "I", "limb", "all"}


def test_given_leads_are_drawn_as_often_as_said():
    n = 4000
    given = draw_given(np.random.default_rng(0), n)
    assert given.shape == (n, 12) and set(given.unique().tolist()) == {0.0, 1.0}
    other = 1 - sum(SHARES.values())
    # A random number of random leads, 1 to 11: lead I alone is among them, by 1 / 11 times 1 / 12.
    by_chance = {"none": 0, "I": other / 132, "limb": other / 11 / 924, "all": 0}
    for name, share in SHARES.items():
        found = int((given == leads_of(name)).all(dim=1).sum())
        assert likely(found, n, share + by_chance[name]), name
    special = torch.stack([(given == leads_of(name)).all(dim=1) for name in SHARES]).any(dim=0)
    rest = given[~special]
    assert likely(len(rest), n, other - sum(by_chance.values()))
    counts = rest.sum(dim=1)
    assert counts.min() == 1 and counts.max() == 11
    for lead in range(12):  # no lead is preferred
        assert likely(int(rest[:, lead].sum()), len(rest), float(counts.mean()) / 12) or lead == 0


def beats_of(count: int) -> list[np.ndarray]:
    """R times of :func:`recordings`, some outside."""
    rng = np.random.default_rng(0)
    return [rng.uniform(-0.8, 0) + np.cumsum(rng.uniform(0.78, 0.86, 14)) for _ in range(count)]


def recordings(count: int, n: int = N):
    """ECG and PPG of people with one gain and one delay each."""
    ecg, ppg = [], []
    for row, r in enumerate(beats_of(count)):
        ecg.append(ecg_of(r, n, RATE, lambda s, gain=1 + row % 3: wave(s, gain)))
        ppg.append(ppg_of(r + 0.15 + 0.01 * (row % 10), n, RATE))
    return (torch.tensor(np.array(part), dtype=torch.float32) for part in (ecg, ppg))


def test_some_references_have_no_pulse_and_none_has_leads_that_are_not_there():
    count = 300
    ecg, ppg = (part.repeat(10, 1, 1) for part in recordings(30))
    mask = (torch.rand(count, 12, generator=torch.Generator().manual_seed(0)) < 0.7).to(torch.uint8) * 2
    elapsed = torch.arange(count).float()
    made = training_references(ecg, ppg, mask, elapsed, np.random.default_rng(1), RATE)
    assert (made.given <= (mask > 0)).all() and torch.equal(made.elapsed_s, elapsed)
    there = made.given.any(dim=1)
    unknown = int(made.delay_s[there].isnan().sum())
    assert likely(unknown, int(there.sum()), WITHOUT_PULSE), unknown
    known = made.delay_s.isfinite()
    expected = 0.15 + 0.01 * (torch.arange(count) % 30 % 10)
    # The middle of a QRS complex differs from lead to lead: in V1 and V2 it is the S wave's.
    assert (made.delay_s - expected)[known].abs().max() < 0.04 and not known[~there].any()
    again = training_references(ecg, ppg, mask, elapsed, np.random.default_rng(1), RATE)
    assert torch.equal(again.given, made.given) and torch.equal(again.beats, made.beats)
    other = training_references(ecg, ppg, mask, elapsed, np.random.default_rng(2), RATE)
    assert not torch.equal(other.given, made.given)


def delay_of(r_times, ppg) -> torch.Tensor:
    return pulse_delay(r_times, pulse_upstrokes(ppg, RATE))[0]


def test_the_beats_of_the_target_are_its_own():
    """Each that lies well inside, in order, then inf; with its pulses they have the delay that was planted."""
    ecg, ppg = recordings(10)
    mask, given = torch.full((10, 12), 2), torch.zeros(10, 12)
    given[5:, 0] = 1.0
    found = target_beats(ecg, mask, given, RATE)
    assert found.dtype == torch.float32 and len(found) == 10 and not found.isnan().any()
    assert (found[:, 1:] >= found[:, :-1]).all() and found[:, -1].isinf().all()
    for times, planted in zip(found.numpy(), beats_of(10)):
        inside = planted[(planted > 0.3) & (planted < N / RATE - 0.3)]
        distance = np.abs(times[np.isfinite(times)] - inside[:, None]).min(axis=1)
        assert distance.max() < 0.025 and np.isfinite(times).sum() <= len(inside) + 2
    torch.testing.assert_close(delay_of(found, ppg), 0.15 + 0.01 * torch.arange(10), atol=0.015, rtol=0)
    assert target_beats(torch.zeros_like(ecg), mask, given, RATE).isinf().all()
    assert torch.isnan(delay_of(found, torch.zeros_like(ppg))).all()


def test_r_of_the_target_is_found_on_the_leads_of_the_reference():
    """Where the other leads show beats elsewhere, it tells which were looked at."""
    ecg, ppg = recordings(1)
    moved = ecg.clone()
    moved[:, 1:] = 5 * ecg[:, 1:].roll(-10, dims=-1)  # 80 ms earlier
    mask = torch.full((1, 12), 2)
    one, all_leads = (target_beats(moved, mask, leads_of(name), RATE) for name in ("I", "none"))
    assert delay_of(one, ppg)[0] == pytest.approx(0.15, abs=0.015)
    assert delay_of(all_leads, ppg)[0] == pytest.approx(0.23, abs=0.015)
    # Leads that are not there are not looked at.
    mask[:, 1:] = 0
    assert torch.equal(target_beats(moved, mask, leads_of("none"), RATE), one)


# ------------------------------------------------------------------------------------------------------------- leakage
@pytest.fixture
def asked(monkeypatch):
    """What training references are made of, per call."""
    calls, original = [], batches.training_references

    def recorded(ecg, ppg, lead_mask, elapsed_s, rng, rate):
        calls.append(SimpleNamespace(ecg=ecg.clone(), ppg=ppg.clone(), mask=lead_mask.clone(), elapsed_s=elapsed_s))
        return original(ecg, ppg, lead_mask, elapsed_s, rng, rate)

    monkeypatch.setattr(batches, "training_references", recorded)
    return calls


def config_of(dataset: str = "simulated", **changes):
    config = get_config("smoke", dataset)
    settings = {"training.batch_size": 8, "data.disturbed_share": 0.0, "signal.window_samples": 512, **changes}
    for name, value in settings.items():
        config = config.replace(name, value)
    return config


def alike(ecg, others) -> np.ndarray:
    """Correlation of recordings (N, ...) and (M, ...), (N, M), as wave forms about their means."""
    flat = [np.asarray(part, dtype=np.float64).reshape(len(part), -1) for part in (ecg, others)]
    flat = [(part - part.mean(1, keepdims=True)) / part.std(1, keepdims=True) for part in flat]
    return flat[0] @ flat[1].T / flat[0].shape[1]


def test_simulated_targets_have_references_of_another_stretch_of_the_same_person(asked):
    """Half of them in the session of the target, as a device records them; the others of another session."""
    config = config_of()
    with TrainingBatches(config, None, 0, 0) as made:
        batch, numbers = made.batch(3), made.subject_numbers(3)
    pairs = simulate(numbers, 2, replace(simulator_config(config), extreme_rates=batches.FAR_FROM_REST))
    assert np.array_equal(batch["ecg"].numpy(), pairs.ecg[::2]) and np.array_equal(batch["ppg"].numpy(), pairs.ppg[::2])
    assert np.diag(alike(asked[0].ecg[:4], pairs.ecg[1:8:2])).min() > 0.8, "the second stretch, with noise"
    assert np.array_equal(asked[0].ppg[:4].numpy(), pairs.ppg[1:8:2])
    assert alike(asked[0].ppg[4:], pairs.ppg).max() < 0.99, "of no stretch of this session"
    for signal in ("ecg", "ppg"):
        assert alike(getattr(asked[0], signal), batch[signal]).max() < 0.97, "none is the target itself"
    assert len(batch["reference"]) == len(batch["r_times"]) == 8
    leads = torch.where(batch["reference"].given.any(dim=1, keepdim=True), batch["reference"].given, 1.0)
    assert torch.equal(batch["r_times"], find_r(batch["ecg"], leads, RATE)), "of the target, on the reference's leads"
    assert batch["r_times"].isfinite().sum(dim=1).min() >= 2
    assert batch["reference"].same_session.tolist() == [True] * 4 + [False] * 4


def test_a_device_adds_noise_of_a_level_of_its_own_below_40_hz():
    ecg = np.zeros((200, 12, N), dtype=np.float32)
    noise = recorded_ecg(ecg, np.random.default_rng(0), RATE)
    assert noise.shape == ecg.shape and noise.dtype == np.float32 and ecg.max() == 0
    level = noise.std(axis=(1, 2))
    assert 0.5 * NOISE_MV[0] < level.min() < 2 * NOISE_MV[0] and 0.5 * NOISE_MV[1] < level.max() < 1.1 * NOISE_MV[1]
    power = (np.abs(np.fft.rfft(noise, axis=-1)) ** 2).mean(axis=(0, 1))
    hz = np.fft.rfftfreq(N, 1 / RATE)
    assert power[hz > 50].mean() < 0.2 * power[(hz > 5) & (hz < 30)].mean()
    drift = recorded_ecg(ecg + 1.0, np.random.default_rng(0), RATE).mean(axis=(1, 2))
    assert likely(int((drift < 0.5).sum()), 200, 0.5), "half of the devices take the offset out"


def store(places, length: int = 128) -> WindowSet:
    """Windows (subject, record, start in seconds), all for training; ECG and PPG hold the number of the window."""
    n = len(places)
    subject, record, start = zip(*places)
    index = pd.DataFrame(
        {
            "subject": subject, "record": record, "start_s": np.asarray(start, dtype=float), "age": 50.0, "sex": "F",
            "split": "train", "split_kind": "subject", "quality": 1.0, "rhythm": "", "morphology": "",
        }
    )  # fmt: skip
    number = np.arange(1, n + 1, dtype=np.float32)[:, None, None]
    noise = np.random.default_rng(0).standard_normal((n, 1, length)).astype(np.float32)
    ecg, ppg = np.broadcast_to(number, (n, 12, length)).copy(), number + 0.01 * noise
    return WindowSet(ppg, ecg, np.full((n, 12), 2, np.uint8), index)


#: Two records of one subject; windows of 1.024 s that overlap; a subject of one window; one of two that overlap.
PLACES = [
    ("a", "a1", 0.0), ("a", "a1", 0.5), ("a", "a1", 1.024), ("a", "a1", 5.0), ("a", "a2", 0.0),
    ("b", "b1", 0.0), ("c", "c1", 0.0), ("c", "c1", 1.0), ("d", "d1", 0.0), ("d", "d1", 60.0),
]  # fmt: skip


def pairs_drawn(asked, n_steps: int = 150):
    """(target, reference or None if it has no leads, time since) of all steps, as rows of :data:`PLACES`."""
    config = config_of(**{"data.stream_training": False, "training.batch_size": 10})
    found = []
    with TrainingBatches(config, store(PLACES), 0, 0) as made:
        for step in range(n_steps):
            batch = made.batch(step)
            one = asked[-1]
            for target, other, mask, elapsed in zip(batch["ecg"][:, 0, 0], one.ecg[:, 0, 0], one.mask, one.elapsed_s):
                found.append((int(target) - 1, int(other) - 1 if mask.any() else None, float(elapsed)))
    return found


def test_no_reference_holds_time_of_its_target(asked):
    for target, other, _ in pairs_drawn(asked):
        if other is None:
            continue
        (subject, record, start), (subject_2, record_2, start_2) = PLACES[target], PLACES[other]
        assert subject == subject_2 and (record != record_2 or abs(start - start_2) > 1.02), (target, other)


def test_every_other_window_of_the_subject_serves_and_without_one_there_is_no_reference(asked):
    seen = {target: set() for target in range(len(PLACES))}
    for target, other, _ in pairs_drawn(asked):
        seen[target].add(other)
    assert seen[5] == seen[6] == seen[7] == {None}, "one window, or two that overlap"
    assert seen[0] == {2, 3, 4} and seen[1] == {3, 4} and seen[4] == {0, 1, 2, 3}
    assert seen[8] == {9} and seen[9] == {8}


def test_another_record_is_another_session(asked):
    for target, other, elapsed in pairs_drawn(asked, 30):
        if other is not None and PLACES[target][1] == PLACES[other][1]:
            assert elapsed < 3600
        elif other is not None:
            assert np.isnan(elapsed)


def test_references_of_a_step_are_the_same_each_time():
    config = config_of()
    with TrainingBatches(config, None, 0, 2) as ahead, TrainingBatches(config, None, 0, 0) as plain:
        for step in (0, 2, 1):
            one, two = ahead.batch(step), plain.batch(step)
            assert torch.equal(one["reference"].beats, two["reference"].beats)
            assert torch.equal(one["reference"].given, two["reference"].given)
            assert torch.equal(one["r_times"], two["r_times"]) and one["r_times"].isfinite().any()


def test_where_pulses_are_drawn_anew_the_reference_is_of_the_same_person(monkeypatch):
    """Pulses of real ECGs are simulated again as of another person: the delay that the reference saw is that one's."""
    monkeypatch.setattr("p2es_lib.data.windows.references.WITHOUT_PULSE", 0.0)
    n, length, rng = 24, 1024, np.random.default_rng(0)
    r = [rng.uniform(0.1, 0.6) + np.cumsum(rng.uniform(0.78, 0.86, 9)) for _ in range(n)]
    ecg = np.array([ecg_of(np.r_[2 * one[0] - one[1], one], length, RATE) for one in r], dtype=np.float32)
    ppg = np.array([ppg_of(one + 0.6, length, RATE) for one in r], dtype=np.float32)  # as nobody's
    made = store([(f"s{row // 2}", f"s{row // 2}", 60.0 * (row % 2)) for row in range(n)], length)
    beats = [" ".join(f"{beat:.3f}" for beat in one) for one in r]
    windows = WindowSet(ppg, ecg, made.lead_mask, made.index.assign(ppg_origin="simulated", rpeaks_s=beats))
    settings = {"data.stream_training": True, "training.batch_size": n, "signal.window_samples": length}
    config = config_of("bidmc", **settings)
    with TrainingBatches(config, windows, 0, 0) as made:
        batch = made.batch(0)
    target, seen = delay_of(batch["r_times"], batch["ppg"]), batch["reference"].delay_s
    both = (batch["reference"].given.sum(dim=1) == 12) & target.isfinite() & seen.isfinite()
    assert both.sum() >= 5 and (target - seen)[both].abs().max() < 0.025 and target.max() < 0.5
    assert target[both].std() > 0.005, "persons differ"


# ------------------------------------------------------------------------------------------------------------- regimes
@pytest.fixture(scope="module")
def cohort():
    """Simulated test windows as they are stored, two of each subject, in mixed order."""
    config = config_of(**{"signal.window_samples": 1024, "data.n_test_subjects": 6})
    made = simulate_cohort(config)
    made = made.select(made.index["split"].to_numpy() == "test")
    return config, made.select(np.random.default_rng(0).permutation(len(made)))


def test_the_regime_none_needs_nothing(cohort):
    assert references_of(cohort[0], cohort[1], "none") is None


@pytest.mark.parametrize("regime", ["I", "limb", "all"])
def test_test_windows_have_references_of_their_persons_and_of_no_test_window(cohort, regime, monkeypatch):
    config, windows = cohort
    used, original = [], regimes.make_references
    monkeypatch.setattr(regimes, "make_references", lambda ecg, *a, **k: used.append(ecg) or original(ecg, *a, **k))
    made = references_of(config, windows, regime)
    assert len(made) == len(windows) and torch.equal(made.given, leads_of(regime, len(windows)) * made.given)
    assert made.given.any(dim=1).float().mean() > 0.8 and made.same_session.all()
    assert alike(used[0], windows.ecg).max() < 0.97, "a test window made its own reference"
    subjects = windows.index["subject_number"].to_numpy()
    for row in range(len(windows)):
        same = np.flatnonzero(subjects == subjects[row])
        assert all(torch.equal(made.beats[row], made.beats[other]) for other in same)
    # The person's own beats: nearer to those of the window than to those of others.
    own = make_references(torch.tensor(windows.ecg), leads_of(regime, len(windows)), RATE).beats
    part = slice(round((BEFORE_S - 0.05) * RATE), round((BEFORE_S + 0.1) * RATE))
    distance = (made.beats[:, None, :, part] - own[None, :, :, part]).square().mean(dim=(2, 3)).numpy()
    is_own = subjects[:, None] == subjects[None]
    assert np.median(distance[is_own]) < 0.5 * np.median(distance[~is_own])


def test_what_is_unknown_is_refused(cohort):
    config, windows = cohort
    with pytest.raises(InputError, match="limb"):
        references_of(config, windows, "V1")
    with pytest.raises(InputError, match="other"):
        references_of(config, windows, "all", "tomorrow")


def test_another_session_is_told_and_differs(cohort):
    config, windows = cohort
    same, other = (references_of(config, windows, "all", session) for session in ("same", "other"))
    assert same.same_session.all() and not other.same_session.any()
    assert not torch.equal(same.beats, other.beats)
    subjects = windows.index["subject_number"].to_numpy()
    both = (same.given.any(dim=1) & other.given.any(dim=1)).numpy()
    distance = (same.beats[:, None] - other.beats[None]).square().mean(dim=(2, 3)).numpy()[both][:, both]
    is_own = subjects[both][:, None] == subjects[both][None]
    assert np.median(distance[is_own]) < 0.7 * np.median(distance[~is_own]), "still the same person"


def test_shapes_fit_the_rate():
    assert Reference.none(1, RATE).beats.shape == (1, len(LEADS), beat_samples(RATE))
