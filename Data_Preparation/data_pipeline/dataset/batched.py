"""Base class of datasets that gather the samples of a batch at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.dataset.collate import ELMCollator
from data_pipeline.dataset.loader import Collate, ELMLoader
from data_pipeline.dataset.order import Order, Shuffle
from data_pipeline.dataset.samples import Batch, GatheringDataset
from data_pipeline.types import IntArray


class BatchedDataset(GatheringDataset):
    """A map-style dataset that reads batches, and makes data loaders of them."""

    def __getitems__(self, indices: "Sequence[int] | NDArray[Any]") -> Batch:
        """Samples at several indices, gathered at once; torch's own DataLoader fetches its batches with it."""
        index = self.checked(indices)
        self.prepare(index)
        return self.gather(index)

    def get_batch(self, indices: "Sequence[int] | NDArray[Any]") -> dict[str, Any]:
        """Samples at several indices as one batch: texts as a list, metadata, and vectors of shape (N, dim).

        Raises:
            IndexError: an index is out of range.
        """
        return dict(self.__getitems__(indices).columns)

    def checked(self, indices: "Sequence[int] | NDArray[Any]") -> IntArray:
        """Indices as an array of shape (N,); negative ones are counted from the end.

        Raises:
            IndexError: an index is out of range.
            TypeError: an index is not an integer.
        """
        if isinstance(indices, range):
            index = np.arange(indices.start, indices.stop, indices.step)
        else:
            index = np.asarray(indices)
        if index.size == 0:
            return np.zeros(0, np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iuO":
            raise TypeError(f"indices must be integers in one dimension, got {index.dtype} of shape {index.shape}")
        rows = len(self)
        if index.min() < 0 or index.max() >= rows:
            is_outside = (index < -rows) | (index >= rows)
            if is_outside.any():
                raise IndexError(f"index {index[is_outside][0]} is out of range: there are {rows} rows")
            index = np.where(index < 0, index + rows, index)
        return index.astype(np.int64, copy=False)

    def get_dataloader(
        self,
        batch_size: int = 32,
        shuffle: bool | Shuffle = False,
        num_workers: int = 0,
        seed: int = 0,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        prefetch: int = 4,
        device: str | torch.device | None = None,
        collate_fn: Collate | None = None,
        block_rows: int = 256,
        window_blocks: int = 64,
        **worker_options: Any,
    ) -> ELMLoader:
        """Make a data loader that prefetches batches in a thread and can be resumed at any batch.

        Args:
            batch_size: rows in a batch of this process; the last one may be smaller.
            shuffle: `full` (or True) for a new random order in every epoch; `block`, for data larger
                than memory, which reads blocks of neighbouring rows and mixes the rows of many
                blocks; False for the order of the dataset.
            num_workers: worker processes that make the batches instead of the thread. They are
                slower for this data: sending a batch takes longer than making it.
            seed: seed of the order, 0 or more.
            rank: rank of this process; None for that of torch.distributed where it is initialized, else 0.
            world_size: number of processes that share an epoch; None for that of torch.distributed
                where it is initialized, else 1. See `ELMLoader` for the last rows of an epoch.
            drop_last: leave out a last batch that is smaller than the others.
            prefetch: number of batches made in advance; 0 makes each batch when it is requested,
                which is as good where all cores are busy training.
            device: device that tensors are moved to; through pinned memory for a GPU.
            collate_fn: makes a batch from samples; None for `ELMCollator()`.
            block_rows: with `block`, number of neighbouring rows that are read together.
            window_blocks: with `block`, number of blocks that are mixed. The rows of one such
                window are kept in memory while the next window is read.
            worker_options: further arguments of torch's DataLoader, with `num_workers`.

        Raises:
            ValueError: an argument is out of range.
        """
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if rank is None:
            rank = torch.distributed.get_rank() if is_distributed else 0
        if world_size is None:
            world_size = torch.distributed.get_world_size() if is_distributed else 1
        if worker_options and not num_workers:
            raise ValueError(f"{', '.join(worker_options)}: arguments of torch's DataLoader need num_workers")
        if not worker_options.get("in_order", True):
            raise ValueError("in_order=False gives batches in an order that cannot be resumed; leave it out")
        if shuffle not in (False, True, "full", "block"):
            raise ValueError(f"shuffle must be True, False, full or block, got {shuffle!r}")
        if min(block_rows, window_blocks) < 1 or seed < 0:
            raise ValueError("block_rows and window_blocks must be 1 or more, seed 0 or more")
        target = torch.device(device) if device is not None else None
        if target is not None and target.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {target}, and there is no CUDA GPU; leave device out, or use cpu")
        kind: Shuffle = "full" if shuffle is True else shuffle
        return ELMLoader(
            self,
            Order(len(self), kind, seed, block_rows, window_blocks),
            batch_size,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            prefetch=prefetch,
            device=target,
            collate_fn=collate_fn or ELMCollator(),
            worker_options={"num_workers": num_workers, **worker_options} if num_workers else None,
        )
