"""Scoring of vectors by any number of heads at once, in float32.

A text's scores have the same bits whichever texts are scored with it: on machines whose matrix products depend on the
number of rows, all blocks have the same size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipeline.embeddings.transformer.linear import pack_linear_layers
from data_pipeline.embeddings.transformer.loading import choose_device
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.heads.model import Head, Layer
from data_pipeline.types import Float32Array

_BLOCK_ROWS = 1024  # for so many rows, the hidden units of a few heads fit into the processor's cache
_TRIAL_ROWS = (1, 3, 100)

Scores: TypeAlias = NDArray[np.float32] | list[str]
"""Scores of N rows: numbers of shape (N,), or labels."""


class Scorer:
    """Several heads that score vectors together.

    Args:
        heads: heads by name; all take vectors of the same width.
        device: `cpu` or another device of torch.

    Raises:
        ConfigError: there are no heads, their widths differ, two columns would have the same name, or the device does
            not exist.
    """

    def __init__(self, heads: Mapping[str, Head], device: str = "cpu") -> None:
        widths = {name: head.dim for name, head in heads.items()}
        if len(set(widths.values())) != 1:
            raise ConfigError(
                f"heads that are applied together must take vectors of the same width; found {widths or 'no heads'}"
            )
        self.columns = [column for name, head in heads.items() for column in column_names(name, head)]
        """Names of the columns of `score`, in order; see `column_names`."""
        if repeated := sorted({column for column in self.columns if self.columns.count(column) > 1}):
            raise ConfigError(
                f"the heads' labels give two columns the name {', '.join(repeated)}; rename a head or a label"
            )
        self.heads = dict(heads)
        self.dim = next(iter(widths.values()))
        self.device = torch.device(choose_device(device, "device"))
        # Each head separately: its scores must not depend on the other heads, not even in the last bit.
        networks: Any = nn.ModuleList(nn.ModuleList(_linear(layer) for layer in head.layers) for head in heads.values())
        self._networks = networks.to(self.device)
        self._fixed_blocks = False
        self._fixed_blocks = self.device.type != "cpu" or not pack_linear_layers(networks) or self._depends_on_rows()

    def score(self, vectors: NDArray[Any]) -> dict[str, Scores]:
        """Score vectors.

        Args:
            vectors: vectors of shape (N, D) and any float dtype; the computation is in float32.

        Returns:
            Scores of the N rows by column; see `column_names`.

        Raises:
            ModelError: the vectors have another width, or a score is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ModelError(f"the heads take vectors of shape (N, {self.dim}), found {vectors.shape}")
        scores: dict[str, Scores] = {}
        for (name, head), logits in zip(self.heads.items(), self.outputs(vectors), strict=True):
            if len(bad := np.flatnonzero(~np.isfinite(logits).all(axis=1))):
                raise ModelError(f"the head {name} gives no finite score for vector {bad[0]}; look at that vector")
            scores |= meaning_of(name, head, logits)
        return scores

    def outputs(self, vectors: NDArray[Any]) -> list[Float32Array]:
        """Compute the outputs of the last layer of each head, shape (N, outputs), in the order of the heads."""
        outputs = [np.empty((len(vectors), head.layers[-1].bias.shape[0]), np.float32) for head in self.heads.values()]
        with torch.inference_mode(), _exact_float32(self.device):
            for start in range(0, len(vectors), _BLOCK_ROWS):
                block = vectors[start : start + _BLOCK_ROWS]
                for output, logits in zip(outputs, self._block_outputs(block), strict=True):
                    output[start : start + len(block)] = logits[: len(block)].numpy(force=True)
        return outputs

    def _depends_on_rows(self) -> bool:
        """Whether the bits of a row change with the number of rows computed with it; determined by a trial.

        With packed layers they do not change on x86; other processors (Arm) use other kernels.
        """
        vectors = np.sin(np.arange(_BLOCK_ROWS * self.dim, dtype=np.float32)).reshape(_BLOCK_ROWS, self.dim)
        whole = self.outputs(vectors)
        return any(
            not np.array_equal(part, full[:rows], equal_nan=True)
            for rows in _TRIAL_ROWS
            for part, full in zip(self.outputs(vectors[:rows]), whole, strict=True)
        )

    def _block_outputs(self, block: NDArray[Any]) -> Iterator[Tensor]:
        rows = _BLOCK_ROWS if self._fixed_blocks else len(block)
        x = torch.zeros((rows, self.dim), dtype=torch.float32)
        # By numpy, which reads half-precision and read-only arrays directly.
        np.copyto(x.numpy()[: len(block)], block, casting="same_kind")
        x = x.to(self.device)
        for first, *rest in self._networks:
            part = first(x)
            # NaN for a vector that is not finite: ReLU would turn its minus infinity into 0.
            invalid = part.sum(dim=1, keepdim=True) * 0
            for layer in rest:
                part = layer(torch.relu(part))
            yield part + invalid


