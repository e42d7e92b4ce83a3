"""One call of P2Es as ONNX, for programs without PyTorch: what the network makes of x_t, of the PPG and of the person.

The file holds GroupFinder with its bank, the affinity matrices and the denoiser with both its stages and the
projection. The discrete cosine transforms, FFTs in PyTorch, stand there as products with their matrix.

Inputs, float32, any number of windows B: ``x_t`` (B, 12, T), state of the reverse process in units of ``ecg_scale_mv``
(in the file's metadata); ``t`` (B,), its time; ``ppg`` (B, 1, T), windows with zero mean and unit variance;
``ppg_features`` (B, 8, T), :func:`p2es_lib.signals.pulse_features.pulse_features` of them at R times, since detecting
beats has no counterpart in ONNX; ``demographics`` (B, 4), :meth:`p2es_lib.core.demographics.Demographics.features`;
``base`` (B, 12, T) and ``given`` (B, 12), the reference laid under the pulses in units of ``ecg_scale_mv``, and 1 for
the leads that it has, both 0 without one; ``reference_beats`` (B, 12, L), its mean beats in mV, by which people who are
alike are found. Features, base and given are what :meth:`P2Es.condition` gives. With t = 1 and standard normal x_t one
call is the estimate of the mean for beats at those times.

Outputs: ``x_0`` (B, 12, T), the estimate of what the reference leaves open, in the units of x_t, which a sampler goes
on with, and ``ecg_mv``, the whole ECG in mV.
"""

import copy
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from p2es_lib import __version__
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import atomic_path
from p2es_lib.core.reference import beat_samples
from p2es_lib.method.forward_process import ForwardProcess
from p2es_lib.method.p2es import P2Es
from p2es_lib.signals.dct import dct
from p2es_lib.signals.pulse_features import N_FEATURES

INPUTS = ("x_t", "t", "ppg", "ppg_features", "demographics", "base", "given", "reference_beats")
OUTPUTS = ("x_0", "ecg_mv")


class MatrixProcess(ForwardProcess):
    """The forward process with its cosine transforms as matrix products, which ONNX has; equal to rounding."""

    def __init__(self, process: ForwardProcess):
        super().__init__(process.config, process.window_samples, process.sampling_rate)
        self.matrix = dct(torch.eye(process.window_samples, dtype=torch.float64)).T.float()  # u = matrix @ x

    def to_basis(self, x: Tensor) -> Tensor:
        """As :meth:`ForwardProcess.to_basis`."""
        return x @ self.matrix.T if self.config.blur == "dct" else x

    def from_basis(self, u: Tensor) -> Tensor:
        """As :meth:`ForwardProcess.from_basis`."""
        return u @ self.matrix if self.config.blur == "dct" else u


class OneCall(nn.Module):
    """The exported module; arguments and results as in the head of this file. InputError: a model of random groups."""

    def __init__(self, model: P2Es):
        super().__init__()
        if model.config.affinity.mixing == "random":
            problem = "a model of random groups (affinity.mixing='random') has no ONNX counterpart"
            raise InputError(f"{problem}; name another")
        self.model = copy.deepcopy(model).eval().cpu()
        self.model.denoiser.process = MatrixProcess(model.process)
        finder = self.model.group_finder
        is_empty = not len(finder.bank_group)
        groups = torch.zeros(0, 1) if is_empty else nn.functional.one_hot(finder.bank_group, finder.n_groups).float()
        self.register_buffer("bank_groups", groups)  # (N, G)

    def group_weights(self, ppg: Tensor, demographics: Tensor, beats: Tensor, given: Tensor) -> Tensor:
        """As :meth:`p2es_lib.method.affinity.GroupFinder.assign` of new windows with these references, (B, G)."""
        finder, config = self.model.group_finder, self.model.config.affinity
        if config.mixing != "groups":
            return torch.ones_like(ppg[:, 0, :1])
        z = finder.encoder(ppg, demographics, beats, given)
        if config.clustering == "centroid":
            distance = ((z[:, None] - finder.centroids[None]) ** 2).sum(-1)
            return torch.softmax(-distance / (2 * config.temperature), dim=1)
        nearest, rows = (z @ finder.bank_embedding.T).topk(min(config.k_neighbours, len(finder.bank_embedding)), dim=1)
        weights = torch.softmax(nearest / config.temperature, dim=1)  # (B, K)
        return (weights[:, :, None] * self.bank_groups[rows]).sum(1)

    def forward(self, x_t: Tensor, t: Tensor, ppg: Tensor, ppg_features: Tensor, demographics: Tensor, base: Tensor,
                given: Tensor, reference_beats: Tensor):  # fmt: skip
        """x_0 and ecg_mv."""
        pi = self.group_weights(ppg, demographics, reference_beats, given)
        trained = self.model.trained_leads[:, None]
        x_0 = self.model(x_t, t, ppg_features, demographics, pi, base, given).refined * trained
        return x_0, (base * trained + self.model.open_scale(given) * x_0) * self.model.ecg_scale_mv


def example_inputs(model: P2Es, n_windows: int = 2) -> tuple[Tensor, ...]:
    """Arguments of :class:`OneCall` of the right shapes: noise, no person, a reference of lead I in the first."""
    n, generator = model.config.signal.window_samples, torch.Generator().manual_seed(0)
    n_beat = beat_samples(model.config.signal.sampling_rate)
    shapes = ((12, n), (1, n), (N_FEATURES, n), (12, n), (12, n_beat))
    x_t, ppg, features, base, beats = (torch.randn(n_windows, *shape, generator=generator) for shape in shapes)
    given = torch.zeros(n_windows, 12)
    given[0, 0] = 1.0
    t, has = torch.linspace(1.0, 0.2, n_windows), given.amax(dim=1)[:, None, None]
    return x_t, t, ppg, features, torch.zeros(n_windows, 4), base * has, given, beats * given[:, :, None]


def export_onnx(model: P2Es, path: str | Path) -> Path:
    """Write one call of the model as an ONNX file and return its path.

    The file's metadata hold the version, the configuration (JSON) and ``ecg_scale_mv``. An :class:`InputError` for
    another method than P2Es, or where the packages onnx and onnxscript are missing.
    """
    path = Path(path)
    if not isinstance(model, P2Es):
        problem = f"method {model.name!r}: only P2Es and its ablations can be exported as ONNX"
        raise InputError(f"{problem}; name such a model")
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        problem = f"{path}: cannot be written without the package {error.name}"
        raise InputError(f"{problem}; install it: pip install '.[onnx]'") from error
    # The exporter notes that torchvision is missing, which is not needed here, and that axes have one name, by intent.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    batch = torch.export.Dim("windows", min=1, max=4096)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*treespec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*axis name: windows will not be used", category=UserWarning)
        program = torch.onnx.export(
            OneCall(model).eval(), example_inputs(model), input_names=list(INPUTS), output_names=list(OUTPUTS),
            dynamic_shapes=tuple({0: batch} for _ in INPUTS), dynamo=True, verbose=False,
        )  # fmt: skip
    config = json.dumps(model.config.to_dict(), sort_keys=True)
    entries = {"format": "p2es-one-call", "version": __version__, "config": config}
    entries |= {"ecg_scale_mv": repr(float(model.ecg_scale_mv)), "note": "research use only, not a diagnosis"}
    proto = program.model_proto  # made anew each time it is asked for
    onnx.helper.set_model_props(proto, entries)
    with atomic_path(path) as temporary:
        onnx.save_model(proto, str(temporary))
    return path
