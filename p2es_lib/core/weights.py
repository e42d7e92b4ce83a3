"""Weight files: what stands in them, and where those of the simulated cohort lie.

``weights.safetensors`` holds tensors and, as one entry of its metadata, a sorted JSON of the method's name, the
version, all settings and what else belongs to the model. Equal trainings leave equal bytes, so ``sha256sum`` names the
weights; the day they were made stands beside, in ``weights.json``, with the hash of the file it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from p2es_lib import __version__
from p2es_lib.core.config import METHODS, real_profile
from p2es_lib.core.errors import InputError
from p2es_lib.core.paths import PRETRAINED, atomic_path, run_dir

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "weights.json"
# The one entry of the metadata: the library behind safetensors writes several in random order.
_ENTRY = "p2es"
#: Beginnings of the tensors' names in files of older versions, and what they are now.
RENAMED_TENSORS = {"denoiser.generator.": "denoiser.multi_scale."}


class Weights(NamedTuple):
    """A weight file as read, under today's names."""

    path: Path
    method: str
    config: dict[str, Any]
    extra_state: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str
    made_on: str  # day, as "2026-11-26"; "" where nothing tells


def write_weights(
    folder: str | Path, method: str, config: dict, extra_state: dict, tensors: dict[str, Tensor], made_on: str = ""
) -> dict[str, str]:
    """Write ``weights.safetensors`` and ``weights.json``, and return the latter; ``made_on``: default today."""
    from safetensors.torch import save

    about = {"method": method, "version": __version__, "config": config, "extra_state": extra_state}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(tensors, metadata={_ENTRY: json.dumps(about, sort_keys=True)})
    card = {"made_on": made_on or date.today().isoformat(), "sha256": hashlib.sha256(content).hexdigest()}
    # The card first: without its weights it says nothing. Not by save_file, which would let nobody else read them.
    for name, data in ((CARD_FILE, json.dumps(card).encode() + b"\n"), (WEIGHTS_FILE, content)):
        with atomic_path(Path(folder) / name) as temporary:
            temporary.write_bytes(data)
    return card


def check_weights(folder: str | Path) -> Path:
    """The weight file of a folder, if there is one; otherwise an :class:`InputError`. Nothing is read yet."""
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such model; run 'make reproduce', or name a folder that holds {WEIGHTS_FILE}")
    return path


def read_weights(folder: str | Path) -> Weights:
    """The weight file of a folder, of an older version too; an InputError, if it holds no model of this library."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = check_weights(folder)
    try:
        content = path.read_bytes()
        tensors = names_now(load(content))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); download or train it again") from error
    about = _metadata(content)
    if about.get("method") not in METHODS:
        found = f"a model {about['method']!r}, which this version does not know" if "method" in about else "no model"
        raise InputError(f"{path}: holds {found}; name a folder that {WEIGHTS_FILE} of this library lies in")
    sha256, made_on = hashlib.sha256(content).hexdigest(), ""
    with suppress(OSError, ValueError, KeyError):  # a file of an older version has no card
        card = json.loads((path.parent / CARD_FILE).read_text())
        made_on = card["made_on"] if card["sha256"] == sha256 else ""
    return Weights(path, about["method"], about["config"], about["extra_state"], tensors, sha256, made_on)


def read_metadata(content: bytes) -> dict[str, str]:
    """Metadata of a safetensors file, without its tensors being read; a ValueError if it is none."""
    # Eight bytes with the length of the header, little-endian, then the header, JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}) if isinstance(header, dict) else {}


def _metadata(content: bytes) -> dict[str, Any]:
    metadata = read_metadata(content)
    if _ENTRY in metadata:
        return json.loads(metadata[_ENTRY])
    if not {"format", "config", "extra_state"} <= metadata.keys():
        return {}
    # Older versions: an entry each, the method's name as "format".
    return {"method": metadata["format"]} | {name: json.loads(metadata[name]) for name in ("config", "extra_state")}


def names_now(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names (:data:`RENAMED_TENSORS`)."""
    for old, new in RENAMED_TENSORS.items():
        tensors = {re.sub(f"^{re.escape(old)}", new, name): tensor for name, tensor in tensors.items()}
    return tensors


def simulated_model_folder(profile: str) -> Path:
    """Folder of P2Es trained on the simulated cohort: one's own run, or, for ``quick`` and ``wide``, the package's."""
    source = real_profile(profile)
    own = run_dir("simulated", source, "p2es", 0)
    return PRETRAINED if source == "wide" and not (own / WEIGHTS_FILE).is_file() else own
