"""Reading a store that is larger than the memory: the cold cells of the loader benchmark.

Before each cell the store's files are evicted from the page cache; a cell then runs for a fixed time, in
a process of its own: `loader_cold.py NAME FOLDER SECONDS`.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, in_fresh_process
from loader_stores import made_up_vectors, row_numbers, short_texts, write_store
from numpy.typing import NDArray

ROWS, DIM = 10_000_000, 2560
_SHARD_ROWS = 1 << 20
_SECONDS = 10
_BATCH = 256
_READ_BYTES = 1 << 23
_ROW_BYTES = DIM * 2
_SPARE_BYTES = 5_000_000_000  # texts, and room for others


def measure_cold(folder: Path, rows: int = ROWS) -> dict[str, Figure]:
    """Write the store, read it cold in every way, remove it; no figures where that cannot be done."""
    if not hasattr(os, "posix_fadvise"):
        print("cold cells left out: this system cannot evict files from memory (no posix_fadvise)")
        return {}
    needed, free = rows * _ROW_BYTES + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        print(
            f"cold cells left out: the store needs {needed / 1e9:.0f} GB, {folder} has {free / 1e9:.0f} GB free; "
            "set ELM_BENCH_DIR to a folder with more"
        )
        return {}
    store = folder / "cold"
    script = Path(__file__)
    try:
        written = in_fresh_process(script, "write", str(store), str(rows))
        # The disk before and after the others: it may be shared.
        order = ("disk", "block", "full", "bare", "full", "block", "disk")
        runs = [(name, in_fresh_process(script, name, str(store), str(_SECONDS))["per_s"]) for name in order]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    found = {name: float(np.mean([value for each, value in runs if each == name])) for name, _ in runs}
    size = f"{rows:,} rows, {rows * _ROW_BYTES / 1e9:.0f} GB, evicted, {_SECONDS} s a run"
    return {
        "cold_random_vs_bare_map": Figure(found["full"] / found["bare"], "x", ">= 2.5", size),
        "cold_block_vs_disk": Figure(found["block"] * _ROW_BYTES / found["disk"], "x", ">= 0.8", size),
        "cold_rows_per_s_own_full": Figure(found["full"], "rows/s"),
        "cold_rows_per_s_own_block": Figure(found["block"], "rows/s"),
        "cold_rows_per_s_bare_map": Figure(found["bare"], "rows/s", "", "np.memmap, a gather of random rows"),
        "cold_disk_mb_per_s": Figure(found["disk"] / 1e6, "MB/s", "", "plain reads in order, before and after"),
        "cold_write_s": Figure(written["seconds"], "s", "", "in the project's writers, hashes and fsync included"),
    }


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "embeddings").glob("*.safetensors"))


def _evict(folder: Path) -> None:
    for path in _files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _disk(folder: Path, seconds: float) -> float:
    """Bytes a second of reading the files from their beginning."""
    buffer = bytearray(_READ_BYTES)
    started, done = time.perf_counter(), 0
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while (read := file.readinto(buffer)) and time.perf_counter() - started < seconds:
                done += read
    return done / (time.perf_counter() - started)


def _own(folder: Path, shuffle: str) -> Iterator[NDArray[Any]]:
    import torch

    from data_pipeline import ELMDataset

    dataset = ELMDataset(folder, split="train", dtype=torch.float16, columns=("embedding",))
    for batch in dataset.get_dataloader(_BATCH, shuffle=shuffle, seed=0):
        yield batch["embedding"].numpy()


def _bare(folder: Path) -> Iterator[NDArray[Any]]:
    """Every row once, at random, through memory maps that nobody advised."""
    from data_pipeline.store import open_embedding_shard

    shards = [open_embedding_shard(path) for path in _files(folder)]
    maps = [np.memmap(shard.path, np.float16, "r", shard.offset, shape=(shard.rows, shard.dim)) for shard in shards]
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    order = np.random.default_rng(0).permutation(starts[-1])
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        places = np.searchsorted(starts, rows, side="right") - 1
        found = np.empty((len(rows), DIM), np.float16)
        for place in np.unique(places):
            here = places == place
            found[here] = maps[place][rows[here] - starts[place]]
        yield found


def _rows_per_s(batches: Iterator[NDArray[Any]], seconds: float) -> float:
    """Rows a second from the first batch on; opening is not counted."""
    next(batches)
    heads: list[NDArray[Any]] = []
    started = time.perf_counter()
    for vectors in batches:
        heads.append(vectors[:, :4].copy())
        if time.perf_counter() - started > seconds:
            break
    spent = time.perf_counter() - started
    rows = row_numbers(np.concatenate(heads))
    assert len(np.unique(rows)) == len(rows), "a row came twice"
    for row, vector in zip(rows[-len(vectors) :].tolist(), vectors, strict=True):
        assert np.array_equal(vector, made_up_vectors(DIM)(row, row + 1)[0]), "a vector is not the one written"
    return len(rows) / spent


def _run(name: str, folder: Path, amount: str) -> dict[str, float]:
    if name == "write":
        return {"seconds": write_store(folder, int(amount), DIM, short_texts(), made_up_vectors(DIM), _SHARD_ROWS)}
    _evict(folder)
    seconds = float(amount)
    if name == "disk":
        return {"per_s": _disk(folder, seconds)}
    return {"per_s": _rows_per_s(_bare(folder) if name == "bare" else _own(folder, name), seconds)}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])), flush=True)
    os._exit(0)  # threads that read ahead must not keep a finished cell waiting
