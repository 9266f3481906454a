"""One cell of the loader benchmark, in a process of its own: one loader, one way of using it.

`loader_cells.py KIND NAME FOLDER ROWS EPOCHS` prints what it found as JSON.
"""

import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain, cycle, islice, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from harness import anonymous_mb
from loader_peer_files import WRITERS, flush_folder, without_vision
from loader_peers import BATCH, PEERS, Batch, Epoch, by_name
from loader_stores import made_up_vectors, row_numbers, short_texts, wikitext_texts, write_store

_KEPT_EVERY, _KEPT_ROWS = 50, 8
_ITEMS = 20_000
_STEP_S = 0.010
_STEP_BATCHES, _STEP_ROUNDS = 40, 8  # the best round counts: others may use the machine
_SETTLED = 8  # batches after which a worker has all it needs


def _ours(folder: Path, **arguments: Any) -> Any:
    from data_pipeline import ELMDataset

    return ELMDataset(folder, split="train", **({"dtype": torch.float16} | arguments))


def _open_own(shuffle: str | bool, workers: int = 0, ahead: int = 4, **arguments: Any) -> Callable[[Path], Epoch]:
    """Our own loader: one iterable, a new epoch each time."""

    def opened(folder: Path) -> Epoch:
        dataset = _ours(folder, **arguments)
        loader = dataset.get_dataloader(BATCH, shuffle=shuffle, num_workers=workers, seed=0, prefetch=ahead)
        return lambda: by_name(loader)

    return opened


def _open_stock(folder: Path) -> Epoch:
    """Torch's loader as everybody calls it."""
    loader = torch.utils.data.DataLoader(_ours(folder), BATCH, shuffle=True)
    return lambda: by_name(loader)


OURS: dict[str, Callable[[Path], Epoch]] = {
    "stock": _open_stock,
    "own": _open_own("full"),
    "own_block": _open_own("block"),
    "own_sequential": _open_own(False, ahead=0),
    "own_sequential_ahead": _open_own(False),
    "own_not_ahead": _open_own("full", ahead=0),
    "own_float32": _open_own("full", dtype=torch.float32),
    "own_embeddings": _open_own("full", ahead=0, columns=("embedding",)),
    "own_embeddings_ahead": _open_own("full", columns=("embedding",)),
    "own_2_workers": _open_own(True, workers=2),
}


