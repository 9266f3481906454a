"""Embeddings as float32 blocks, whether in an array, memory-mapped from a file, or on a GPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config.base import setting
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import SelectorConfig
from data_pipeline.types import IntArray

_BLOCK_ROWS, _BLOCK_NUMBERS = 8192, 2**21


class VectorSelectorConfig(SelectorConfig):
    """Parameters of a selector that reads embeddings."""

    device: str = setting("cpu", decides=False)
    """Torch device on which arrays are computed; tensors are computed on their own device."""

    @property
    def needs(self) -> frozenset[Need]:
        """Embeddings only."""
        return frozenset({"embeddings"})


class VectorSource(Protocol):
    """Vectors that are read by row, such as those of a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and of dimensions."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | IntArray) -> NDArray[Any]:
        """Vectors of rows, shape (K, D)."""


@dataclass(frozen=True)
class VectorBlocks:
    """N vectors of D dimensions, read in blocks and never copied as a whole."""

    source: NDArray[Any] | torch.Tensor | VectorSource
    """Shape (N, D), floats of any width."""
    device: torch.device
    """Device of the blocks."""
    unit: bool = False
    """Scale every row to length 1; a row of zeros stays as it is."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def dim(self) -> int:
        """Number of dimensions, D."""
        return self.source.shape[1]

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """All rows in order: slices, and float32 blocks of at most 8 MiB, perhaps views of the source: read-only."""
        for start in range(0, len(self), self._block_rows):
            block_slice = slice(start, min(start + self._block_rows, len(self)))
            yield block_slice, self._float32(self.source[block_slice])

    def blocks_of(self, rows: IntArray) -> Iterator[tuple[IntArray, torch.Tensor]]:
        """The given rows in order: positions, and float32 copies, in blocks of the same size as `blocks`."""
        for start in range(0, len(rows), self._block_rows):
            block_rows = rows[start : start + self._block_rows]
            yield block_rows, self.rows(block_rows)

    @property
    def _block_rows(self) -> int:
        return max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // self.dim))

    def rows(self, rows: IntArray) -> torch.Tensor:
        """Float32 copies of the given rows in order, shape (K, D)."""
        if isinstance(self.source, torch.Tensor):
            return self._float32(self.source[torch.from_numpy(rows).to(self.source.device)])
        return self._float32(self.source[rows])

    def mean(self) -> NDArray[np.float64]:
        """Mean of all rows, shape (D,)."""
        total = np.zeros(self.dim)
        for _, block in self.blocks():
            total += block.sum(dim=0).cpu().numpy()
        return total / len(self)

    def squared_norms(self) -> NDArray[np.float32]:
        """Squared length of every row, shape (N,)."""
        norms = np.empty(len(self), np.float32)
        for block_slice, block in self.blocks():
            norms[block_slice] = squared(block).cpu().numpy()
        return norms

    def _float32(self, part: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        if isinstance(part, np.ndarray):
            # torch warns about read-only memory, such as that of a memory map: it is copied.
            part = torch.from_numpy(np.require(part, np.float32, ["C", "W"]))
        part = part.to(self.device, torch.float32)
        if self.unit:
            lengths = torch.linalg.vector_norm(part, dim=1, keepdim=True)
            part = part / torch.where(lengths > 0, lengths, 1)
        return part


def open_vectors(features: Features, config: VectorSelectorConfig, *, unit: bool = False) -> VectorBlocks:
    """Open the embeddings on the device on which they are computed.

    Args:
        features: Features with embeddings.
        config: Parameters with the device for arrays.
        unit: Scale every row to length 1.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    source = features.vectors()
    device = source.device if isinstance(source, torch.Tensor) else torch.device(config.device)
    return VectorBlocks(source, device, unit)


def squared(vectors: torch.Tensor) -> torch.Tensor:
    """Squared length of every row, shape (N,)."""
    return torch.linalg.vecdot(vectors, vectors)
