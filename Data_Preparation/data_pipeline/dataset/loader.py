"""Data loader: prefetches batches in a thread; the epoch order is computed and can be resumed at any position."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_pipeline.dataset.order import Order
from data_pipeline.dataset.samples import GatheringDataset
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import moved

Collate = Callable[[Any], Any]

# Number of positions of the order that are computed at once; fewer at first, so that the first batch comes soon.
_FIRST_POSITIONS, _POSITIONS = 4096, 65_536


@dataclass(eq=False)
class ELMLoader:
    """Iterable over the batches of an epoch; `ELMDataset.get_dataloader` makes it.

    Every iteration is one epoch with an order of its own. Processes that share an epoch take
    `batch_size` neighbouring positions of it in turn; together they read every row once. Only where
    the rows of the last batch cannot be divided by the number of processes, `padding` rows from
    the beginning of the epoch are added, so that all processes have batches of the same size.

    One iteration can run at a time; `state_dict` describes the latest.
    """

    dataset: GatheringDataset
    order: Order
    batch_size: int
    _: KW_ONLY
    rank: int
    world_size: int
    drop_last: bool
    prefetch: int
    device: torch.device | None
    collate_fn: Collate
    worker_options: Mapping[str, Any] | None
    epoch: int = field(default=0, init=False)
    """Epoch of the running iteration, or else of the next one."""
    _position: int = field(default=0, init=False)
    """Rows of the epoch that all processes together have received."""
    _starts_at: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be from 0 to below world_size, got rank {self.rank} of {self.world_size}")
        if self.prefetch < 0:
            raise ValueError(f"prefetch must be 0 or more, got {self.prefetch}")

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        whole, rest = divmod(self.order.rows, self._step)
        return whole + bool(rest and not self.drop_last)

    @property
    def padding(self) -> int:
        """Number of rows that an epoch has twice, over all processes; below `world_size`."""
        rest = self.order.rows % self._step
        return 0 if self.drop_last else -rest % self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; a position inside that same epoch is kept, so that it resumes there.

        Without a call, epochs are counted by the iterations that were completed.
        """
        if epoch != self.epoch:
            self.epoch, self._position, self._starts_at = int(epoch), 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Position of the training loop, as JSON values: batches that it received, not prefetched ones.

        The state is the same on all processes that received equally many batches.
        """
        return {
            "version": 1,
            "epoch": self.epoch,
            "position": self._position,
            "order": self.order.to_json(),
            "dataset": self.dataset.fingerprint,
            **({} if self.dataset.version is None else {"dataset_version": self.dataset.version}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where a state was saved, also with another batch size or number of processes.

        Raises:
            ValueError: the state belongs to another dataset or order; the message names the differences.
        """
        if state.get("version") != 1:
            raise ValueError(f"not a state of an ELMLoader: {dict(state)!r}")
        current, saved = self.order.to_json(), dict(state["order"])
        differing = [
            f"{name} was {saved.get(name)!r}, now {current.get(name)!r}"
            for name in sorted(current.keys() | saved.keys())
            if current.get(name) != saved.get(name)
        ]
        if state["dataset"] != self.dataset.fingerprint:
            differing.append("the dataset holds other rows" + self._other_version(state.get("dataset_version")))
        if differing:
            raise ValueError("the state belongs to another order of rows: " + "; ".join(differing))
        self.epoch = int(state["epoch"])
        self._position = self._starts_at = int(state["position"])

    def __iter__(self) -> Iterator[Any]:
        epoch, start, self._starts_at = self.epoch, self._starts_at, 0
        self._position = start
        if self.worker_options is not None:
            batches = self._by_workers(epoch, start)
        elif self.prefetch:
            batches = self._by_thread(epoch, start)
        else:
            batches = ((position, self._make(rows)) for position, rows in self._prefetch(epoch, start))
        for position, batch in batches:
            self._position = position
            yield batch if self.device is None else _map_tensors(batch, partial(moved, device=self.device))
        # Only after the last batch was used: a state saved until then belongs to this epoch.
        self.epoch, self._position = epoch + 1, 0

    def _other_version(self, saved: int | None) -> str:
        if saved is None or saved == self.dataset.version:
            return ""
        return (
            f" (the state was saved with version {saved} of it, now it is version {self.dataset.version}: open "
            f"ELMDataset(..., version={saved}), or compare them with `elm diff {saved} {self.dataset.version}`)"
        )

    @property
    def _step(self) -> int:
        return self.batch_size * self.world_size

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        """Position after each batch of this process, and its rows."""
        total, step, own = self.order.rows, self._step, np.arange(self.batch_size)
        whole = max(0, total - start) // step
        done, size = 0, _FIRST_POSITIONS
        while done < whole:
            count = min(max(1, size // self.batch_size), whole - done)
            begins = start + step * np.arange(done, done + count)
            positions = (begins + self.rank * self.batch_size)[:, None] + own
            rows = self.order.rows_at(positions.ravel(), epoch).reshape(count, self.batch_size)
            for begin, batch_rows in zip(begins.tolist(), rows, strict=True):
                yield begin + step, batch_rows
            done, size = done + count, _POSITIONS
        start += whole * step
        if start < total and not self.drop_last:
            each = -(-(total - start) // self.world_size)
            positions = start + self.rank * each + np.arange(each)
            yield total, self.order.rows_at(np.where(positions < total, positions, (positions - total) % total), epoch)

    def _prefetch(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        """`_batches`, whose rows start to be read from the disk `prefetch` batches in advance."""
        if self.order.shuffle == "block":
            yield from self._prefetch_windows(epoch, start)
            return
        pending: deque[tuple[int, IntArray]] = deque()
        for position, rows in self._batches(epoch, start):
            self.dataset.prepare(rows)
            pending.append((position, rows))
            if len(pending) > self.prefetch:
                yield pending.popleft()
        yield from pending

    def _prefetch_windows(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        order, last_fetched = self.order, -1
        for position, rows in self._batches(epoch, start):
            # Up to the window after the one in which this batch ends.
            last = min(order.window_of(position - 1) + 1, order.windows() - 1)
            for window in range(max(last_fetched + 1, order.window_of(max(0, position - self._step))), last + 1):
                self.dataset.prepare(order.window_starts(window, epoch), order.block_rows)
                last_fetched = window
            yield position, rows

    def _make(self, rows: IntArray) -> Any:
        batch = self.collate_fn(self.dataset.gather(rows))
        is_for_gpu = self.device is not None and self.device.type == "cuda"
        return _map_tensors(batch, torch.Tensor.pin_memory) if is_for_gpu else batch

    def _by_thread(self, epoch: int, start: int) -> Iterator[tuple[int, Any]]:
        """Batches made by one thread, at most `prefetch` in advance; its exceptions are raised here."""
        made: SimpleQueue[tuple[int, Any] | BaseException | None] = SimpleQueue()
        room: SimpleQueue[None] = SimpleQueue()
        for _ in range(self.prefetch):
            room.put(None)
        stopped = threading.Event()

        def make() -> None:
            try:
                for position, rows in self._prefetch(epoch, start):
                    room.get()
                    if stopped.is_set():
                        return
                    made.put((position, self._make(rows)))
                made.put(None)
            except BaseException as error:  # noqa: BLE001  # any exception is raised in the training loop
                made.put(error)

        thread = threading.Thread(target=make, name="elm-loader", daemon=True)
        thread.start()
        try:
            while (batch := made.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                room.put(None)
                yield batch
        finally:
            stopped.set()
            room.put(None)
            thread.join()

    def _by_workers(self, epoch: int, start: int) -> Iterator[tuple[int, Any]]:
        """Batches made by worker processes; torch returns them in the order of its requests."""
        assert self.worker_options is not None
        requested: deque[int] = deque()

        def sample() -> Iterator[Any]:
            """Rows of batches, computed on demand because those of an epoch may not fit in memory."""
            for position, rows in self._batches(epoch, start):
                requested.append(position)
                yield rows

        batches = sample()
        for batch in DataLoader(self.dataset, batch_sampler=batches, collate_fn=self.collate_fn, **self.worker_options):
            yield requested.popleft(), batch


def _map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Copy of a batch with every tensor changed, including those in mappings, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, MutableMapping):  # a dict, or a tokenizer's BatchEncoding
        changed = copy.copy(value)
        for name, each in value.items():
            changed[name] = _map_tensors(each, change)
        return changed
    if isinstance(value, tuple):
        members = [_map_tensors(each, change) for each in value]
        return type(value)(*members) if hasattr(value, "_fields") else tuple(members)
    if isinstance(value, list) and value and not isinstance(value[0], str):  # skips long lists of texts
        return [_map_tensors(each, change) for each in value]
    return value
