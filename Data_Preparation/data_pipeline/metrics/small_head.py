"""A small classifier over embeddings, for the measures that train one."""

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
from data_pipeline.embeddings.transformer.loading import choose_device
from data_pipeline.errors import SelectionError
from data_pipeline.selection.vectors import VectorBlocks
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import in_float64

_LEAST_STEPS = 16  # of an epoch
_ROWS_AT_ONCE = 8192
_NO_SPREAD = 1e-8

Embeddings = NDArray[Any] | Tensor
"""Shape (N, D), floats of any width; may be mapped from a file, or on a GPU."""


class SmallHeadConfig(Section):
    """How a head is trained."""

    hidden: int = Field(0, ge=0)
    """Units between embeddings and classes; 0: a linear head."""
    epochs: int = Field(5, ge=1)
    """Passes over all rows that are trained on."""
    batch_size: int = Field(256, ge=1)
    """Most rows of a step; fewer where there are few rows, so that an epoch has 16 steps."""
    learning_rate: float = Field(0.03, gt=0, le=1)
    """Of AdamW, divided by the root of the embeddings' width: 0.0015 for 384 dimensions."""
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    """Of AdamW."""
    device: str = "cpu"
    """Where arrays are computed, a torch device; tensors are computed where they are."""


@dataclass(frozen=True)
class Inputs:
    """Embeddings, and what standardises them."""

    vectors: VectorBlocks
    mean: Tensor
    """Shape (D,)."""
    scale: Tensor
    """Shape (D,): standard deviations; 1 where nothing varies."""

    def __len__(self) -> int:
        return len(self.vectors)


class SmallHead(nn.Module):
    """Standardised embeddings -> a logit for each class, with no or one hidden layer of ReLUs."""

    def __init__(self, inputs: Inputs, classes: int, hidden: int) -> None:
        super().__init__()
        self._mean, self._scale = inputs.mean, inputs.scale
        self.hidden = nn.Linear(inputs.vectors.dim, hidden) if hidden else None
        self.last = nn.Linear(hidden or inputs.vectors.dim, classes)

    def inner(self, vectors: Tensor) -> Tensor:
        """What the last layer gets."""
        standardised = (vectors - self._mean) / self._scale
        return standardised if self.hidden is None else torch.relu(self.hidden(standardised))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, shape (rows, classes)."""
        logits: Tensor = self.last(self.inner(vectors))
        return logits


def open_inputs(embeddings: Embeddings, device: str) -> Inputs:
    """Look through the embeddings twice, block by block.

    Raises:
        SelectionError: they are not of shape (N, D), or one is NaN or infinite.
        ConfigError: the device is not there.
    """
    if embeddings.ndim != 2 or not all(embeddings.shape):
        raise SelectionError(f"embeddings must be of shape (rows, dimensions), found {tuple(embeddings.shape)}")
    chosen = embeddings.device if isinstance(embeddings, Tensor) else torch.device(choose_device(device, "device"))
    vectors = VectorBlocks(embeddings, chosen)
    total = in_float64(torch.zeros(vectors.dim, device=chosen))
    for place, block in vectors.blocks():
        bad = torch.nonzero(~torch.isfinite(block).all(dim=1))
        if len(bad):
            raise SelectionError(
                f"the embedding of row {place.start + int(bad[0, 0])} is NaN or infinite; embed it again or leave it "
                "out"
            )
        total += in_float64(block).sum(dim=0)
    mean = total / len(vectors)
    squares = torch.zeros_like(total)
    for _, block in vectors.blocks():
        squares += (in_float64(block) - mean).square().sum(dim=0)
    deviation = (squares / len(vectors)).sqrt().float().to(chosen)
    return Inputs(vectors, mean.float().to(chosen), torch.where(deviation > _NO_SPREAD, deviation, 1))


def class_numbers(labels: ArrayLike, rows: int) -> tuple[IntArray, int]:
    """Classes numbered from 0 without gaps, in the order of the labels; and how many there are.

    Raises:
        SelectionError: there is not one whole number a row, or all are the same.
    """
    found = np.asarray(labels)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise SelectionError(
            f"labels must be one whole number for each of {rows} rows, found {found.dtype} of shape {found.shape}"
        )
    values, numbers = np.unique(found, return_inverse=True)
    if len(values) < 2:
        raise SelectionError(f"all rows have the label {values[0]}; a head needs two classes or more to tell apart")
    return numbers.astype(np.int64), len(values)


def trained_heads(
    inputs: Inputs, rows: IntArray, classes_of: IntArray, classes: int, config: SmallHeadConfig, seed: int
) -> Iterator[SmallHead]:
    """Train a head, and give it after every epoch.

    Args:
        inputs: of N rows.
        rows: that are trained on.
        classes_of: shape (N,); only those of `rows` are looked at.
        classes: how many.
        config: of the training.
        seed: of first weights and order; the same gives the same head on the same device.
    """
    device, rng = inputs.vectors.device, np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SmallHead(inputs, classes, config.hidden).to(device)
    rate = config.learning_rate / inputs.vectors.dim**0.5
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=config.weight_decay)
    batch = max(1, min(config.batch_size, len(rows) // _LEAST_STEPS))
    at_once = max(1, _ROWS_AT_ONCE // batch) * batch
    for _ in range(config.epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), at_once):
            some = order[start : start + at_once]
            vectors, targets = inputs.vectors.rows(some), torch.from_numpy(classes_of[some]).to(device)
            for x, y in zip(torch.split(vectors, batch), torch.split(targets, batch), strict=True):
                optimizer.zero_grad()
                functional.cross_entropy(head(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        yield head


def last_head(
    inputs: Inputs, rows: IntArray, classes_of: IntArray, classes: int, config: SmallHeadConfig, seed: int
) -> SmallHead:
    """The head after the last epoch; see `trained_heads`."""
    *_, head = trained_heads(inputs, rows, classes_of, classes, config, seed)
    return head


def probabilities(head: SmallHead, inputs: Inputs, rows: IntArray) -> NDArray[np.float64]:
    """Of each class for some rows, shape (rows, classes)."""
    found = [np.empty((0, head.last.out_features))]
    with torch.inference_mode():
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            logits = head(inputs.vectors.rows(rows[start : start + _ROWS_AT_ONCE]))
            found.append(in_float64(logits).softmax(dim=1).cpu().numpy())
    return np.concatenate(found)
