"""How far samples may lie from their mean: the factors that are fitted, where they apply, and what they repair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2es_lib.core.reference import Reference
from p2es_lib.method.spread import KINDS, LIMITS, N_SAMPLES, STEPS, Spread, kinds_of


def reference(given, elapsed_s) -> Reference:
    made = Reference.none(len(given), 125.0)
    rows = torch.tensor([[float(lead in leads) for lead in range(12)] for leads in given])
    return Reference(made.beats, rows, made.rr_s, made.delay_s, torch.tensor(elapsed_s))


def test_kinds_are_told_by_leads_and_session():
    kinds = kinds_of(reference([(), (0,), (0,), range(12), range(12)], [60.0, 60.0, torch.nan, 60.0, 1e6]))
    names = [[KINDS[kind] for kind in row] for row in kinds.tolist()]
    assert set(names[0]) == {"no reference"}
    assert names[1] == ["given, same"] + 11 * ["absent, same"] and names[2] == ["given, other"] + 11 * ["absent, other"]
    assert set(names[3]) == {"given, same"} and set(names[4]) == {"given, other"}


def test_before_a_fit_nothing_changes_and_one_step_is_never_changed():
    spread, kinds = Spread(), torch.zeros(2, 12, dtype=torch.long)
    assert all(torch.equal(spread.factor(kinds, n), torch.ones(2, 12, 1)) for n in (1, 2, 3, 5, 8, 50))
    spread.factors.fill_(1.7)
    assert torch.equal(spread.factor(kinds, 1), torch.ones(2, 12, 1))
    torch.testing.assert_close(spread.factor(kinds, 2), torch.full((2, 12, 1), 1.7))


def test_between_the_numbers_of_steps_and_below_factors_are_linear():
    spread, kinds = Spread(), torch.zeros(1, 12, dtype=torch.long)
    spread.factors[:, 0] = torch.tensor([2.0, 1.0])
    few, *between, many = (float(spread.factor(kinds, n)[0, 0]) for n in (STEPS[0], 4, 6, STEPS[1]))
    assert few == 2.0 and many == pytest.approx(1.0) and 2.0 > between[0] > between[1] > 1.0
    assert float(spread.factor(kinds, 2)[0, 0]) == pytest.approx(2 + np.log(3 / 2) / np.log(8 / 3)) and float(
        spread.factor(kinds, 50)[0, 0]
    ) == pytest.approx(1.0)


@pytest.mark.parametrize("narrow", [0.6, 1.0, 1.25])
def test_samples_that_spread_too_little_or_too_much_are_put_right(narrow):
    """Truth and samples of one distribution about the first estimate, but for the factor by which these are narrow."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, 1, 12, 64, generator=generator).expand(-1, N_SAMPLES, -1, -1)
    change = narrow * torch.randn(40, N_SAMPLES, 12, 64, generator=generator)
    truth = first[:, 0] + torch.randn(40, 12, 64, generator=generator)
    kinds, mask = torch.zeros(40, 12, dtype=torch.long), torch.full((40, 12), 2)
    kinds[:, 6:] = 3
    spread = Spread()
    spread.fit(STEPS[0], first, change, kinds, truth, mask)
    torch.testing.assert_close(spread.factors[0, [0, 3]], torch.full((2,), 1 / narrow), rtol=0.05, atol=0)
    assert (spread.factors[0, [1, 2, 4]] == 1).all() and (spread.factors[1] == 1).all(), "nothing to fit them to"


def test_absent_leads_have_no_say_and_factors_stay_within_limits():
    generator = torch.Generator().manual_seed(1)
    first = torch.zeros(10, N_SAMPLES, 12, 32)
    change = torch.randn(10, N_SAMPLES, 12, 32, generator=generator)
    truth = torch.randn(10, 12, 32, generator=generator)
    truth[:, 5] = 100.0
    mask, kinds = torch.full((10, 12), 2), torch.zeros(10, 12, dtype=torch.long)
    mask[:, 5] = 0
    spread = Spread()
    spread.fit(STEPS[1], first, change, kinds, truth, mask)
    assert float(spread.factors[1, 0]) == pytest.approx(1, abs=0.1)
    spread.fit(STEPS[1], first, change, kinds, 100 * truth, mask)
    assert float(spread.factors[1, 0]) == pytest.approx(LIMITS[1], abs=0.01)
    spread.fit(STEPS[1], first, change, kinds, 0 * truth, mask)
    assert float(spread.factors[1, 0]) == pytest.approx(LIMITS[0], abs=0.01)
