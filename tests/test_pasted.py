"""Beats pasted at the pulses: the average one, or those that a reference shows, in leads, place and size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_beats import ecg_of, ppg_of, wave

from p2es_lib.baselines.pasted import PastedBeats
from p2es_lib.core.config import get_config
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.leads import lead_residual
from p2es_lib.data.windows import WindowSet
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.reference.regimes import leads_of

RATE, N, DELAY_S = 125.0, 1024, 0.22
PEOPLE = Demographics.missing


def windows(n: int = 8, gain=lambda row: 1.0, delay_s=lambda row: DELAY_S, absent=(), seed: int = 0) -> WindowSet:
    """Windows of known beats; ``gain`` and ``delay_s`` of each person."""
    from synthetic import synthetic_windows

    index = synthetic_windows(n, 0, 0).index
    rng, ecg, ppg = np.random.default_rng(seed), [], []
    for row in range(n):
        r = rng.uniform(-1.6, -0.8) + np.cumsum(np.full(16, rng.uniform(0.78, 0.86)))
        ecg.append(ecg_of(r, N, RATE, lambda s, row=row: wave(s, gain(row))))
        ppg.append(ppg_of(r + delay_s(row), N, RATE))
    mask = np.where(np.isin(np.arange(12), absent), 0, 2).astype(np.uint8)
    ecg, ppg = (np.array(part, dtype=np.float32) for part in (ecg, ppg))
    return WindowSet(ppg, ecg * (mask > 0)[:, None], np.tile(mask, (n, 1)), index)


def references(of: WindowSet, regime: str = "all", ppg: bool = True):
    pulse = torch.tensor(of.ppg) if ppg else None
    return make_references(torch.tensor(of.ecg), leads_of(regime, len(of)), RATE, ppg=pulse)


def error(ecg: torch.Tensor, test: WindowSet, leads=slice(None)) -> np.ndarray:
    """RMSE (N,) in units of the RMS of the truth, away from the ends."""
    inner = (slice(None), leads, slice(100, N - 100))
    truth = np.asarray(test.ecg)[inner]
    return np.sqrt(((ecg[:, 0].numpy()[inner] - truth) ** 2).mean((1, 2)) / (truth**2).mean((1, 2)))


@pytest.fixture(scope="module")
def pasted() -> PastedBeats:
    return PastedBeats(get_config("smoke")).fit(windows())


def test_where_all_beats_are_alike_the_average_is_the_ecg(pasted):
    test = windows(seed=1)
    ecg = pasted.translate(test.ppg, PEOPLE(8), n_samples=2)
    assert ecg.shape == (8, 2, 12, N) and ecg.dtype == torch.float32 and torch.equal(ecg[:, 0], ecg[:, 1])
    assert error(ecg, test).max() < 0.2 and lead_residual(ecg.numpy()).max() < 1e-5


def test_the_average_is_that_of_the_training_windows():
    half = PastedBeats(get_config("smoke")).fit(windows(8, gain=lambda row: 0.5 + row % 2))
    assert error(half.translate(windows(seed=1).ppg, PEOPLE(8)), windows(seed=1)).max() < 0.2


@pytest.mark.parametrize(("regime", "own"), [("I", range(1)), ("limb", range(6)), ("all", range(12))])
def test_leads_of_a_reference_are_its_own_and_the_others_the_average(pasted, regime, own):
    """A person of twice the size: what is given is twice as large, and only that."""
    recorded, test = windows(gain=lambda row: 2.0, seed=2), windows(gain=lambda row: 2.0, seed=3)
    ecg = pasted.translate(test.ppg, PEOPLE(8), reference=references(recorded, regime))
    assert error(ecg, test, list(own)).max() < 0.2
    others = [lead for lead in range(12) if lead not in own]
    if others:
        plain = pasted.translate(test.ppg, PEOPLE(8))
        # As large as without it; laid at its delay, which is that from the middle of QRS in its leads.
        sizes = (signal[:, 0, others, 100 : N - 100].std(-1) for signal in (ecg, plain))
        torch.testing.assert_close(*sizes, rtol=0.03, atol=0)
        assert error(ecg, test, others).min() > 0.4


def test_two_limb_leads_show_all_six(pasted):
    recorded, test = windows(gain=lambda row: 2.0, seed=2), windows(gain=lambda row: 2.0, seed=3)
    given = torch.zeros(8, 12)
    given[:, [0, 1]] = 1.0
    made = make_references(torch.tensor(recorded.ecg), given, RATE, ppg=torch.tensor(recorded.ppg))
    ecg = pasted.translate(test.ppg, PEOPLE(8), reference=made)
    assert error(ecg, test, list(range(6))).max() < 0.2 and error(ecg, test, list(range(6, 12))).min() > 0.4


def test_the_delay_of_the_reference_counts_and_without_one_the_usual(pasted):
    late = {"delay_s": lambda row: 0.40}
    recorded, test = windows(seed=2, **late), windows(seed=3, **late)
    assert error(pasted.translate(test.ppg, PEOPLE(8), reference=references(recorded)), test).max() < 0.2
    for reference in (None, references(recorded, ppg=False)):
        assert error(pasted.translate(test.ppg, PEOPLE(8), reference=reference), test).min() > 0.8


def test_one_reference_serves_all_and_others_must_fit(pasted):
    test = windows(seed=3)
    one = references(windows(1, gain=lambda row: 2.0, seed=2))
    served = pasted.translate(test.ppg, PEOPLE(8), reference=one)
    assert torch.equal(served, pasted.translate(test.ppg, PEOPLE(8), reference=one.repeat(8)))
    with pytest.raises(InputError, match="2 of them for 8"):
        pasted.translate(test.ppg, PEOPLE(8), reference=one.repeat(2))


def test_leads_without_training_windows_are_nan_unless_shown():
    limb = PastedBeats(get_config("smoke")).fit(windows(absent=range(6, 12)))
    test = windows(seed=3)
    ecg = limb.translate(test.ppg, PEOPLE(8))
    assert torch.isfinite(ecg[:, :, :6]).all() and torch.isnan(ecg[:, :, 6:]).all()
    shown = limb.translate(test.ppg, PEOPLE(8), reference=references(windows(seed=2)))
    assert torch.isfinite(shown).all() and error(shown, test).max() < 0.2


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(RuntimeError, match="before fit"):
        PastedBeats(get_config("smoke")).translate(windows().ppg, PEOPLE(8))
    flat = windows()
    with pytest.raises(InputError, match="pasted beats"):
        PastedBeats(get_config("smoke")).fit(WindowSet(flat.ppg, 0 * flat.ecg, flat.lead_mask, flat.index))
