"""Which learned methods there are: P2Es and the baselines that are trained beside it."""

from __future__ import annotations

import importlib
from pathlib import Path

from p2es_lib.core.config import METHODS
from p2es_lib.core.errors import InputError, check_choice
from p2es_lib.core.learned import WEIGHTS_FILE, LearnedTranslator

#: Name to module and class: a method's file is imported when it is asked for.
_CLASSES = {
    "p2es": ("p2es_lib.method.p2es", "P2Es"),
    "p2es_hybrid": ("p2es_lib.baselines.hybrid", "HybridP2Es"),
    "unet": ("p2es_lib.baselines.unet", "UNetRegression"),
    "bilstm": ("p2es_lib.baselines.bilstm", "BiLSTMRegression"),
    "rddm": ("p2es_lib.baselines.rddm", "RDDM"),
    "p2e_wgan": ("p2es_lib.baselines.p2e_wgan", "P2EWGAN"),
    "cardiogan": ("p2es_lib.baselines.cardiogan", "CardioGAN"),
    "rectified_flow": ("p2es_lib.baselines.rectified_flow", "RectifiedFlow"),
}
assert set(_CLASSES) == set(METHODS)


def get_method(name: str) -> type[LearnedTranslator]:
    """Class of a method; an unknown name raises an :class:`InputError` that lists the allowed ones."""
    module, attribute = _CLASSES[check_choice("method.name", name, METHODS)]
    return getattr(importlib.import_module(module), attribute)


def load_method(folder: str | Path, device="cpu") -> LearnedTranslator:
    """Load whichever method :meth:`LearnedTranslator.save` wrote into ``folder``.

    Raises
    ------
    InputError
        No model there, or one of an unknown method.
    """
    from safetensors import SafetensorError, safe_open

    path, name = Path(folder) / WEIGHTS_FILE, "p2es"
    try:
        with safe_open(path, framework="pt") as file:
            name = (file.metadata() or {}).get("format", "p2es")
    except (SafetensorError, OSError):
        pass  # the class says what is wrong with it
    if name not in METHODS:
        raise InputError(f"{path}: holds a model {name!r}, which this version does not know")
    return get_method(name).from_pretrained(folder, device)


def describe_method(name: str) -> str:
    """What a method is, in one sentence: the first of its module."""
    module, _ = _CLASSES[check_choice("method.name", name, METHODS)]
    return " ".join((importlib.import_module(module).__doc__ or "").partition("\n\n")[0].split())
