"""Small classifier over embeddings, for measures that train one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_pipeline.config import Section
from data_pipeline.config.base import setting
from data_pipeline.embeddings.transformer.loading import choose_device
from data_pipeline.errors import SelectionError
from data_pipeline.selection.vectors import VectorBlocks
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import in_float64

_MIN_STEPS = 16  # per epoch
_BLOCK_ROWS = 8192
_NO_SPREAD = 1e-8

Embeddings = NDArray[Any] | Tensor
"""Shape (N, D), floats of any width; may be mapped from a file, or on a GPU."""


class SmallHeadConfig(Section):
    """Training settings of a head."""

    hidden: int = Field(0, ge=0)
    """Units of the hidden layer; 0: a linear head."""
    epochs: int = Field(5, ge=1)
    """Epochs over the training rows."""
    batch_size: int = Field(256, ge=1)
    """Rows per step; fewer for small datasets, so that an epoch has 16 steps."""
    learning_rate: float = Field(0.03, gt=0, le=1)
    """Learning rate of AdamW, divided by the root of the number of dimensions: 0.0015 for 384."""
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Weight decay of AdamW."""
    device: str = setting("cpu", decides=False)
    """Torch device on which arrays are computed; tensors are computed on their own device."""


@dataclass(frozen=True)
class StandardizedVectors:
    """Embeddings, with the mean and deviation that standardize them."""

    vectors: VectorBlocks
    """N vectors of D dimensions."""
    mean: Tensor
    """Shape (D,), mean of every dimension."""
    scale: Tensor
    """Shape (D,), standard deviation of every dimension; 1 for constant ones."""

    def __len__(self) -> int:
        return len(self.vectors)


class SmallHead(nn.Module):
    """Standardized embeddings -> logits of the classes, with at most one hidden layer of ReLUs."""

    def __init__(self, inputs: StandardizedVectors, classes: int, hidden: int) -> None:
        super().__init__()
        self._mean, self._scale = inputs.mean, inputs.scale
        self.hidden = nn.Linear(inputs.vectors.dim, hidden) if hidden else None
        self.last = nn.Linear(hidden or inputs.vectors.dim, classes)

    def inner(self, vectors: Tensor) -> Tensor:
        """Input of the last layer, shape (rows, hidden or D)."""
        standardized = (vectors - self._mean) / self._scale
        return standardized if self.hidden is None else torch.relu(self.hidden(standardized))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (rows, classes)."""
        return self.last(self.inner(vectors))


def open_inputs(embeddings: Embeddings, device: str) -> StandardizedVectors:
    """Validate embeddings and compute their mean and deviation, in two passes.

    Args:
        embeddings: Shape (N, D).
        device: Torch device for arrays, or auto.

    Raises:
        SelectionError: The shape is not (N, D), or an embedding is NaN or infinite.
        ConfigError: The device is not available.
    """
    if embeddings.ndim != 2 or not all(embeddings.shape):
        raise SelectionError(f"embeddings must have the shape (rows, dimensions), found {tuple(embeddings.shape)}")
    compute_device = (
        embeddings.device if isinstance(embeddings, Tensor) else torch.device(choose_device(device, "device"))
    )
    vectors = VectorBlocks(embeddings, compute_device)
    total = in_float64(torch.zeros(vectors.dim, device=compute_device))
    for block_slice, block in vectors.blocks():
        if len(bad := torch.nonzero(~torch.isfinite(block).all(dim=1))):
            raise SelectionError(
                f"the embedding of row {block_slice.start + int(bad[0, 0])} is NaN or infinite. Embed it again, or "
                "leave the row out"
            )
        total += in_float64(block).sum(dim=0)
    mean = total / len(vectors)
    squares = torch.zeros_like(total)
    for _, block in vectors.blocks():
        squares += (in_float64(block) - mean).square().sum(dim=0)
    deviation = (squares / len(vectors)).sqrt().float().to(compute_device)
    scale = torch.where(deviation > _NO_SPREAD, deviation, 1)
    return StandardizedVectors(vectors, mean.float().to(compute_device), scale)


def class_numbers(labels: ArrayLike, rows: int) -> tuple[IntArray, int]:
    """Class of each row, counted from 0 in the order of the labels, shape (N,); and the number of classes.

    Args:
        labels: Shape (N,), whole numbers.
        rows: Expected number of rows, N.

    Raises:
        SelectionError: There is not one whole number per row, or all are the same.
    """
    array = np.asarray(labels)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise SelectionError(
            f"labels must be one whole number for each of {rows} rows, found {array.dtype} of shape {array.shape}"
        )
    values, classes_of = np.unique(array, return_inverse=True)
    if len(values) < 2:
        raise SelectionError(f"all rows have the label {values[0]}; expected two classes or more")
    return classes_of.astype(np.int64), len(values)


def trained_heads(
    inputs: StandardizedVectors, rows: IntArray, classes_of: IntArray, classes: int, config: SmallHeadConfig, seed: int
) -> Iterator[SmallHead]:
    """Train a head, and yield it after every epoch.

    Args:
        inputs: Embeddings of N rows.
        rows: Positions of the training rows.
        classes_of: Shape (N,), class of each row; only those of `rows` are read.
        classes: Number of classes.
        config: Training settings.
        seed: Seed of initial weights and data order; the same seed gives the same head on the same device.
    """
    device, rng = inputs.vectors.device, np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SmallHead(inputs, classes, config.hidden).to(device)
    rate = config.learning_rate / inputs.vectors.dim**0.5
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=config.weight_decay)
    batch = max(1, min(config.batch_size, len(rows) // _MIN_STEPS))
    block_rows = max(1, _BLOCK_ROWS // batch) * batch
    for _ in range(config.epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), block_rows):
            block = order[start : start + block_rows]
            vectors, targets = inputs.vectors.rows(block), torch.from_numpy(classes_of[block]).to(device)
            for x, y in zip(torch.split(vectors, batch), torch.split(targets, batch), strict=True):
                optimizer.zero_grad()
                functional.cross_entropy(head(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        yield head


def last_head(
    inputs: StandardizedVectors, rows: IntArray, classes_of: IntArray, classes: int, config: SmallHeadConfig, seed: int
) -> SmallHead:
    """The head after the last epoch; see `trained_heads`."""
    *_, head = trained_heads(inputs, rows, classes_of, classes, config, seed)
    return head


def class_probabilities(head: SmallHead, inputs: StandardizedVectors, rows: IntArray) -> NDArray[np.float64]:
    """Probabilities of the classes for the given rows, shape (K, classes)."""
    blocks = [np.empty((0, head.last.out_features))]
    with torch.inference_mode():
        for start in range(0, len(rows), _BLOCK_ROWS):
            logits = head(inputs.vectors.rows(rows[start : start + _BLOCK_ROWS]))
            blocks.append(in_float64(logits).softmax(dim=1).cpu().numpy())
    return np.concatenate(blocks)
