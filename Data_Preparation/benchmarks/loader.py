"""Reading a finished dataset for training, beside the libraries people would use instead.

100,000 rows of 2,560 float16 and a WikiText-2 paragraph each, in batches of 256, without worker processes
unless said. Every cell (one loader, one way of using it) has a process of its own; files are in the page
cache, but for the cold cells. `first`: the first epoch of a process; `warm`: the best of two more; of two
turns of all cells the faster one counts. All loaders must give every row once an epoch, and texts with
their own vectors. Memory is anonymous memory, which cannot be given back, above that of an interpreter
with torch. The cold cells need 56 GB: set ELM_BENCH_DIR to a folder that has them. Quick: 10,000 rows,
one turn, one warm epoch, no cold cells.

Peers that are not installed are left out; the extra `bench-loader` has those that go together with the
rest. LitData and MDS ask for packages that do not; without them they work as well: `pip install --no-deps
litdata mosaicml-streaming`, then what they miss when they are imported (boto3, lightning-utilities, obstore,
tifffile; brotli, catalogue, python-snappy, zstd). Where a figure is a ratio of two epochs, it is the smaller
one of first and warm.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import Figure, Figures, in_fresh_process
from loader_cold import measure_cold
from loader_peer_files import WRITERS
from loader_peers import PEERS

_ROWS, _QUICK_ROWS = 100_000, 10_000
# All speed cells have two turns, the faster one counting: others may use the machine. Where two come close to each
# other, they have more, side by side.
_CLOSE, _MORE_TURNS = ["own_embeddings", "take", "own_sequential", "h5py_strings"], 3
_READ_BYTES = 1 << 23
_CELLS = Path(__file__).with_name("loader_cells.py")
_OWN = {
    "stock": "torch's DataLoader(dataset, 256, shuffle=True)",
    "own": "get_dataloader(256, shuffle='full')",
    "own_block": "get_dataloader(256, shuffle='block')",
    "own_sequential": "shuffle=False, prefetch=0",
    "own_sequential_ahead": "shuffle=False, made ahead by the thread",
    "own_float32": "shuffle='full', vectors as float32",
    "own_embeddings": "shuffle='full', prefetch=0, vectors only",
    "own_embeddings_ahead": "shuffle='full', vectors only, made ahead by the thread",
    "own_2_workers": "shuffle=True, 2 worker processes",
}
_NOT_IN_QUICK = {
    "own_block", "own_embeddings_ahead", "own_sequential_ahead", "own_float32", "own_2_workers",
    "datasets_torch_batches", "h5py_bytes", "h5py_random", "rows", "ram", "take_reused",
}  # fmt: skip

Cells = dict[str, dict[str, Any]]


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    rows = _QUICK_ROWS if quick else _ROWS
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR"), prefix="elm-loader-") as name:
        folder = Path(name)
        sizes = _write_all(folder, rows)
        opened = _opening(folder, rows, quick)
        cells = _run_all(folder, rows, quick, set(sizes))
        figures = {
            **_goals(cells),
            **_of_ours(folder / "ours", rows, quick),
            **opened,
            **_many_rows(folder, rows, quick),
            **_all_cells(cells),
            **{f"write_s_{each}": Figure(found["seconds"], "s", "", "fsync included") for each, found in sizes.items()},
            **{f"disk_mb_{each}": Figure(found["mb"], "MB") for each, found in sizes.items()},
            "resume_ms_at_1e9": Figure(
                _cell("resume", "-", folder / "ours", 0)["ms"],
                "ms",
                "<= 10",
                "from a state at 90 % of an epoch to the rows of the next batch, shuffle='full'",
            ),
        }
        return figures if quick else {**figures, **measure_cold(folder)}


def _cell(kind: str, name: str, folder: Path, rows: int, epochs: int = 0) -> dict[str, Any]:
    """Run one cell, its files in the page cache."""
    buffer = bytearray(_READ_BYTES)
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    found: dict[str, Any] = in_fresh_process(_CELLS, kind, name, str(folder), str(rows), str(epochs))
    return found


def _write_all(folder: Path, rows: int) -> Cells:
    """Write every format whose library is there."""
    found = {"ours": _cell("write", "ours", folder / "ours", rows)}
    for name, (modules, _) in WRITERS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            print(f"{name} left out: {', '.join(missing)} is not installed")
        else:
            found[name] = _cell("write", name, folder / name, rows)
    return found


def _run_all(folder: Path, rows: int, quick: bool, formats: set[str]) -> Cells:
    """Run the speed cells, all in one row; all must have given the same rows."""
    wanted = dict.fromkeys(_OWN, "ours") | {name: peer[0] for name, peer in PEERS.items()}
    bare = _cell("bare", "-", Path("-"), 0)["anonymous_mb"]
    names = [name for name, format_ in wanted.items() if format_ in formats and not (quick and name in _NOT_IN_QUICK)]
    found: Cells = {}
    close = [name for name in _CLOSE if name in names]
    for name in names + ([] if quick else names + close * _MORE_TURNS):
        cell = _cell("speed", name, folder / wanted[name], rows, 2 if quick else 3)
        cell["anonymous_mb"] -= bare
        found[name] = _better(found.get(name, cell), cell)
    if len({cell["sum_of_rows"] for cell in found.values()}) != 1:
        raise SystemExit("the loaders did not give the same rows")
    return found


def _better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    best = {name: max(one[name], other[name]) for name in ("first", "warm", "anonymous_mb", "sum_of_rows")}
    return {**best, "open_first_batch_s": min(one["open_first_batch_s"], other["open_first_batch_s"])}


def _goals(cells: Cells) -> dict[str, Figure]:
    """Our loaders as multiples of the peers, where the peer was there."""
    pairs = {
        "vs_litdata": ("stock", "litdata", ">= 3", "stock loader; LitData's defaults mix neighbouring rows only"),
        "vs_lance": ("stock", "lance", ">= 10", "stock loader"),
        "vs_mds": ("stock", "mds", "", "stock loader; MDS asked for rows one by one, which is its faster way"),
        "vs_datasets_arrow": ("own", "datasets_arrow", ">= 1.6", "own loader; the peer's batch is made by hand"),
        "sequential_vs_h5py": (
            "own_sequential",
            "h5py_strings",
            ">= 1.6",
            "own loader without its thread; the peer's texts as its strings",
        ),
        "sequential_vs_h5py_bytes": (
            "own_sequential",
            "h5py_bytes",
            "",
            "the same; the peer's texts as bytes and offsets, cut by hand",
        ),
    }
    figures = {}
    if "datasets_torch" in cells:
        goals = {"first": ">= 4", "warm": ">= 6"}
        for epoch, ratio in zip(goals, _ratios(cells, "stock", "datasets_torch"), strict=True):
            note = "DataLoader(dataset, 256, shuffle=True) on both sides"
            if "datasets_torch_batches" in cells:
                other = cells["stock"][epoch] / cells["datasets_torch_batches"][epoch]
                note += f"; {other:.2f} where the peer is asked for whole batches"
            figures[f"{epoch}_epoch_vs_datasets_torch"] = Figure(ratio, "x", goals[epoch], note)
    for label, (ours, peer, goal, note) in pairs.items():
        if peer in cells:
            first, warm = _ratios(cells, ours, peer)
            figures[label] = Figure(min(first, warm), "x", goal, f"first {first:.2f}, warm {warm:.2f}; {note}")
    _, warm = _ratios(cells, "own_embeddings", "take")
    figures["embeddings_only_vs_take"] = Figure(
        warm, "x", ">= 0.8", "own loader without its thread, warm, beside a bare np.take into new memory"
    )
    figures["anonymous_mb"] = Figure(cells["own"]["anonymous_mb"], "MB", "<= 50", "own loader, after its epochs")
    return figures


def _ratios(cells: Cells, ours: str, peer: str) -> tuple[float, float]:
    return tuple(cells[ours][epoch] / cells[peer][epoch] for epoch in ("first", "warm"))  # type: ignore[return-value]


def _opening(folder: Path, rows: int, quick: bool) -> dict[str, Figure]:
    """To the first batch: the very first time, when copies for fast reading are made, and from then on."""
    times = _opening_times(folder / "ours", rows, quick)
    return {
        "open_first_batch_s": Figure(min(times[1:]), "s", "<= 0.3", f"best of {len(times) - 1}; imports not counted"),
        "open_first_time_s": Figure(times[0], "s", "", "the first time ever after writing"),
    }


def _opening_times(store: Path, rows: int, quick: bool) -> list[float]:
    return [_cell("opening", "own", store, rows)["seconds"] for _ in range(2 if quick else 4)]


def _of_ours(store: Path, rows: int, quick: bool) -> dict[str, Figure]:
    """What only makes sense for our own: a row, a training step, a worker's memory."""
    own = _cell("step", "own", store, rows)
    worker = _cell("workers", "own_2_workers", store, rows)
    figures = {
        "step_10ms_overhead": Figure(
            own["overhead"], "of a step", "<= 0.05", f"own loader, a step of {own['step_ms']:.1f} ms on the CPU"
        ),
        "item_us": Figure(_cell("item", "-", store, rows)["us"], "us", "<= 8", "dataset[i], text and vector, warm"),
        "worker_private_mb": Figure(
            worker["grown_mb"],
            "MB",
            "<= 1",
            f"growth over the first epoch, the larger of {worker['workers']} workers; over the second "
            f"{worker['grown_again_mb']:.2f}",
        ),
    }
    if not quick:
        others = {
            "stock": "torch's DataLoader",
            "own_not_ahead": "the own loader without its thread",
            "own_embeddings_ahead": "the own loader and vectors only",
        }
        for name, words in others.items():
            overhead = _cell("step", name, store, rows)["overhead"]
            figures[f"step_10ms_overhead_{name}"] = Figure(overhead, "of a step", "", f"the same with {words}")
    return figures


