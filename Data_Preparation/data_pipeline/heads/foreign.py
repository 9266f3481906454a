"""Heads of other systems: Lightning checkpoints, state dicts and Hugging Face head folders.

No code in a file is run: pickles are read by torch's restricted reader, which makes tensors and plain values only.
"""

import argparse
import json
import pathlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipeline.errors import ModelError, SourceError
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.heads.model import Head, Layer
from data_pipeline.types import Float32Array
from data_pipeline.utils import converted_errors

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_SAFETENSORS = ".safetensors"
_CONFIG = "config.json"
_FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_NESTED = ("state_dict", "model_state_dict")
_MAX_TENSORS = 64  # the folder of an embedder has hundreds of tensors, gigabytes in size

_EXPECTED = (
    "expected linear layers in order, with ReLU between them: layer1.weight [H, D], layer1.bias [H], "
    "layer2.weight [T, H], layer2.bias [T]; or 0, 2, ... instead of layer1, layer2, ..., with any prefix"
)

# Errors of torch for a damaged file, any byte of which may be wrong.
_DAMAGE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError,
    UnpicklingError, ValueError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class _HeadFile:
    """Content of a file, before it is checked."""

    format: str
    tensors: Mapping[Any, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters of a checkpoint, or the config of a folder."""
    checked: tuple[str, ...] = ()
    """Names of facts that must agree with the weights."""


def is_foreign(path: Path) -> bool:
    """Whether a file or folder exists that `load_foreign` may be able to read, by its name."""
    if path.is_dir():
        return any((path / name).is_file() for name in (_CONFIG, *_FOLDER_WEIGHTS))
    return path.is_file() and path.suffix.lower() in (*_PICKLES, _SAFETENSORS)


def load_foreign(path: Path) -> Head:
    """Load a regression head from a file or folder of another system.

    | source | system |
    |---|---|
    | `.ckpt` | JQL: a Lightning checkpoint |
    | `.pt`, `.pth`, `.bin` | any: `torch.save` of a state dict |
    | `.safetensors` | the same tensors |
    | folder with `config.json` and `model.safetensors` | ML-Filter: a Hugging Face model |

    Args:
        path: file or folder. Weights of any float dtype become float32.

    Raises:
        ModelError: the file is damaged, is not a head, is a classifier, or can only be read by running code in it.
    """
    content = _read(path)
    layers = tuple(_layers(path, content.tensors))
    outputs, dim = int(layers[-1].weight.shape[0]), int(layers[0].weight.shape[1])
    _check_meaning(path, content.facts, outputs)
    sizes = {"input_dim": dim, "embedding_dim": dim, "num_tasks": outputs}
    if len(layers) > 1:
        sizes["hidden_dim"] = int(layers[0].weight.shape[0])
    _check_sizes(path, {name: sizes[name] for name in content.checked if name in sizes}, content.facts)
    about: dict[str, Any] = {"source": path.name, "format": content.format}
    if isinstance(scales := content.facts.get("num_targets_per_task"), list):
        about["num_targets_per_task"] = scales
    labels = _labels(path, content.facts, outputs)
    with converted_errors(ModelError, ModelError, str(path)):
        return Head("regression", labels, layers, embedder=_embedder(content.facts, dim), about=about)


def _read(path: Path) -> _HeadFile:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise SourceError(f"there is no head at {path}: no such file or folder")
    if path.suffix.lower() == _SAFETENSORS:
        return _HeadFile("safetensors", _read_safetensors(path))
    if path.suffix.lower() in _PICKLES:
        return _read_pickle(path)
    raise ModelError(f"{path} is no head: expected a folder or a file *{', *'.join((*_PICKLES, _SAFETENSORS))}")


def _read_folder(folder: Path) -> _HeadFile:
    weights = next((folder / name for name in _FOLDER_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        entries = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
        raise ModelError(f"{folder} has no weights: expected {' or '.join(_FOLDER_WEIGHTS)}, found {entries}")
    facts: Any = {}
    if (folder / _CONFIG).is_file():
        with converted_errors((OSError, ValueError), ModelError, f"{folder / _CONFIG} cannot be read"):
            facts = json.loads((folder / _CONFIG).read_bytes())
    if not isinstance(facts, dict):
        raise ModelError(f"{folder / _CONFIG} must hold an object, found {type(facts).__name__}")
    tensors = _read_safetensors(weights) if weights.suffix == _SAFETENSORS else _read_pickle(weights).tensors
    return _HeadFile("huggingface", tensors, facts, ("embedding_dim", "hidden_dim", "num_tasks"))


def _read_safetensors(path: Path) -> dict[str, "Tensor"]:
    if (path.parent / "head.json").is_file():
        raise ModelError(f"{path} is part of a head of this package, whose meaning is beside it: name {path.parent}")
    advice = "It is damaged or cut short: download it again."
    # By torch, since numpy has no bfloat16.
    with (
        converted_errors((SafetensorError, OSError), ModelError, f"{path} cannot be read", advice),
        safe_open(path, framework="pt") as file,
    ):
        names = list(file.keys())
        if len(names) > _MAX_TENSORS:
            raise ModelError(f"{path} has {len(names)} tensors, a head has a few layers. Is this an embedder?")
        return {name: file.get_tensor(name) for name in names}


def _read_pickle(path: Path) -> _HeadFile:
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds one {type(content).__name__}, expected a state dict; {_EXPECTED}")
    nested = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), None)
    facts = content.get("hyper_parameters")
    facts = vars(facts) if isinstance(facts, argparse.Namespace) else facts
    is_lightning = path.suffix.lower() == ".ckpt" or "pytorch-lightning_version" in content
    return _HeadFile(
        "lightning" if is_lightning else "state_dict",
        content if nested is None else nested,
        facts if nested is not None and isinstance(facts, Mapping) else {},
        ("input_dim", "hidden_dim"),
    )


def _unpickle(path: Path) -> Any:
    # Not at the top: torch takes seconds to import.
    import torch

    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE_ERRORS as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelError(
                f"{path} is not loaded: it is a pickle that holds {code[1]}, and to read that is to run code which the "
                "file names; expected tensors and plain values. Where you trust the file, save its state dict as "
                "safetensors with the program that wrote it: safetensors.torch.save_file(model.state_dict(), "
                '"head.safetensors")'
            ) from error
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ModelError(
            f"{path} cannot be read: {reason[0]}. It is damaged, cut short, or not written by torch.save: "
            "download it again."
        ) from error


def _safe_globals() -> list[Any]:
    """List the classes in Lightning's hyper-parameters besides plain values; making one of them has no effect.

    Paths become pure paths, which exist on every system and do not touch the disk.
    """
    modules = ("pathlib", "pathlib._local")  # the module depends on the version of Python
    pure = {
        "PosixPath": pathlib.PurePosixPath, "PurePosixPath": pathlib.PurePosixPath,
        "WindowsPath": pathlib.PureWindowsPath, "PureWindowsPath": pathlib.PureWindowsPath,
    }  # fmt: skip
    return [argparse.Namespace, *((kind, f"{module}.{name}") for module in modules for name, kind in pure.items())]


def _layers(path: Path, tensors: Mapping[Any, Any]) -> Iterator[Layer]:
    parts: dict[str, dict[str, Any]] = {}
    unknown = []
    for key, value in tensors.items():
        module, _, part = str(key).rpartition(".")
        if part in {"weight", "bias"} and hasattr(value, "is_floating_point"):
            parts.setdefault(module, {})[part] = value
        else:
            unknown.append(f"{key} ({_describe(value)})")
    if unknown or not parts:
        listed = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} others" if len(unknown) > 5 else "")
        raise ModelError(f"{path} is no head that can be applied: it has {listed or 'no tensors'}; {_EXPECTED}")
    for module in _order_layers(path, list(parts)):
        prefix = f"{module}." if module else ""
        if missing := {"weight", "bias"} - parts[module].keys():
            raise ModelError(
                f"{path} has no {prefix}{missing.pop()}; {_EXPECTED}. A layer without a bias has one of zeros."
            )
        yield Layer(
            _to_float32(path, f"{prefix}weight", parts[module]["weight"], 2),
            _to_float32(path, f"{prefix}bias", parts[module]["bias"], 1),
        )


def _order_layers(path: Path, modules: list[str]) -> list[str]:
    """Order the names of layers by their numbers: the order in the file is not reliable."""
    if len(modules) == 1:
        return modules
    numbered = {int(match[2]): match for module in modules if (match := re.fullmatch(r"(.*?)(\d+)", module))}
    stems = {match[1] for match in numbered.values()}
    if len(numbered) != len(modules) or len(stems) != 1:
        raise ModelError(f"the order of the layers of {path} is not known: found {', '.join(modules)}; {_EXPECTED}")
    stem, numbers = stems.pop(), sorted(numbered)
    # In a torch Sequential, a ReLU has a number of its own.
    if stem in {"", "."} or stem.endswith("."):
        close = [first for first, second in pairwise(numbers) if second == first + 1]
        if close:
            raise ModelError(
                f"{path} has {stem}{close[0]} and {stem}{close[0] + 1} with nothing between them, so that there may be "
                f"no ReLU; {_EXPECTED}"
            )
    return [numbered[number][0] for number in numbers]


def _to_float32(path: Path, name: str, tensor: "Tensor", dimensions: int) -> Float32Array:
    is_plain = tensor.is_floating_point() and tensor.device.type == "cpu" and str(tensor.layout) == "torch.strided"
    if not is_plain or tensor.ndim != dimensions:
        raise ModelError(
            f"{path}: {name} is {_describe(tensor)}, expected {'a matrix' if dimensions == 2 else 'a vector'} of floats"
        )
    # A copy, since a view would keep the whole file in memory.
    return np.array(tensor.detach().float().numpy(), np.float32, order="C")


def _describe(value: Any) -> str:
    if hasattr(value, "is_floating_point"):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _check_sizes(path: Path, sizes: Mapping[str, int], facts: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} is {facts[name]!r}, the weights say {size}"
        for name, size in sizes.items()
        if facts.get(name) is not None and facts[name] != size
    ]
    if wrong:
        raise ModelError(f"{path} contradicts itself: {'; '.join(wrong)}. Download it again, or ask its author.")


def _check_meaning(path: Path, facts: Mapping[str, Any], outputs: int) -> None:
    """Refuse a head whose outputs are not scores."""
    signs = {
        "is_regression": facts.get("is_regression") is False,
        "problem_type": "classification" in str(facts.get("problem_type", "")),
        "num_classes": facts.get("num_classes") == outputs and outputs > 1,
        "n_classes": facts.get("n_classes") == outputs and outputs > 1,
    }
    if evidence := ", ".join(f"{name} is {facts[name]!r}" for name, sign in signs.items() if sign):
        raise ModelError(
            f"{path} is a classifier ({evidence}), and how its {outputs} outputs are to be read is not in the file; "
            "expected a regression head. Train one on the same labels with: elm heads train"
        )
    for name in ("activation", "activation_function", "hidden_act"):
        if isinstance(facts.get(name), str) and facts[name].lower() != "relu":
            raise ModelError(f"{path} has {name} {facts[name]!r} between its layers, expected 'relu'")


def _labels(path: Path, facts: Mapping[str, Any], outputs: int) -> tuple[str, ...]:
    """Name the outputs, one per task: ML-Filter predicts a grade by one number, whatever its scale."""
    scales = facts.get("num_targets_per_task")
    # [1] is the default of its config.
    if isinstance(scales, list) and scales != [1] and len(scales) != outputs:
        raise ModelError(f"{path} has num_targets_per_task {scales}, but its weights give {outputs} scores")
    names = next((facts[name] for name in ("task_names", "target_names") if facts.get(name)), None)
    if isinstance(names, list):
        if len(names) != outputs:
            raise ModelError(f"{path} names {len(names)} tasks {names}, but its weights give {outputs} scores")
        return tuple(str(name) for name in names)
    return ("score",) if outputs == 1 else tuple(f"target_{number}" for number in range(outputs))


def _embedder(facts: Mapping[str, Any], dim: int) -> EmbedderIdentity | None:
    """Read the identity of the embedder; None if the file does not name it."""
    names = ("embedding_model", "embedding_model_name", "embedder_model_id", "embedder")
    model = next((facts[name] for name in names if isinstance(facts.get(name), str) and facts[name]), None)
    return None if model is None else EmbedderIdentity({"model": model, "dim": str(dim)})