def speed(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Open, read whole epochs, check what came, look at the memory."""
    _import_first(name)
    opener = OURS[name] if name in OURS else PEERS[name][2]
    started = time.perf_counter()
    epoch = opener(folder)
    iterator = iter(epoch())
    first = next(iterator)
    found: dict[str, Any] = {"open_first_batch_s": time.perf_counter() - started}
    readers = []
    for number in range(epochs):
        reader = _Reader(rows)
        reader.take(first if number == 0 else None, iterator if number == 0 else iter(epoch()))
        readers.append(reader)
    speeds = [reader.rows_per_s for reader in readers]
    found["first"] = speeds[0]
    found["warm"] = max(speeds[1:], default=speeds[0])
    iterator = iter(epoch())
    batches = list(islice(iterator, 1))  # a loader at work, one batch in the hands of its user
    found["anonymous_mb"] = _anonymous_mb()
    del batches
    # Not earlier: what the check needs would count as the loader's memory.
    found["sum_of_rows"] = [reader.check() for reader in readers][-1]
    return found


def workers(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """How much memory of its own a worker process takes on during an epoch, and during another one."""
    _import_first(name)
    loader = torch.utils.data.DataLoader(_ours(folder), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    seen: list[dict[int, float]] = []
    for epoch in range(2):
        for count, _ in enumerate(loader):
            if (epoch == 0 and count == _SETTLED) or count == len(loader) - 3:
                seen.append(
                    {child.pid: _private_mb(child.pid) for child in multiprocessing.active_children() if child.pid}
                )
    grown = [max(after[pid] - before[pid] for pid in after) for before, after in pairwise(seen)]
    return {"grown_mb": grown[0], "grown_again_mb": grown[1], "workers": len(seen[0])}


def item(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Microseconds of one `dataset[i]`, rows at random."""
    dataset = _ours(folder)
    order = np.random.default_rng(0).integers(rows, size=_ITEMS).tolist()
    for row in order[: _ITEMS // 10]:
        dataset[row]
    started = time.perf_counter()
    for row in order:
        dataset[row]
    seconds = time.perf_counter() - started
    sample = dataset[order[0]]
    assert sample["text"].startswith(f"row {order[0]}: ")
    assert row_numbers(sample["embedding"][:4].numpy()) == order[0]
    return {"us": 1e6 * seconds / _ITEMS}


def step(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """What loading adds to a training step of 10 ms, the step alone and with the loader in turns."""
    _import_first(name)
    epoch = OURS[name](folder)
    weights = torch.randn(2560, 96)  # one product takes about half a millisecond
    ready = [vectors for _, vectors in islice(epoch(), 32)]

    def seconds(batches: Iterator[torch.Tensor], products: int) -> float:
        next(batches)
        started = time.perf_counter()
        for vectors in islice(batches, _STEP_BATCHES):
            numbers = vectors.float()
            for _ in range(products):
                numbers @ weights
        return (time.perf_counter() - started) / _STEP_BATCHES

    def again() -> Iterator[torch.Tensor]:
        return cycle(ready)

    def loaded() -> Iterator[torch.Tensor]:
        return (vectors for _, vectors in chain.from_iterable(epoch() for _ in repeat(None)))

    products = 8
    for _ in range(4):
        products = max(1, round(products * _STEP_S / seconds(again(), products)))
    times = [(seconds(again(), products), seconds(loaded(), products)) for _ in range(_STEP_ROUNDS)]
    alone, with_loader = (min(way) for way in zip(*times, strict=True))
    return {"step_ms": 1000 * alone, "overhead": with_loader / alone - 1}


def opening(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Seconds to the first batch, and no further."""
    _import_first(name)
    started = time.perf_counter()
    first = next(iter(OURS[name](folder)()))
    seconds = time.perf_counter() - started
    assert len(first[1]) == BATCH
    return {"seconds": seconds}


def resume(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Go on at 90 % of an epoch of a billion rows, up to the rows of the next batch."""
    from data_pipeline.dataset.batched import BatchedDataset
    from data_pipeline.dataset.samples import Batch as Gathered

    class Billion(BatchedDataset):
        """As many rows as a dataset may have, and nothing in them but their number."""

        fingerprint = "billion"

        def __len__(self) -> int:
            return 10**9

        def prepare(self, index: Any, count: int = 1) -> None:
            pass

        def gather(self, index: Any) -> Gathered:
            return Gathered({"index": torch.from_numpy(index)}, len(index))

    def loader() -> Any:
        return Billion().get_dataloader(BATCH, shuffle="full", seed=0, prefetch=0)

    started = loader()
    next(iter(started))
    state = started.state_dict() | {"position": 9 * 10**8}
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        resumed = loader()
        resumed.load_state_dict(state)
        rows_of_batch = next(iter(resumed))["index"]
        times.append(time.perf_counter() - begin)
    expected = resumed.order.rows_at(np.arange(9 * 10**8, 9 * 10**8 + BATCH), 0)
    assert np.array_equal(rows_of_batch.numpy(), expected), "these are not the rows of the epoch"
    return {"ms": 1000 * times[0]}


def bare(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Memory of an interpreter that only has torch."""
    return {"anonymous_mb": _anonymous_mb()}


def write(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Write the rows in a format, from memory to the disk."""
    texts, vectors = wikitext_texts(), made_up_vectors(2560)
    folder.mkdir(parents=True)
    if name == "ours":
        seconds = write_store(folder, rows, 2560, texts, vectors, 1 << 20)
    else:
        modules, writer = WRITERS[name]
        for module in modules:
            _import(module)
        all_texts, all_vectors = texts(0, rows), vectors(0, rows)
        started = time.perf_counter()
        writer(folder, all_texts, all_vectors)
        flush_folder(folder)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6}


def write_narrow(name: str, folder: Path, rows: int, epochs: int) -> dict[str, Any]:
    """Write this project's store with narrow vectors and short texts, for many rows."""
    return {"seconds": write_store(folder, rows, 256, short_texts(), made_up_vectors(256), 1 << 20)}


class _Reader:
    """Takes an epoch's batches and remembers, cheaply, what is needed to check them."""

    def __init__(self, rows: int) -> None:
        self._heads = np.full((rows, 4), 255, np.float16)
        self._kept: list[tuple[int, list[str] | None, torch.Tensor]] = []
        self._done = 0
        self.rows_per_s = 0.0

    def take(self, first: Batch | None, batches: Iterator[Batch]) -> None:
        """Time an epoch; a batch that came before counts for the check alone."""
        if first is not None:
            self._look(0, *first)
        before, started = self._done, time.perf_counter()
        for count, (texts, vectors) in enumerate(batches):
            self._look(count, texts, vectors)
        self.rows_per_s = (self._done - before) / (time.perf_counter() - started)

    def _look(self, count: int, texts: list[str] | None, vectors: torch.Tensor) -> None:
        stop = self._done + len(vectors)
        self._heads[self._done : stop] = vectors[:, :4].numpy()
        if count % _KEPT_EVERY == 0:
            some = texts[:_KEPT_ROWS] if texts is not None else None
            self._kept.append((self._done, some, vectors[:_KEPT_ROWS].clone()))
        self._done = stop

    def check(self) -> int:
        """Every row came once, texts belong to vectors, vectors are whole; the sum of the rows."""
        rows = row_numbers(self._heads)
        assert np.array_equal(np.sort(rows), np.arange(len(rows))), "not every row came once"
        for start, texts, vectors in self._kept:
            dim = vectors.shape[1]
            for place, row in enumerate(rows[start : start + len(vectors)].tolist()):
                assert texts is None or texts[place].startswith(f"row {row}: "), "a text is not its vector's"
                expected = made_up_vectors(dim)(row, row + 1)[0]
                assert np.array_equal(vectors[place].numpy(), expected), "a vector is not the one written"
        return int(rows.sum())


def _import_first(name: str) -> None:
    """Import what a loader needs before the clock starts."""
    if name in OURS:
        _import("data_pipeline").ELMDataset  # noqa: B018 - its import may be put off to the first use
    else:
        for module in PEERS[name][1]:
            _import(module)


def _import(module: str) -> Any:
    if module == "streaming":
        without_vision()
    return import_module(module)


def _anonymous_mb() -> float:
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return anonymous_mb()
    text = rollup.read_text()
    match = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    assert match
    return int(match[1]) * 1024 / 1e6


def _private_mb(pid: int) -> float:
    """Memory that only this process has: of no file, and not shared with the process that it was forked from."""
    total, private = 0, False
    smaps = Path(f"/proc/{pid}/smaps")
    if not smaps.exists():  # not Linux
        return float(psutil.Process(pid).memory_info().rss / 1e6)
    for line in smaps.read_text().splitlines():
        match line.split():
            case [range_, flags, *_] if "-" in range_ and len(flags) == 4:
                private = flags[3] == "p"
            case ["Private_Dirty:", kilobytes, "kB"] if private:
                total += int(kilobytes)
    return total * 1024 / 1e6


KINDS = {each.__name__: each for each in (speed, workers, item, step, opening, resume, bare, write, write_narrow)}

if __name__ == "__main__":
    kind, name_, folder_, rows_, epochs_ = sys.argv[1:]
    print(json.dumps(KINDS[kind](name_, Path(folder_), int(rows_), int(epochs_))))
