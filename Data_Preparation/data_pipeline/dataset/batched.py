"""What data sets have in common that gather a batch at once."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_pipeline.dataset.collate import ELMCollator
from data_pipeline.dataset.loader import Collate, ELMLoader
from data_pipeline.dataset.order import Order, Shuffle
from data_pipeline.dataset.samples import Batch, Sample
from data_pipeline.types import IntArray


class BatchedDataset(Dataset[Sample]):
    """A data set that gathers the samples of a batch at once."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def gather(self, index: IntArray) -> Batch:
        """Samples of indices from 0 to below their number, shape (N,), which should be prepared before."""

    @abstractmethod
    def prepare(self, index: IntArray, count: int = 1) -> None:
        """Have samples fetched from the disk that are to be read soon: runs of `count`, `index` the first of each."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of what the samples are, and in which order."""

    def __getitems__(self, indices: "Sequence[int] | NDArray[Any]") -> Batch:
        """Samples of several indices, gathered at once; the stock DataLoader fetches its batches with it."""
        index = self.checked(indices)
        self.prepare(index)
        return self.gather(index)

    def get_batch(self, indices: "Sequence[int] | NDArray[Any]") -> dict[str, Any]:
        """Several samples as one: a list of texts, metadata, and vectors of shape (N, dim).

        Raises:
            IndexError: an index is out of range.
        """
        return dict(self.__getitems__(indices).columns)

    def checked(self, indices: "Sequence[int] | NDArray[Any]") -> IntArray:
        """Indices, negative ones counted from the end, as an array of shape (N,).

        Raises:
            IndexError: one is out of range.
            TypeError: one is not a whole number.
        """
        if isinstance(indices, range):
            index = np.arange(indices.start, indices.stop, indices.step)
        else:
            index = np.asarray(indices)
        if index.size == 0:
            return np.zeros(0, np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iuO":
            raise TypeError(f"indices must be whole numbers, got {index.dtype} of shape {index.shape}")
        rows = len(self)
        if index.min() < 0 or index.max() >= rows:
            outside = (index < -rows) | (index >= rows)
            if outside.any():
                raise IndexError(f"index {index[outside][0]} is out of range: there are {rows} rows")
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
        """Batches for a training loop, made ahead by a thread; the place in an epoch can be saved.

        Args:
            batch_size: rows in a batch of this process; the last one may be smaller.
            shuffle: `full` (or True), in any order, another one every epoch; `block`, for data larger
                than memory: neighbouring rows are read together, and the rows of many such places
                mixed; False, as they are.
            num_workers: processes that make the batches, instead of the thread. For these data they
                are slower: a batch takes longer to send than to make.
            seed: of the order, 0 or more.
            rank: of this process, and
            world_size: how many share the epoch; None for those of torch.distributed where it is
                set up, else one process. See `ELMLoader` for the last rows of an epoch.
            drop_last: leave out a last batch that is smaller.
            prefetch: batches that are made ahead; 0 makes each when it is asked for, which is as good
                where all cores are busy training.
            device: where tensors are moved to; through pinned memory for a GPU.
            collate_fn: makes a batch from samples; None for `ELMCollator()`.
            block_rows: with `block`, neighbouring rows that are read together.
            window_blocks: with `block`, how many such places are mixed; a window of both is kept in
                memory, and the next is fetched meanwhile.
            worker_options: further arguments of torch's DataLoader, with `num_workers`.

        Raises:
            ValueError: an argument is out of range.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        if world_size is None:
            world_size = torch.distributed.get_world_size() if distributed else 1
        if worker_options and not num_workers:
            raise ValueError(f"{', '.join(worker_options)}: arguments of torch's DataLoader need num_workers")
        if not worker_options.get("in_order", True):
            raise ValueError("in_order=False gives batches in no order that could be taken up again; leave it out")
        if shuffle not in (False, True, "full", "block"):
            raise ValueError(f"shuffle must be True, False, full or block, got {shuffle!r}")
        if min(block_rows, window_blocks) < 1 or seed < 0:
            raise ValueError("block_rows and window_blocks must be 1 or more, seed 0 or more")
        place = torch.device(device) if device is not None else None
        if place is not None and place.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"batches are to go to {place}, and there is no CUDA GPU; leave device out, or use cpu")
        kind: Shuffle = "full" if shuffle is True else shuffle
        return ELMLoader(
            self,
            Order(len(self), kind, seed, block_rows, window_blocks),
            batch_size,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            prefetch=prefetch,
            device=place,
            collate_fn=collate_fn or ELMCollator(),
            worker_options={"num_workers": num_workers, **worker_options} if num_workers else None,
        )
