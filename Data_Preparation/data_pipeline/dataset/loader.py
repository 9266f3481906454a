"""Batches for a training loop: made ahead in a thread, in an order that can be taken up anywhere."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data_pipeline.dataset.order import Order
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import moved

if TYPE_CHECKING:
    from data_pipeline.dataset.batched import BatchedDataset

Collate = Callable[[Any], Any]

# Positions of an order that are computed at once; a few at first, so that the first batch comes soon.
_FIRST_POSITIONS, _POSITIONS = 4096, 65_536


class ELMLoader:
    """An iterable over the batches of an epoch; `ELMDataset.get_dataloader` makes it.

    Every iteration is an epoch, from its beginning, in an order of its own. Processes that share an
    epoch get `batch_size` neighbouring positions of it in turn; together they see every row once.
    Only where the rows of the last batch cannot be divided by the number of processes, `padding`
    rows from the beginning of the epoch are added, so that all processes have batches of one size.

    One iteration at a time; a state is that of the latest.
    """

    def __init__(
        self,
        dataset: "BatchedDataset",
        order: Order,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        drop_last: bool,
        prefetch: int,
        device: torch.device | None,
        collate_fn: Collate,
        worker_options: Mapping[str, Any] | None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to below world_size, got rank {rank} of {world_size}")
        if prefetch < 0:
            raise ValueError(f"prefetch must be 0 or more, got {prefetch}")
        self.dataset, self.order, self.batch_size = dataset, order, batch_size
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.prefetch, self.device, self.collate_fn = prefetch, device, collate_fn
        self._worker_options = worker_options
        self.epoch = 0
        """The epoch of the next iteration, or of the one that goes on."""
        self._position = 0
        """Rows of the epoch that all processes together have been given."""
        self._starts_at = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.order.rows, self._step)
        return whole + bool(rest and not self.drop_last)

    @property
    def padding(self) -> int:
        """Rows that a whole epoch has twice, over all processes; below `world_size`."""
        rest = self.order.rows % self._step
        return 0 if self.drop_last else -rest % self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; going on in the middle of that very epoch is kept.

        Without it, epochs are counted by the iterations that came to their end.
        """
        if epoch != self.epoch:
            self.epoch, self._position, self._starts_at = int(epoch), 0, 0

    def state_dict(self) -> dict[str, Any]:
        """How far the training loop has come: batches that it was given, not those made ahead.

        Plain JSON values. The same on all processes that have come equally far.
        """
        return {
            "version": 1,
            "epoch": self.epoch,
            "position": self._position,
            "order": self.order.to_json(),
            "dataset": self.dataset.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, also with another batch size or number of processes.

        Raises:
            ValueError: the state is of other data or another order; the message names what differs.
        """
        if state.get("version") != 1:
            raise ValueError(f"this is not a state of an ELMLoader: {dict(state)!r}")
        expected, found = self.order.to_json(), dict(state["order"])
        differing = [
            f"{name} was {found.get(name)!r}, now {expected.get(name)!r}"
            for name in sorted(expected.keys() | found.keys())
            if expected.get(name) != found.get(name)
        ]
        if state["dataset"] != self.dataset.fingerprint:
            differing.append("the data set holds other rows")
        if differing:
            raise ValueError("the state is of another order of rows: " + "; ".join(differing))
        self.epoch = int(state["epoch"])
        self._position = self._starts_at = int(state["position"])

    def __iter__(self) -> Iterator[Any]:
        epoch, start, self._starts_at = self.epoch, self._starts_at, 0
        self._position = start
        if self._worker_options is not None:
            made = self._by_workers(epoch, start)
        elif self.prefetch:
            made = self._by_thread(epoch, start)
        else:
            made = ((position, self._make(rows)) for position, rows in self._fetched(epoch, start))
        for position, batch in made:
            self._position = position
            yield self._on_device(batch)
        # Not before the last batch was worked on: a state taken until then belongs to this epoch.
        self.epoch, self._position = epoch + 1, 0

    @property
    def _step(self) -> int:
        return self.batch_size * self.world_size

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        """This process's batches: the position after each of them, and its rows."""
        total, step, own = self.order.rows, self._step, np.arange(self.batch_size)
        whole = max(0, total - start) // step
        done, size = 0, _FIRST_POSITIONS
        while done < whole:
            count = min(max(1, size // self.batch_size), whole - done)
            begins = start + step * np.arange(done, done + count)
            positions = (begins + self.rank * self.batch_size)[:, None] + own
            rows = self.order.rows_at(positions.ravel(), epoch).reshape(count, self.batch_size)
            for begin, some in zip(begins.tolist(), rows, strict=True):
                yield begin + step, some
            done, size = done + count, _POSITIONS
        start += whole * step
        if start < total and not self.drop_last:
            each = -(-(total - start) // self.world_size)
            positions = start + self.rank * each + np.arange(each)
            yield total, self.order.rows_at(np.where(positions < total, positions, (positions - total) % total), epoch)

    def _fetched(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        """The batches, their rows on the way into memory some batches before they are read."""
        if self.order.shuffle == "block":
            yield from self._fetched_by_window(epoch, start)
            return
        coming: deque[tuple[int, IntArray]] = deque()
        for position, rows in self._batches(epoch, start):
            self.dataset.prepare(rows)
            coming.append((position, rows))
            if len(coming) > self.prefetch:
                yield coming.popleft()
        yield from coming

    def _fetched_by_window(self, epoch: int, start: int) -> Iterator[tuple[int, IntArray]]:
        order, fetched = self.order, -1
        for position, rows in self._batches(epoch, start):
            # The window that this batch ends in, and the one after it.
            wanted = min(order.window_of(position - 1) + 1, order.windows() - 1)
            for window in range(max(fetched + 1, order.window_of(max(0, position - self._step))), wanted + 1):
                self.dataset.prepare(order.window_starts(window, epoch), order.block_rows)
                fetched = window
            yield position, rows

    def _make(self, rows: IntArray) -> Any:
        batch = self.collate_fn(self.dataset.gather(rows))
        return _pinned(batch) if self.device is not None and self.device.type == "cuda" else batch

    def _by_thread(self, epoch: int, start: int) -> Iterator[tuple[int, Any]]:
        """Made by one thread, at most `prefetch` batches ahead; what goes wrong there is raised here."""
        made: SimpleQueue[tuple[int, Any] | BaseException | None] = SimpleQueue()
        room: SimpleQueue[None] = SimpleQueue()
        for _ in range(self.prefetch):
            room.put(None)
        left = threading.Event()

        def make() -> None:
            try:
                for position, rows in self._fetched(epoch, start):
                    room.get()
                    if left.is_set():
                        return
                    made.put((position, self._make(rows)))
                made.put(None)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the training loop is to see it
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
            left.set()
            room.put(None)
            thread.join()

    def _by_workers(self, epoch: int, start: int) -> Iterator[tuple[int, Any]]:
        """Made by processes; torch hands their batches on in the order it asked for them."""
        assert self._worker_options is not None
        asked: deque[int] = deque()

        def sampled() -> Iterator[IntArray]:
            for position, rows in self._batches(epoch, start):
                asked.append(position)
                yield rows

        loader = DataLoader(
            self.dataset, batch_sampler=_Sampler(sampled), collate_fn=self.collate_fn, **self._worker_options
        )
        for batch in loader:
            yield asked.popleft(), batch

    def _on_device(self, batch: Any) -> Any:
        return batch if self.device is None else _moved(batch, self.device)


class _Sampler(Sampler[Any]):
    """Batches of rows for torch's DataLoader, one after the other: an epoch's would not fit into memory."""

    def __init__(self, batches: Callable[[], Iterator[IntArray]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self._batches()


def _pinned(batch: Any) -> Any:
    return _mapped(batch, lambda tensor: tensor.pin_memory())


def _moved(batch: Any, device: torch.device) -> Any:
    return _mapped(batch, lambda tensor: moved(tensor, device))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch with its tensors changed, those in mappings, lists and tuples too."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, MutableMapping):  # a dict, or a tokenizer's own
        changed = copy.copy(value)
        for name, each in value.items():
            changed[name] = _mapped(each, change)
        return changed
    if isinstance(value, tuple):
        members = [_mapped(each, change) for each in value]
        return type(value)(*members) if hasattr(value, "_fields") else tuple(members)
    if isinstance(value, list) and value and not isinstance(value[0], str):  # texts, thousands of them
        return [_mapped(each, change) for each in value]
    return value
