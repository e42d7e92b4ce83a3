"""The ONNX file gives the numbers that PyTorch gives; the matrix form of the transforms does, without any ONNX."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from synthetic import synthetic_windows, tiny_config

from p2es_lib.baselines.unet import UNetRegression
from p2es_lib.core.demographics import Demographics
from p2es_lib.core.errors import InputError
from p2es_lib.core.reference import Reference
from p2es_lib.method.p2es import P2Es
from p2es_lib.reference.mean_beat import make_references
from p2es_lib.translation.onnx_export import INPUTS, OUTPUTS, MatrixProcess, OneCall, example_inputs, export_onnx


@pytest.fixture(scope="module")
def model() -> P2Es:
    torch.manual_seed(0)
    model = P2Es(tiny_config(), ecg_scale_mv=0.3)
    return trained(model)


def trained(model: P2Es) -> P2Es:
    """As if: a fresh network is the identity in places, and its affinity matrices are all alike."""
    model.group_finder.fit(synthetic_windows().split("train"), seed=0)
    for part in (model.denoiser, model.lead_affinity):
        for parameter in part.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def one_step_inputs(model: P2Es, n_windows: int):
    """Noise at t = 1, PPG, its features, people and a reference of some: the arguments of the one-step translation."""
    windows = synthetic_windows().split("test").select(np.arange(n_windows))
    ppg, people = (
        torch.as_tensor(np.array(windows.ppg)),
        Demographics(np.array([60.0, np.nan, 30.0])[:n_windows], np.array(["F", "", "M"])[:n_windows]),
    )
    given = torch.zeros(n_windows, 12)
    given[0], given[-1, 0] = 1.0, 1.0
    given[1:2] = 0.0
    rate = model.config.signal.sampling_rate
    reference = make_references(torch.as_tensor(np.array(windows.ecg)), given, rate, ppg=ppg)
    demographics = torch.as_tensor(people.features())
    features, _, _, base, given = model.condition(ppg, demographics, reference=reference)
    x_t = torch.randn(n_windows, 12, ppg.shape[-1], generator=torch.Generator().manual_seed(1))
    return x_t, torch.ones(n_windows), ppg, features.detach(), demographics, base, given, reference.beats


@torch.no_grad()
def expected(model: P2Es, x_t, t, ppg, features, demographics, base, given, beats) -> torch.Tensor:
    unknown = torch.full((len(ppg),), torch.nan)
    pi = model.condition(ppg, demographics, reference=Reference(beats, given, torch.ones(len(ppg)), unknown, unknown))[
        2
    ]
    return model(x_t, t, features, demographics, pi, base, given).refined


def test_transforms_as_matrices_are_the_transforms(model):
    x = torch.randn(2, 12, 256, generator=torch.Generator().manual_seed(0))
    process = MatrixProcess(model.process)
    torch.testing.assert_close(process.to_basis(x), model.process.to_basis(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(process.from_basis(x), model.process.from_basis(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "setting", [{}, {"affinity__mixing": "shared"}, {"affinity__clustering": "centroid"}, {"process__blur": "spectral"}]
)
def test_the_module_that_is_exported_is_the_model(setting):
    torch.manual_seed(0)
    model = trained(P2Es(tiny_config(**setting)))
    inputs = one_step_inputs(model, 3)
    with torch.no_grad():
        x_0, ecg_mv = OneCall(model)(*inputs)
    torch.testing.assert_close(x_0, expected(model, *inputs), atol=1e-4, rtol=1e-4)
    base, given = inputs[-3:-1]
    assert given.sum() > 12 and base[0].abs().max() > 1, "a reference takes part"
    with torch.no_grad():
        other = OneCall(model)(*inputs[:-1], -inputs[-1])[0]
    moved = (other - x_0).abs().amax(dim=(1, 2)) > 0
    assert not moved[1], "it has no reference"
    assert moved.any() == (model.config.affinity.mixing == "groups"), "the beats say who is alike"
    torch.testing.assert_close(ecg_mv, (base + model.open_scale(given) * x_0) * model.ecg_scale_mv)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_onnxruntime_gives_the_same_numbers(model, tmp_path, caplog):
    """For another number of windows than the example had, at both ends of the process."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")
    path = export_onnx(model, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"], "one file, nothing left beside it"
    assert not [record for record in caplog.records if record.levelname == "WARNING"], (
        "what the exporter misses is not missed here"
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(INPUTS) and [o.name for o in session.get_outputs()] == list(
        OUTPUTS
    )
    metadata = session.get_modelmeta().custom_metadata_map
    assert (
        float(metadata["ecg_scale_mv"]) == pytest.approx(0.3)
        and json.loads(metadata["config"]) == model.config.to_dict()
    )
    for inputs in (one_step_inputs(model, 1), one_step_inputs(model, 3), example_inputs(model, 2)):
        x_0, ecg_mv = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
        with torch.no_grad():
            own = OneCall(model)(*inputs)
        np.testing.assert_allclose(x_0, own[0].numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(ecg_mv, own[1].numpy(), atol=1e-4, rtol=1e-4)
    # The one-step translation as the library draws it.
    inputs = one_step_inputs(model, 3)
    x_0, _ = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
    np.testing.assert_allclose(x_0, expected(model, *inputs).numpy(), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(InputError, match="only P2Es"):
        export_onnx(UNetRegression(tiny_config(method__name="unet")), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="random"):
        OneCall(P2Es(tiny_config(affinity__mixing="random")))
    assert not list(tmp_path.iterdir())
