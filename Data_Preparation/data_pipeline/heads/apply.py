"""Vectors -> scores, by any number of heads at once, in float32.

A text's scores have the same bits whatever other texts are scored with it: where the machine's
product does not promise that, it always gets blocks of one size.
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

_BLOCK_ROWS = 1024  # hidden units of a few heads for so many rows stay in the processor's cache
_TRIAL_ROWS = (1, 3, 100)

Scores: TypeAlias = NDArray[np.float32] | list[str]
"""Of N rows: numbers of shape (N,), or labels."""


class Scorer:
    """Several heads, ready to be applied.

    Args:
        heads: by name; all take vectors of the same width.
        device: `cpu`, or another device of torch.

    Raises:
        ConfigError: there are no heads, their widths differ, two columns would have one name, or the device is not
            there.
    """

    def __init__(self, heads: Mapping[str, Head], device: str = "cpu") -> None:
        widths = {name: head.dim for name, head in heads.items()}
        if len(set(widths.values())) != 1:
            raise ConfigError(
                f"heads that are applied together take vectors of one width; found {widths or 'no heads'}"
            )
        columns = [column for name, head in heads.items() for column in column_names(name, head)]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ConfigError(
                f"the heads' labels give two columns the name {', '.join(twice)}; rename a head or a label"
            )
        self.heads = dict(heads)
        self.dim = next(iter(widths.values()))
        self.device = torch.device(choose_device(device, "device"))
        # Each head for itself: what it gives must not depend on the heads beside it, not even in the last bit.
        networks: Any = nn.ModuleList(nn.ModuleList(_linear(layer) for layer in head.layers) for head in heads.values())
        networks.to(self.device)
        self._networks = networks
        self._fixed_blocks = False
        self._fixed_blocks = self.device.type != "cpu" or not pack_linear_layers(networks) or self._depends_on_rows()

    @property
    def columns(self) -> list[str]:
        """Names of what `score` gives, in order: see `column_names`."""
        return [column for name, head in self.heads.items() for column in column_names(name, head)]

    def score(self, vectors: NDArray[Any]) -> dict[str, Scores]:
        """Scores of vectors.

        Args:
            vectors: shape (N, D), any float dtype; computed with in float32.

        Returns:
            By column (see `column_names`), for N rows each.

        Raises:
            ModelError: the vectors have another width, or a score is not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ModelError(f"the heads take vectors of shape (N, {self.dim}), found {vectors.shape}")
        found: dict[str, Scores] = {}
        for (name, head), logits in zip(self.heads.items(), self.outputs(vectors), strict=True):
            bad = ~np.isfinite(logits).all(axis=1)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise ModelError(f"the head {name} gives no finite score for vector {row}; look at that vector")
            found |= meaning_of(name, head, logits)
        return found

    def outputs(self, vectors: NDArray[Any]) -> list[Float32Array]:
        """What the last layer of each head gives, shape (N, outputs), in the order of the heads."""
        found = [np.empty((len(vectors), head.layers[-1].bias.shape[0]), np.float32) for head in self.heads.values()]
        with torch.inference_mode(), _exact_float32(self.device):
            for start in range(0, len(vectors), _BLOCK_ROWS):
                block = vectors[start : start + _BLOCK_ROWS]
                for out, logits in zip(found, self._block(block), strict=True):
                    out[start : start + len(block)] = logits[: len(block)].numpy(force=True)
        return found

    def _depends_on_rows(self) -> bool:
        """Whether a row's bits change with the number of rows computed with it, found by trying.

        Packed layers do not on x86; which kernel multiplies elsewhere (Arm) is not known here.
        """
        vectors = np.sin(np.arange(_BLOCK_ROWS * self.dim, dtype=np.float32)).reshape(_BLOCK_ROWS, self.dim)
        whole = self.outputs(vectors)
        return any(
            not np.array_equal(some, every[:rows], equal_nan=True)
            for rows in _TRIAL_ROWS
            for some, every in zip(self.outputs(vectors[:rows]), whole, strict=True)
        )

    def _block(self, block: NDArray[Any]) -> Iterator[Tensor]:
        rows = _BLOCK_ROWS if self._fixed_blocks else len(block)
        x = torch.zeros((rows, self.dim), dtype=torch.float32)
        # By numpy, which reads half-precision and unwritable arrays as they are.
        np.copyto(x.numpy()[: len(block)], block, casting="same_kind")
        x = x.to(self.device)
        for first, *rest in self._networks:
            part = first(x)
            # NaN for a vector that is not finite: ReLU would make 0 of its minus infinity.
            spoilt = part.sum(dim=1, keepdim=True) * 0
            for layer in rest:
                part = layer(torch.relu(part))
            yield part + spoilt


