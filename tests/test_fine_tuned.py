"""A U-Net fine-tuned to one person: what it learns from, what it leaves alone, and whom it is used for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows

from p2es_lib.core.config import get_config
from p2es_lib.core.errors import InputError
from p2es_lib.core.learned import Batch, get_method
from p2es_lib.data.sources.simulated import simulate_cohort
from p2es_lib.experiments import fine_tuned as module
from p2es_lib.experiments.fine_tuned import fine_tuned, translate_fine_tuned
from p2es_lib.experiments.regimes import recordings_of, references_of
from p2es_lib.experiments.variants import FINE_TUNED, VARIANTS


@pytest.fixture(scope="module")
def config():
    small = get_config("smoke").replace("data.n_test_subjects", 3).replace("data.windows_per_subject", 2)
    return small.replace("method.name", "unet").replace("evaluation.reference", "limb")


@pytest.fixture(scope="module")
def test_windows(config):
    return simulate_cohort(config).split("test")


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return get_method("unet")(config, 0.25).eval()


@pytest.fixture
def translated(model, config, test_windows):
    def translate(**options):
        reference = references_of(config, test_windows, "limb")
        told = test_windows.demographics
        return translate_fine_tuned(model, config, test_windows, told, reference, progress=False, **options)

    return translate


def test_each_person_has_a_copy_and_the_model_stays_as_it_was(model, translated, monkeypatch):
    before, made = {name: value.clone() for name, value in model.state_dict().items()}, []

    def noted(model, recording, **options):
        made.append((recording, fine_tuned(model, recording, **options)))
        return made[-1][1]

    monkeypatch.setattr(module, "fine_tuned", noted)
    ecg = translated(n_steps=2)
    assert ecg.shape == (6, 1, 12, 1024) and ecg.isfinite().all() and len(made) == 3, "two windows each"
    assert len({recording["subjects"][0] for recording, _ in made}) == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for _, copy in made:
        changed = {name for name, value in copy.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and all(name.startswith("network.") for name in changed), "delays are told, not learned anew"


def test_it_learns_the_recording_and_nothing_is_laid_under_it(model, translated, test_windows, config, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module, "fine_tuned", lambda model, recording, **options: seen.setdefault(0, recording) and model
    )
    translated()
    recording, losses = seen[0], []
    assert not recording["reference"].given.any() and not recording["reference"].beats.any()
    assert recording["reference"].delay_s.isfinite().all(), "of the reference the delay is told"
    for steps in (0, 40):
        generator = torch.Generator().manual_seed(1)
        tuned = fine_tuned(model, recording, n_steps=steps)
        with torch.no_grad():
            losses.append(float(tuned.training_loss(tuned, Batch(tuned, recording, generator), generator)[1]))
    assert losses[1] < 0.7 * losses[0]


def test_leads_that_the_reference_lacks_have_no_say(translated, monkeypatch):
    usual = translated(n_steps=2)

    def other_chest(config, windows, session):
        ecg, ppg = recordings_of(config, windows, session)
        ecg[:, 6:] += 5.0
        return ecg, ppg

    monkeypatch.setattr(module, "recordings_of", other_chest)
    torch.testing.assert_close(translated(n_steps=2), usual)


def test_the_recording_is_never_the_target(config, test_windows):
    for session in ("same", "other"):
        ecg, ppg = recordings_of(config, test_windows, session)
        assert np.abs(ppg.numpy() - np.array(test_windows.ppg)).max(axis=(1, 2)).min() > 0.1
        assert torch.equal(ecg[0], ecg[1]), "both windows of a person have the same one"
    with pytest.raises(InputError, match="simulated people only"):
        recordings_of(config, synthetic_windows(), "same")


def test_its_uses_are_of_the_trained_u_net_and_of_each_regime():
    uses = {name: variant for name, variant in VARIANTS.items() if name.startswith(FINE_TUNED)}
    assert len(uses) == 6 and {variant.weights_of for variant in uses.values()} == {"unet"}
    regimes = {(v.changes["evaluation.reference"], v.changes["evaluation.session"]) for v in uses.values()}
    assert len(regimes) == 6 and all(v.changes["evaluation.fine_tuned"] for v in uses.values())
