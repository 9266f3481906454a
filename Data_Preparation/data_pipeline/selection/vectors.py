"""Embeddings as float32 blocks, wherever they lie: in an array, mapped from a file, on a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config.base import setting
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import SelectorConfig
from data_pipeline.types import IntArray

_BLOCK_ROWS, _BLOCK_NUMBERS = 8192, 2**21


class VectorSelectorConfig(SelectorConfig):
    """The parameters of a selector that looks at embeddings."""

    device: str = setting("cpu", decides=False)
    """Where arrays are computed, a torch device; tensors are computed where they are."""

    @property
    def needs(self) -> frozenset[Need]:
        """Embeddings alone."""
        return frozenset({"embeddings"})


@dataclass(frozen=True)
class Vectors:
    """N vectors of D dimensions, never copied as a whole."""

    source: NDArray[Any] | torch.Tensor
    """Shape (N, D), floats of any width."""
    device: torch.device
    """Where the blocks are."""
    unit: bool = False
    """Give every row the length 1; a row of zeros stays as it is."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def dim(self) -> int:
        """D."""
        return self.source.shape[1]

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows in order: their place, and float32 of at most 8 MiB. May be the source itself: do not write."""
        for start in range(0, len(self), self._block_rows):
            place = slice(start, min(start + self._block_rows, len(self)))
            yield place, self._float32(self.source[place])

    def blocks_of(self, rows: IntArray) -> Iterator[tuple[IntArray, torch.Tensor]]:
        """Some rows in that order, in blocks of the same size: their numbers, and float32, copied."""
        for start in range(0, len(rows), self._block_rows):
            some = rows[start : start + self._block_rows]
            yield some, self.rows(some)

    @property
    def _block_rows(self) -> int:
        return max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // self.dim))

    def rows(self, rows: IntArray) -> torch.Tensor:
        """Some rows in that order, float32, copied."""
        if isinstance(self.source, torch.Tensor):
            return self._float32(self.source[torch.from_numpy(rows).to(self.source.device)])
        return self._float32(self.source[rows])

    def mean(self) -> NDArray[np.float64]:
        """Shape (D,)."""
        total = np.zeros(self.dim)
        for _, block in self.blocks():
            total += block.sum(dim=0).cpu().numpy()
        return total / len(self)

    def squared_norms(self) -> NDArray[np.float32]:
        """Shape (N,)."""
        found = np.empty(len(self), np.float32)
        for place, block in self.blocks():
            found[place] = squared(block).cpu().numpy()
        return found

    def _float32(self, part: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        if isinstance(part, np.ndarray):
            # torch warns of memory that must not be written, such as a map's: that is copied.
            part = torch.from_numpy(np.require(part, np.float32, ["C", "W"]))
        part = part.to(self.device, torch.float32)
        if self.unit:
            lengths = torch.linalg.vector_norm(part, dim=1, keepdim=True)
            part = part / torch.where(lengths > 0, lengths, 1)
        return part


def open_vectors(features: Features, config: VectorSelectorConfig, *, unit: bool = False) -> Vectors:
    """The embeddings on the device where they are to be computed.

    Raises:
        SelectionError: there are none, or one is NaN or infinite.
    """
    source = features.vectors()
    device = source.device if isinstance(source, torch.Tensor) else torch.device(config.device)
    return Vectors(source, device, unit)


def squared(vectors: torch.Tensor) -> torch.Tensor:
    """Squared length of every row, shape (N,)."""
    return torch.linalg.vecdot(vectors, vectors)
