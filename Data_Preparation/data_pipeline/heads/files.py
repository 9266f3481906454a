"""Heads on disk: a folder with `head.safetensors` (weights) and `head.json` (their meaning)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from data_pipeline.errors import ModelError, SourceError, StaleStageError
from data_pipeline.heads.foreign import is_foreign, load_foreign
from data_pipeline.heads.identity import PROBE_SENTENCES, EmbedderIdentity, identity_settings
from data_pipeline.heads.model import Head, Layer
from data_pipeline.heads.named import NAMED_HEADS, load_named
from data_pipeline.types import Float32Array
from data_pipeline.utils import atomic_write_bytes, atomic_write_json, converted_errors, sha256_of_json

_FORMAT = 1
_WEIGHTS, _MEANING = "head.safetensors", "head.json"


def save_head(head: Head, folder: Path, overwrite: bool = False) -> None:
    """Write a head; `head.json` is written last, with the checksum of the weights.

    Args:
        head: head to write.
        folder: folder to write to; it is made if it does not exist.
        overwrite: replace another head in the folder.

    Raises:
        StaleStageError: the folder holds another head, and `overwrite` is not set.
    """
    meaning, content = _meaning(head), save(_tensors(head))
    meaning["weights_sha256"] = _sha256(content)
    json.dumps(meaning, allow_nan=False)  # fails before any file is changed
    if (folder / _MEANING).exists() and not overwrite and not _is_same_head(folder, meaning):
        raise StaleStageError(f"{folder} holds another head. Choose another folder, or set overwrite to replace it.")
    if (folder / _MEANING).exists():
        # Weights of one head beside the meaning of another must not be readable, not even after a crash.
        (folder / _MEANING).unlink()
    atomic_write_bytes(folder / _WEIGHTS, content)
    atomic_write_json(folder / _MEANING, meaning)


def load_head(source: str | Path) -> Head:
    """Load a head from a folder of this package, a file or folder of another system, or by its name on the hub.

    Args:
        source: a folder with `head.json`; a Lightning `.ckpt`, a `.pt` or a Hugging Face folder (see `foreign`); or
            one of `NAMED_HEADS`.

    Raises:
        ModelError: the head is damaged, or the source is not a head.
        SourceError: the source does not exist, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if (path / _MEANING).is_file():
        return _load(path)
    if is_foreign(path):
        return load_foreign(path)
    if str(source) in NAMED_HEADS:
        return load_named(str(source))
    raise SourceError(
        f"there is no head at {source}: expected a folder with {_MEANING}, a .ckpt or .pt file, a Hugging Face head "
        f"folder with config.json, or one of the names {', '.join(NAMED_HEADS)}"
    )


def head_sha256(head: Head) -> str:
    """Compute the SHA-256 of everything that decides a head's scores."""
    meaning = _meaning(head)
    meaning.pop("about")
    return sha256_of_json([meaning, _sha256(save(_tensors(head)))])


def _tensors(head: Head) -> dict[str, Float32Array]:
    tensors = {}
    for number, layer in enumerate(head.layers):
        tensors[f"layers.{number}.weight"] = np.ascontiguousarray(layer.weight)
        tensors[f"layers.{number}.bias"] = np.ascontiguousarray(layer.bias)
    if head.cutpoints is not None:
        tensors["cutpoints"] = head.cutpoints
    if head.embedder is not None and head.embedder.probes is not None:
        tensors["probes"] = head.embedder.probes
    return tensors


def _meaning(head: Head) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "kind": head.kind,
        "labels": list(head.labels),
        "layers": [list(layer.weight.shape) for layer in head.layers],
        "temperature": head.temperature,
        "embedder": None if head.embedder is None else dict(head.embedder.settings),
        "probe_sentences": list(PROBE_SENTENCES),
        "about": dict(head.about),
    }


def _load(folder: Path) -> Head:
    path = folder / _MEANING
    with converted_errors((OSError, ValueError), ModelError, f"the head in {folder} cannot be read"):
        meaning = json.loads(path.read_bytes())
        content = (folder / _WEIGHTS).read_bytes()
    if not isinstance(meaning, dict) or meaning.get("format") != _FORMAT:
        raise ModelError(f"{path} is not a head of format {_FORMAT}; it was written by another version of this package")
    if _sha256(content) != meaning.get("weights_sha256"):
        raise ModelError(
            f"checksum mismatch: {folder / _WEIGHTS} is not the file that {path} describes. "
            "It was changed after it was written."
        )
    try:
        return _head(meaning, load(content))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not describe a head: {error!r}") from error


def _head(meaning: dict[str, Any], tensors: dict[str, Float32Array]) -> Head:
    names = [f"layers.{number}" for number in range(len(meaning["layers"]))]
    embedder = meaning["embedder"]
    # Probe vectors of other sentences cannot be compared.
    probes = tensors.get("probes") if meaning["probe_sentences"] == list(PROBE_SENTENCES) else None
    return Head(
        kind=meaning["kind"],
        labels=tuple(str(label) for label in meaning["labels"]),
        layers=tuple(Layer(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names),
        embedder=None if embedder is None else EmbedderIdentity(identity_settings(embedder), probes),
        cutpoints=tensors.get("cutpoints"),
        temperature=float(meaning["temperature"]),
        about=meaning["about"],
    )


def _is_same_head(folder: Path, meaning: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / _MEANING).read_bytes()) == json.loads(json.dumps(meaning)))
    except (OSError, ValueError):
        return False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