def column_names(name: str, head: Head) -> list[str]:
    """What a head's scores are called.

    One target: `name`. Several: `name_target` for each. Two labels: `name`, the probability of the second.
    Classes: `name`, the probability of the likeliest, `name_label`, which it is, and `name_class` for each.
    Grades: `name`, the expected grade, and `name_label`, the likeliest.
    """
    if head.kind == "regression" and len(head.labels) > 1:
        return [f"{name}_{label}" for label in head.labels]
    if head.kind == "multiclass":
        return [name, f"{name}_label", *(f"{name}_{label}" for label in head.labels)]
    return [name, f"{name}_label"] if head.kind == "ordinal" else [name]


def meaning_of(name: str, head: Head, logits: Float32Array) -> dict[str, Scores]:
    """The scores that a head's outputs of shape (N, outputs) stand for; see `column_names`."""
    return dict(zip(column_names(name, head), _MEANINGS[head.kind](head, logits), strict=True))


def probabilities(head: Head, logits: Float32Array) -> Float32Array:
    """Of every label of a head that has labels to choose from, shape (N, labels)."""
    scaled = logits.astype(np.float64) / head.temperature
    if head.kind == "multiclass":
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        found = powers / powers.sum(axis=1, keepdims=True)
    else:
        above = _above(head, logits)
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        found = edges[:, :-1] - edges[:, 1:]
    return found.astype(np.float32)


def _above(head: Head, logits: Float32Array) -> NDArray[np.float64]:
    """Probability of more than each label but the last, shape (N, labels - 1)."""
    cuts = np.zeros(1) if head.cutpoints is None else head.cutpoints.astype(np.float64)
    scaled = (logits.astype(np.float64) - cuts) / head.temperature
    # Of numbers that are not positive only, whose exponentials cannot be infinite.
    small = np.exp(-np.abs(scaled))
    return np.where(scaled >= 0, 1 / (1 + small), small / (1 + small))


def _regression(head: Head, logits: Float32Array) -> Sequence[Scores]:
    return [np.ascontiguousarray(column) for column in logits.T]


def _binary(head: Head, logits: Float32Array) -> Sequence[Scores]:
    return [_above(head, logits)[:, 0].astype(np.float32)]


def _multiclass(head: Head, logits: Float32Array) -> Sequence[Scores]:
    found = probabilities(head, logits)
    best = logits.argmax(axis=1)  # not of probabilities, which may be equal where logits are not
    top = found[np.arange(len(found)), best]
    return [top, [head.labels[place] for place in best.tolist()], *(np.ascontiguousarray(column) for column in found.T)]


def _ordinal(head: Head, logits: Float32Array) -> Sequence[Scores]:
    steps = np.diff(head.grades.astype(np.float64))
    expected = head.grades[0] + (_above(head, logits) * steps).sum(axis=1)
    best = probabilities(head, logits).argmax(axis=1)
    return [expected.astype(np.float32), [head.labels[place] for place in best.tolist()]]


_MEANINGS: Mapping[str, Callable[[Head, Float32Array], Sequence[Scores]]] = {
    "regression": _regression,
    "binary": _binary,
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
    """No TF32 on a GPU, whatever the process has chosen for its own products."""
    if device.type != "cuda":
        yield
        return
    # Newer versions of torch have another switch, and refuse to be asked about the older one then.
    products: Any = torch.backends.cuda.matmul
    switch, exact = ("fp32_precision", "ieee") if hasattr(products, "fp32_precision") else ("allow_tf32", False)
    before = getattr(products, switch)
    setattr(products, switch, exact)
    try:
        yield
    finally:
        setattr(products, switch, before)
