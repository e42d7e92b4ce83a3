"""Error of the estimate at any time: against the errors that looking into the stages gives, masks, ratios, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib import plots
from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.inspection import error_by_time, squared_errors, view_stages
from p2es_lib.method.p2es import P2Es


def model(windows, **changes) -> P2Es:
    torch.manual_seed(0)
    made = P2Es(tiny_config(**changes), ecg_scale_mv=0.3)
    made.prepare(windows.split("train"), seed=0, progress=False)
    with torch.no_grad():  # zero-initialised layers would make both stages the same
        for parameter in made.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def windows():
    return synthetic_windows()


@pytest.fixture(scope="module")
def full(windows):
    return model(windows)


@pytest.mark.parametrize("absent", [(), (7, 9)])
def test_errors_are_those_of_the_stages_seen_one_by_one(full, absent):
    windows = synthetic_windows(lead_mask=[0 if lead in absent else 2 for lead in range(12)])
    view, errors = view_stages(full, windows, 0.4, seed=3), squared_errors(full, windows, 0.4, seed=3)
    present = np.array(windows.lead_mask) > 0
    for stage in ("coarse", "refined"):
        squared = ((getattr(view, stage) - view.truth) ** 2).mean(-1)
        expected = [squared[row, present[row]].mean() for row in range(len(windows))]
        np.testing.assert_allclose(errors[stage], expected, rtol=2e-3)


def test_the_share_that_is_taken_leads_from_stage_1_to_the_refined_estimate(windows):
    """With equal leads (no projection) the refined estimate lies between both, as far along as the share says."""
    local = model(windows, denoiser__projection=False)
    view = view_stages(local, windows, 0.4, seed=3)
    assert view.local_share.shape == view.refined.shape and 0 < view.local_share.min() < view.local_share.max() < 1
    torch.nn.init.zeros_(local.denoiser.multi_scale.trust.weight)
    torch.nn.init.constant_(local.denoiser.multi_scale.trust.bias, 40.0)  # all of it
    everything = view_stages(local, windows, 0.4, seed=3).refined
    np.testing.assert_allclose(view.refined, view.coarse + view.local_share * (everything - view.coarse), atol=1e-4)
    assert view_stages(model(windows, denoiser__local_deblurring=False), windows, 0.4).local_share is None


def test_noise_does_not_depend_on_the_batch_and_untrained_leads_do_not_count(windows, full):
    whole = squared_errors(full, windows, 0.6)
    np.testing.assert_allclose(squared_errors(full, windows, 0.6, batch_size=3)["refined"], whole["refined"], rtol=1e-3)
    assert not np.allclose(squared_errors(full, windows, 0.6, seed=1)["refined"], whole["refined"])
    full.trained_leads[6:] = 0
    try:
        limbs = squared_errors(full, windows, 0.6)["refined"]
    finally:
        full.trained_leads[6:] = 1
    assert not np.allclose(limbs, whole["refined"])


def test_ratio_is_one_for_the_reference_and_follows_the_squared_errors(windows, full):
    plain = model(windows, denoiser__deblurring=False)
    table = error_by_time({"p2es": full, "no_deblurring": plain}, windows, [1.0, 0.3], n_bootstrap=50)
    own = table[(table["variant"] == "p2es") & (table["stage"] == "both stages")]
    assert (own[["ratio", "lower", "upper"]] == 1.0).all(axis=None) and (
        own["n_subjects"] == windows.index["subject"].nunique()
    ).all()
    assert set(table.loc[table["variant"] == "no_deblurring", "stage"]) == {"both stages"}
    assert set(table.loc[table["variant"] == "p2es", "stage"]) == {"stage 1", "both stages"}
    other = table[table["variant"] == "no_deblurring"].set_index("t")
    np.testing.assert_allclose(other["ratio"], (other["rmse"] / own.set_index("t")["rmse"]) ** 2, rtol=1e-6)
    assert ((other["lower"] <= other["ratio"]) & (other["ratio"] <= other["upper"])).all()


def test_another_forward_process_is_refused(windows, full):
    with pytest.raises(InputError, match="no_blur.*another forward process"):
        error_by_time({"p2es": full, "no_blur": model(windows, process__blur="none")}, windows, [0.5])


def test_figure_draws_the_variants_that_it_is_given():
    rows = [
        (v, s, t, 0.1 * t, 1.2, 1.1, 1.3, 5)
        for v in ("p2es", "a", "b")
        for s in ("stage 1", "both stages")
        for t in (0.2, 0.6, 1.0)
    ]
    table = pd.DataFrame(rows, columns=["variant", "stage", "t", "rmse", "ratio", "lower", "upper", "n_subjects"])
    fig = plots.plot_error_by_time(table, {"p2es": "P2Es", "a": "without a"})
    left, right = fig.axes
    assert len(left.lines) == 2 and [text.get_text() for text in fig.legends[0].get_texts()] == ["without a"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), 20.0)
    with pytest.raises(InputError, match="p2es is not among"):
        plots.plot_error_by_time(table, {"a": "without a"})