def _many_rows(folder: Path, rows: int, quick: bool) -> dict[str, Figure]:
    """Opening a store of as many rows and one of ten times as many; vectors are narrow to save disk."""
    figures = {}
    for count in (rows, 10 * rows):
        store = folder / f"narrow_{count}"
        _cell("write_narrow", "-", store, count)
        times = _opening_times(store, count, quick)
        label = f"{count // 1_000_000}m" if count >= 1_000_000 else f"{count // 1000}k"
        figures[f"open_s_{label}_rows"] = Figure(
            min(times[1:]), "s", "", f"256 dimensions, short texts; {times[0]:.2f} s the first time ever"
        )
    return figures


def _all_cells(cells: Cells) -> dict[str, Figure]:
    figures = {}
    for name, cell in cells.items():
        note = _OWN.get(name) or str(PEERS[name][2].__doc__).splitlines()[0]
        figures[f"rows_per_s_{name}_first"] = Figure(cell["first"], "rows/s", "", note)
        figures[f"rows_per_s_{name}_warm"] = Figure(cell["warm"], "rows/s")
    for name, cell in cells.items():
        figures[f"open_s_{name}"] = Figure(cell["open_first_batch_s"], "s", "", "to the first batch")
        figures[f"anonymous_mb_{name}"] = Figure(cell["anonymous_mb"], "MB")
    return figures