def column_names(name: str, head: Head) -> list[str]:
    """Name the columns of a head's scores.

    | kind | columns |
    |---|---|
    | regression | one target: `name`; several: `name_target` for each |
    | binary | `name`, the probability of the second label |
    | multiclass | `name`, the highest probability; `name_label`, the likeliest class; `name_class`, for each class |
    | ordinal | `name`, the expected grade; `name_label`, the likeliest grade |
    """
    if head.kind == "regression" and len(head.labels) > 1:
        return [f"{name}_{label}" for label in head.labels]
    if head.kind == "multiclass":
        return [name, f"{name}_label", *(f"{name}_{label}" for label in head.labels)]
    return [name, f"{name}_label"] if head.kind == "ordinal" else [name]


def meaning_of(name: str, head: Head, logits: Float32Array) -> dict[str, Scores]:
    """Convert a head's outputs, shape (N, outputs), to its scores; see `column_names`."""
    return dict(zip(column_names(name, head), _SCORES_BY_KIND[head.kind](head, logits), strict=True))


def probabilities(head: Head, logits: Float32Array) -> Float32Array:
    """Compute the probability of every label of a classifier or ordinal head, shape (N, labels)."""
    scaled = logits.astype(np.float64) / head.temperature
    if head.kind == "multiclass":
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
    else:
        above = _above(head, logits)
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        chances = edges[:, :-1] - edges[:, 1:]
    return chances.astype(np.float32)


def _above(head: Head, logits: Float32Array) -> NDArray[np.float64]:
    """Compute the probability of a label above each one but the last, shape (N, labels - 1)."""
    cuts = np.zeros(1) if head.cutpoints is None else head.cutpoints.astype(np.float64)
    scaled = (logits.astype(np.float64) - cuts) / head.temperature
    # Exponentials of numbers up to 0 only, which cannot be infinite.
    small = np.exp(-np.abs(scaled))
    return np.where(scaled >= 0, 1 / (1 + small), small / (1 + small))


def _multiclass(head: Head, logits: Float32Array) -> Sequence[Scores]:
    chances = probabilities(head, logits)
    best = logits.argmax(axis=1)  # not of the probabilities, which may be equal where logits differ
    highest = chances[np.arange(len(chances)), best]
    names = [head.labels[position] for position in best.tolist()]
    return [highest, names, *(np.ascontiguousarray(column) for column in chances.T)]


def _ordinal(head: Head, logits: Float32Array) -> Sequence[Scores]:
    steps = np.diff(head.grades.astype(np.float64))
    expected = head.grades[0] + (_above(head, logits) * steps).sum(axis=1)
    best = probabilities(head, logits).argmax(axis=1)
    return [expected.astype(np.float32), [head.labels[position] for position in best.tolist()]]


_SCORES_BY_KIND: Mapping[str, Callable[[Head, Float32Array], Sequence[Scores]]] = {
    "regression": lambda head, logits: [np.ascontiguousarray(column) for column in logits.T],
    "binary": lambda head, logits: [_above(head, logits)[:, 0].astype(np.float32)],
    "multiclass": _multiclass,
    "ordinal": _ordinal,
}


def _linear(layer: Layer) -> nn.Linear:
    outputs, inputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(torch.tensor(layer.weight), requires_grad=False)
    linear.bias = nn.Parameter(torch.tensor(layer.bias), requires_grad=False)
    return linear


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Switch TF32 off on a GPU, whatever the process has set."""
    if device.type != "cuda":
        yield
        return
    # Newer versions of torch have another switch, and raise an error when the older one is read.
    products: Any = torch.backends.cuda.matmul
    switch, exact = ("fp32_precision", "ieee") if hasattr(products, "fp32_precision") else ("allow_tf32", False)
    previous = getattr(products, switch)
    setattr(products, switch, exact)
    try:
        yield
    finally:
        setattr(products, switch, previous)
