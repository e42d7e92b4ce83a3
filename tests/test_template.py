"""Mean-beat template on periodic data whose beat is known, and the input check that all translators share."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit

from p2es_lib.baselines import template as template_module
from p2es_lib.baselines.template import MeanBeatTemplate
from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import LEAD_MATRIX
from p2es_lib.core.translator import check_translation_input

FS, N_SAMPLES = 125.0, 1024
DELAY_S = 0.3  # R peak to the steepest point of the pulse
T_AXIS = np.arange(N_SAMPLES) / FS
GAINS = np.array([0.6, 1.0, -0.8, -0.3, 0.5, 1.4, 1.2, 0.8])
CONFIG = get_config("smoke")


class Windows(SimpleNamespace):
    """As much of a WindowSet as the template reads."""

    def __len__(self):
        return len(self.ppg)


def _beat(seconds, gain):
    """P, QRS and T of a beat with its R peak at 0: gain (8,) and seconds (T,) to (8, T)."""
    qrs = np.exp(-0.5 * (seconds / 0.014) ** 2)
    p_and_t = 0.1 * np.exp(-0.5 * ((seconds + 0.16) / 0.02) ** 2) + 0.3 * np.exp(-0.5 * ((seconds - 0.24) / 0.04) ** 2)
    return gain[:, None] * qrs + np.abs(gain)[:, None] * p_and_t


def _windows(n, seed=0, sex_gain=False, periods=(0.7, 1.1), delay_s=DELAY_S):
    """Strictly periodic windows: every beat of everybody is the same (but for a gain by sex, on request)."""
    rng = np.random.default_rng(seed)
    ppg, ecg, r_times = np.zeros((n, 1, N_SAMPLES)), np.zeros((n, 8, N_SAMPLES)), []
    sex = np.where(np.arange(n) % 2, "M", "F")
    for row in range(n):
        period = rng.uniform(*periods)
        r = rng.uniform(-period, 0) - period + period * np.arange(18)
        r_times.append(r)
        for time in r:
            gain = GAINS * (0.5 if sex_gain and sex[row] == "M" else 1.0)
            ecg[row] += _beat(T_AXIS - time, gain)
            after = T_AXIS - time - delay_s  # a fast logistic rise, steepest at 0, and a slow fall
            ppg[row, 0] += expit(after / 0.025) * expit((0.35 - after) / 0.06)
    ppg = (ppg - ppg.mean(-1, keepdims=True)) / ppg.std(-1, keepdims=True)
    return Windows(
        ppg=ppg.astype(np.float32),
        ecg=(LEAD_MATRIX @ ecg).astype(np.float32),
        lead_mask=np.full((n, 12), 2, dtype=np.uint8),
        demographics=Demographics(np.full(n, 50.0), sex),
        r_times=r_times,
    )


@pytest.fixture(scope="module")
def train():
    return _windows(60)


@pytest.fixture(scope="module")
def fitted(train):
    return MeanBeatTemplate(CONFIG).fit(train)


@pytest.fixture(scope="module")
def test_set():
    return _windows(12, seed=1)


def test_recovers_the_beat(fitted):
    phase = fitted.template_start_s + np.arange(fitted.templates.shape[2]) / FS
    beat = (LEAD_MATRIX @ _beat(phase + DELAY_S, GAINS))[[1, 6, 9]]
    found = fitted.templates[0, [1, 6, 9]]
    inside = (phase > -DELAY_S - 0.1) & (phase < 0.2)  # where every training beat has a value
    peak = np.abs(beat).max()
    assert np.abs(found - beat)[:, inside].max() < 0.1 * peak
    r_peak = phase[np.argmax(found[0])]
    assert r_peak == pytest.approx(-DELAY_S, abs=0.012)
    # The boundary lies before the P wave of the beat, and after the T wave of the last one (shortest period 0.7 s).
    assert DELAY_S + 0.18 < fitted.advance_s < DELAY_S + 0.45


def test_translation_is_close_to_the_truth_and_depends_on_the_pulse(fitted, test_set):
    ecg = fitted.translate(test_set.ppg, test_set.demographics).numpy()
    assert ecg.shape == (12, 1, 12, N_SAMPLES) and ecg.dtype == np.float32
    error = np.sqrt(((ecg[:, 0] - test_set.ecg) ** 2).mean())
    spread = test_set.ecg.std()
    assert error < 0.25 * spread
    other_ppg = fitted.translate(np.roll(test_set.ppg, 1, axis=0), test_set.demographics).numpy()
    assert np.sqrt(((other_ppg[:, 0] - test_set.ecg) ** 2).mean()) > spread
    swapped = ecg[:, 0][:, [0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10, 11]]
    assert np.sqrt(((swapped - test_set.ecg) ** 2).mean()) > 2 * error


def test_beats_at_both_ends_are_there(fitted, test_set):
    """The first beats' pulses began before the window; the last beats' pulses come after it."""
    ecg = fitted.translate(test_set.ppg, test_set.demographics).numpy()[:, 0, 1]
    for row, r in enumerate(test_set.r_times):
        for time in r[(r > 0.05) & (r < T_AXIS[-1] - 0.05)]:
            near = np.abs(T_AXIS - time) < 0.03
            assert ecg[row, near].max() > 0.6, f"window {row}: no R peak at {time:.2f} s"


def test_follows_the_delay_of_the_training_data():
    late = MeanBeatTemplate(CONFIG).fit(_windows(40, seed=2, delay_s=0.45))
    phase = late.template_start_s + np.arange(late.templates.shape[2]) / FS
    assert phase[np.argmax(late.templates[0, 1])] == pytest.approx(-0.45, abs=0.012)


def test_deterministic_copies_in_any_batch(fitted, test_set):
    ppg, people = test_set.ppg, test_set.demographics
    samples = fitted.translate(torch.from_numpy(ppg), people, n_samples=3, generator=7)
    assert samples.shape == (12, 3, 12, N_SAMPLES)
    assert torch.equal(samples[:, 0], samples[:, 2])
    assert torch.equal(fitted.translate(ppg[4:5], people[4:5])[0, 0], samples[4, 0])


def _hand_made(values, mean, monkeypatch, upstrokes):
    """A template whose values are set by hand and that is told where the pulses are."""
    model = MeanBeatTemplate(CONFIG)
    model.advance_s, model.mean_signal = 0.4, np.full(12, mean)
    phase = model.template_start_s + np.arange(model._n_phases) / FS
    model.templates = np.broadcast_to(values(phase), (1, 12, len(phase)))
    monkeypatch.setattr(template_module, "pulse_upstrokes", lambda ppg, fs: torch.tensor([upstrokes]))
    ppg = np.random.default_rng(0).normal(size=(1, 1, N_SAMPLES))
    return model.translate(ppg, Demographics.missing(1)).numpy()[0, 0, 0]


def test_beats_are_placed_and_faded_as_stated(monkeypatch):
    upstrokes = [1.0, 2.0, 2.6, 3.6, 4.6, 5.6, 6.6, 7.6]
    ecg = _hand_made(lambda phase: phase, 0.0, monkeypatch, upstrokes)  # each sample shows its time since the upstroke
    begin = np.array(upstrokes) - 0.4
    for k in range(7):
        inside = (begin[k] + 0.021 < T_AXIS) & (begin[k + 1] - 0.021 > T_AXIS)
        assert np.allclose(ecg[inside], (T_AXIS - upstrokes[k])[inside], atol=1e-6)
        at = np.interp(begin[k + 1], T_AXIS, ecg)  # half of either beat where they meet
        assert at == pytest.approx(0.5 * (begin[k + 1] - upstrokes[k]) - 0.5 * 0.4, abs=0.02)
    # From one beat to the next within the cross-fade, not at once: 1 s of ramp in 40 ms is 0.2 per sample.
    assert np.abs(np.diff(ecg)).max() < 0.25


def test_mean_signal_beyond_the_reach_of_the_template(monkeypatch):
    ecg = _hand_made(lambda phase: np.ones_like(phase), 0.3, monkeypatch, [0.3, 0.9])  # then 1.5, 2.1, 2.7 are added
    reach = 2.7 + template_module.TAIL_S
    assert np.allclose(ecg[reach > T_AXIS], 1.0) and np.allclose(ecg[reach + 0.01 < T_AXIS], 0.3)


def test_stretches_without_pulse_get_the_mean(fitted, train, monkeypatch):
    assert np.allclose(fitted.mean_signal, train.ecg.mean(axis=(0, 2)), atol=1e-5)
    upstrokes = torch.tensor([[0.5, 1.3, np.nan], [4.0, np.nan, np.nan]])
    monkeypatch.setattr(template_module, "pulse_upstrokes", lambda ppg, fs: upstrokes)
    ecg = fitted.translate(train.ppg[:2], train.demographics[:2]).numpy()[:, 0]
    mean = fitted.mean_signal[:, None]
    far = T_AXIS > 1.3 + 3 * 0.8 + template_module.TAIL_S  # the last added pulse and the length of the template
    assert far.sum() > 200 and np.allclose(ecg[0][:, far], mean, atol=1e-6)
    assert np.ptp(ecg[0][1, T_AXIS < 1.5]) > 0.8
    assert np.allclose(ecg[1], mean, atol=1e-6)  # a single pulse has no interval


def test_groups():
    train = _windows(80, seed=4, sex_gain=True)
    common, grouped = (MeanBeatTemplate(CONFIG, by_group=flag).fit(train) for flag in (False, True))
    ppg = _windows(2, seed=5).ppg
    women, men, unknown = people = [Demographics.of([50], [sex], 2) for sex in ("F", "M", "")]
    peak = {group.sex[0]: grouped.translate(ppg, group).numpy()[:, 0, 1].max() for group in people}
    assert peak["M"] == pytest.approx(0.5 * peak["F"], rel=0.1)
    assert peak["M"] < peak[""] < peak["F"]
    both = [common.translate(ppg, people).numpy() for people in (women, men)]
    assert np.array_equal(*both)
    # A group without training windows falls back on the common template.
    old = grouped.translate(ppg, Demographics.of([85], ["F"], 2)).numpy()
    assert np.allclose(old, grouped.translate(ppg, unknown).numpy(), atol=1e-6)
    assert np.allclose(old, both[0], atol=1e-6)


def test_absent_and_partly_present_leads(train):
    masked = Windows(**vars(train))
    masked.lead_mask, masked.ecg = train.lead_mask.copy(), train.ecg.copy()
    masked.lead_mask[:, 11] = 0
    masked.lead_mask[::2, 6] = 0
    masked.ecg[::2, 6] = 1000.0  # must not be looked at
    masked.ecg[5, 7, 10] = np.nan
    model = MeanBeatTemplate(CONFIG).fit(masked)
    ecg = model.translate(train.ppg[:4], train.demographics[:4]).numpy()
    assert np.isnan(ecg[:, :, 11]).all() and np.isfinite(ecg[:, :, :11]).all()
    assert np.abs(ecg[:, :, 6]).max() < 2


def test_bad_training_sets(train, monkeypatch):
    empty = Windows(**{name: value[:0] for name, value in vars(train).items() if name != "demographics"})
    with pytest.raises(InputError, match="no training window"):
        MeanBeatTemplate(CONFIG).fit(empty)
    monkeypatch.setattr(template_module, "pulse_upstrokes", lambda ppg, fs: torch.full((len(ppg), 1), torch.nan))
    with pytest.raises(InputError, match="no pulse"):
        MeanBeatTemplate(CONFIG).fit(train)


# ------------------------------------------------------------------------------------------------ the input check
def test_check_passes_good_input():
    ppg = np.random.default_rng(0).normal(size=(3, 1, 64))
    checked = check_translation_input(ppg, Demographics.missing(3), 64)
    assert checked.dtype == torch.float32 and checked.shape == (3, 1, 64)
    assert np.allclose(checked.numpy(), ppg, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ppg: ppg[:, 0], "shape"),
        (lambda ppg: ppg[:0], "at least one window"),
        (lambda ppg: ppg.repeat(2, axis=1), "shape"),
        (lambda ppg: ppg[..., :63], "windows of 63 samples"),
        (lambda ppg: np.where(np.arange(3)[:, None, None] == 1, np.nan, ppg), "window 1;"),
        (lambda ppg: np.where(np.arange(3)[:, None, None] >= 1, np.inf, ppg), r"window 1 \(and 1 more\)"),
        (lambda ppg: np.where(np.arange(3)[:, None, None] == 2, 5.0, ppg), "window 2 is flat"),
        (lambda ppg: ppg[:2], "3 entries for 2 windows"),
        (lambda ppg: "ppg", "not an array"),
    ],
)
def test_check_refuses(change, message):
    ppg = np.random.default_rng(0).normal(size=(3, 1, 64))
    with pytest.raises(InputError, match=message):
        check_translation_input(change(ppg), Demographics.missing(3), 64)


def test_check_refuses_no_samples(fitted, test_set):
    with pytest.raises(InputError, match="n_samples=0"):
        fitted.translate(test_set.ppg, test_set.demographics, n_samples=0)
