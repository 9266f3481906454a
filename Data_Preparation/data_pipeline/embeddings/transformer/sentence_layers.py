"""Pooling of a model and the modules behind it, in the format of sentence-transformers: from states to vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from data_pipeline.embeddings.recipes.modules import SentenceModule
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.errors import ModelError

# Shapes: T tokens of all texts, N texts, D width of the model, W width of the vectors.

_ACTIVATIONS = "torch.nn.modules.activation"
_FAILURES = (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class SentenceLayers:
    """What makes one vector of the states of a text's tokens, in float32."""

    pooling: Pooling
    modules: nn.Sequential
    """Modules behind the pooling, on the device of the model."""

    def __call__(self, hidden_TD: Tensor, lengths_N: Tensor, prompt_tokens: int = 0) -> Tensor:
        """Vectors of shape (N, W) from the states of all tokens; see `Pooling`."""
        return self.project(self.pooling(hidden_TD, lengths_N, prompt_tokens))

    def project(self, pooled_ND: Tensor) -> Tensor:
        """Vectors of shape (N, W) from pooled states."""
        vectors: Tensor = self.modules(pooled_ND.float())
        return vectors

    def width(self, hidden_size: int) -> int:
        """Number of dimensions of the vectors, W, for the width of the model."""
        sizes = [module.out_features for module in self.modules if isinstance(module, _Dense)]
        return sizes[-1] if sizes else hidden_size * len(self.pooling.modes)


class _Dense(nn.Module):
    """Linear layer with an activation, and the input added where the settings say so."""

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__()
        self.in_features, self.out_features = int(settings["in_features"]), int(settings["out_features"])
        self.linear = nn.Linear(self.in_features, self.out_features, bias=bool(settings.get("bias", True)))
        self.activation = _activation(str(settings.get("activation_function", f"{_ACTIVATIONS}.Tanh")), folder)
        self.use_residual = bool(settings.get("use_residual", False))
        if self.use_residual and self.in_features != self.out_features:
            self.residual = nn.Linear(self.in_features, self.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, in) to (N, out)."""
        out: Tensor = self.activation(self.linear(x))
        if not self.use_residual:
            return out
        return out + (x if self.in_features == self.out_features else self.residual(x))


class _LayerNorm(nn.Module):
    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        del folder
        super().__init__()
        self.norm = nn.LayerNorm(int(settings["dimension"]))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, W)."""
        out: Tensor = self.norm(x)
        return out


class _Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, W)."""
        return functional.normalize(x, dim=-1)


_KINDS: dict[str, Callable[[Mapping[str, Any], Path], nn.Module]] = {"Dense": _Dense, "LayerNorm": _LayerNorm}


def load_sentence_layers(pooling: Pooling, modules: tuple[SentenceModule, ...], device: torch.device) -> SentenceLayers:
    """Load the modules behind a model's pooling.

    Args:
        pooling: pooling of the model.
        modules: modules behind it; see `recipes.modules.ModuleChain`.
        device: device of the model.

    Raises:
        ModelError: a module's settings or weights cannot be read, or do not fit each other.
    """
    layers = nn.Sequential(*map(_load, modules)).to(device).eval().requires_grad_(False)
    return SentenceLayers(pooling, layers)


def _load(module: SentenceModule) -> nn.Module:
    if module.kind == "Normalize":
        return _Normalize()
    try:
        layer = _KINDS[module.kind](module.settings, module.folder)
        layer.load_state_dict(read_tensors(module.folder / "model.safetensors", module.folder / "pytorch_model.bin"))
        return layer.float()
    except _FAILURES as error:
        raise ModelError(
            f"cannot load the {module.kind} module in {module.folder}: {type(error).__name__}: {error}. "
            "Download the model again, or choose another one."
        ) from error


def read_tensors(path: Path, older: Path) -> dict[str, Tensor]:
    """Read the weights of a module: safetensors, or the older format, of which nothing but tensors is read.

    Args:
        path: safetensors file.
        older: file that is read where the first does not exist.

    Raises:
        ValueError: the older file holds more than tensors.
        OSError, RuntimeError, SafetensorError: a file cannot be read.
    """
    if path.exists():
        return load_file(path)
    try:
        weights: dict[str, Tensor] = torch.load(older, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its message advises to load the file without the check
        raise ValueError(f"{older.name} holds more than tensors, and is not read") from error
    return weights


def _activation(name: str, folder: Path) -> nn.Module:
    """Activation by the name of its class, which must be one of torch's."""
    kind = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    if kind is nn.Identity or (isinstance(kind, type) and kind.__module__ == _ACTIVATIONS):
        activation: nn.Module = kind()
        return activation
    raise ModelError(
        f"{folder} has the activation {name!r}; expected torch.nn.Identity or one of {_ACTIVATIONS}, because other "
        "code is not run"
    )
