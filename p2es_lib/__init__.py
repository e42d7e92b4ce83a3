"""A paper companion for P2Es, "Translation from Wearable PPG to 12-Lead ECG" (arXiv 2509.25480).

No code of the paper is public, and only its abstract was available to the authors of this implementation: README.md
says which choices are the paper's and which are ours. The method itself is in :mod:`p2es_lib.method`.

Examples
--------
>>> from p2es_lib import P2Es, Demographics, simulate, translate  # doctest: +SKIP

References
----------
Ji H, Gao W, Zhou P. Translation from Wearable PPG to 12-Lead ECG. arXiv 2509.25480, 2025.
"""

import importlib

__version__ = "0.1.0"

#: The documented face, and where each of it is. Imported when asked for, so that the rest stays cheap to import.
_FACE = {
    "P2Es": "p2es_lib.method.p2es",
    "Demographics": "p2es_lib.core.demographics",
    "simulate": "p2es_lib.simulator",
    "translate": "p2es_lib.translation.file",
}
__all__ = ["Demographics", "P2Es", "__version__", "simulate", "translate"]


def __getattr__(name: str):
    if name not in _FACE:
        raise AttributeError(f"module 'p2es_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
