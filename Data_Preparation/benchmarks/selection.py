"""Selectors of embeddings beside the same algorithms step by step, and on a million rows.

67,349 x 768 float32 like sentence embeddings: 300 clusters whose sizes follow a power law, a decaying spectrum, a
common component, every row of length 1. 10 % of the rows are asked for. Every way is a process of its own.

k-center: the peers look at every row after every pick. In the older style that is scikit-learn's
`euclidean_distances`, 1024 rows at a time; the lean way is one product of torch. Both make some hundred or some dozen
picks, from our first one on; their time for all picks is that many times more. Their picks must be ours.

Herding: the peer follows the paper's rule, in the older style: a product with every row left, of which the chosen one
is then taken out by `np.delete`; extrapolated likewise. Deviation: distance of the mean of the rows chosen from the
mean of all, of ours and of five random choices.

k-means: `MiniBatchKMeans` of scikit-learn and ours, 128 clusters, labels of all rows included, in turns, the fastest
counting.

Every way is a process of its own on both cores, whose idle threads wait instead of spinning (OMP_WAIT_POLICY), so that
CPU-seconds are work.

A million: 1,000,000 x 384 float32, mapped from disk; 1 % of the rows. Memory is anonymous memory, which cannot be
given back, above that before the call, at its peak.

Quick: fewer rows.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, Figures, anonymous_mb, in_fresh_process

_CLUSTERS, _SPREAD, _COMMON = 300, 0.6, 0.55
_K_MEANS = 128
_RANDOMS = 5
_TURNS = 3


@dataclass(frozen=True)
class _Size:
    rows: int
    many_rows: int
    scan_steps: int
    gemv_steps: int


_FULL = _Size(67_349, 1_000_000, 60, 800)
_QUICK = _Size(30_000, 30_000, 20, 300)


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
        folder = Path(name)
        _make_file(folder / "vectors.npy", size.rows, 768)
        figures = {
            **_kcenter_figures(folder, size),
            **_herding_figures(folder, size),
            **_kmeans_figures(folder, 1 if quick else _TURNS),
        }
        _make_file(folder / "vectors.npy", size.many_rows, 384)
        many = {way: _run(way, folder, size.many_rows // 100) for way in ("kcenter", "herding", "kmeans")}
    what = f"{size.many_rows:,} x 384 from disk, {size.many_rows // 100:,} rows"
    figures["million_rows_s"] = Figure(
        max(found["wall_s"] for found in many.values()), "s", "<= 600", f"slowest, {what}"
    )
    for way, found in many.items():
        figures[f"million_rows_s_{way}"] = Figure(found["wall_s"], "s", "", what)
    peak = max(found["anonymous_gb"] for found in many.values())
    figures["peak_gb"] = Figure(peak, "GB", "<= 8", "of their own, the largest of these")
    return figures


def _kcenter_figures(folder: Path, size: _Size) -> dict[str, Figure]:
    wanted = size.rows // 10
    ours = _run("kcenter", folder, wanted)
    picks = np.load(folder / "kcenter.npy")
    peers = {"kcenter_scan": size.scan_steps, "kcenter_gemv": size.gemv_steps}
    cpu_s, equal = {}, []
    for way, steps in peers.items():
        cpu_s[way] = _run(way, folder, steps, int(picks[0]))["cpu_s"] / steps * wanted
        equal.append(np.load(folder / f"{way}.npy") == picks[: steps + 1])
    scan, gemv = cpu_s["kcenter_scan"], cpu_s["kcenter_gemv"]
    return {
        "kcenter_cpu_ratio_vs_step_scan": Figure(
            scan / ours["cpu_s"], "x", ">= 100", f"scikit-learn's distances, from {size.scan_steps} of {wanted:,} steps"
        ),
        "kcenter_cpu_ratio_vs_gemv": Figure(
            gemv / ours["cpu_s"], "x", "", f"a product of torch a step, from {size.gemv_steps} steps"
        ),
        "kcenter_picks_equal": Figure(
            float(np.concatenate(equal).mean()), "", "= 1", "share, of all that both peers picked"
        ),
        "kcenter_cpu_s": Figure(ours["cpu_s"], "CPU-s", "<= 17", f"{wanted:,} of {size.rows:,} rows"),
        "kcenter_wall_s": Figure(ours["wall_s"], "s"),
        "kcenter_step_scan_cpu_s": Figure(scan, "CPU-s", "", "the peer, extrapolated"),
    }


def _herding_figures(folder: Path, size: _Size) -> dict[str, Figure]:
    wanted = size.rows // 10
    ours = _run("herding", folder, wanted)
    scan = _run("herding_scan", folder, size.scan_steps)["cpu_s"] / size.scan_steps * wanted
    vectors, picks = np.load(folder / "vectors.npy"), np.load(folder / "herding.npy")
    mean = vectors.mean(axis=0, dtype=np.float64)

    def deviation(rows: np.ndarray) -> float:
        return float(np.linalg.norm(vectors[rows].mean(axis=0, dtype=np.float64) - mean))

    randoms = [deviation(np.random.default_rng(seed).permutation(size.rows)[:wanted]) for seed in range(_RANDOMS)]
    return {
        "herding_cpu_ratio_vs_step_scan": Figure(
            scan / ours["cpu_s"],
            "x",
            ">= 20",
            f"every row a step, and a copy, from {size.scan_steps} of {wanted:,} steps",
        ),
        "herding_deviation_vs_random": Figure(
            deviation(picks) / float(np.mean(randoms)),
            "x",
            "<= 0.1",
            f"of the mean, at 10 %; {_RANDOMS} random choices",
        ),
        "herding_deviation": Figure(deviation(picks), "", "", "length of the difference of the means"),
        "herding_cpu_s": Figure(ours["cpu_s"], "CPU-s", "<= 4", f"{wanted:,} of {size.rows:,} rows"),
    }


def _kmeans_figures(folder: Path, turns: int) -> dict[str, Figure]:
    found: dict[str, list[dict[str, Any]]] = {"clusters": [], "clusters_sklearn": []}
    for _ in range(turns):
        for way, runs in found.items():
            runs.append(_run(way, folder, _K_MEANS))
    ours, peer = (
        {key: min(run[key] for run in runs) for key in ("cpu_s", "wall_s", "result")} for runs in found.values()
    )
    return {
        "kmeans_time_vs_sklearn": Figure(
            ours["cpu_s"] / peer["cpu_s"], "x", "<= 1", f"CPU-s, MiniBatchKMeans, {_K_MEANS} clusters"
        ),
        "kmeans_wall_vs_sklearn": Figure(ours["wall_s"] / peer["wall_s"], "x", "<= 1"),
        "kmeans_inertia_vs_sklearn": Figure(ours["result"] / peer["result"], "x", "<= 1"),
        "kmeans_cpu_s": Figure(ours["cpu_s"], "CPU-s"),
        "kmeans_sklearn_cpu_s": Figure(peer["cpu_s"], "CPU-s", "", "the peer"),
    }


def _make_file(path: Path, rows: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.5
    spectrum *= _SPREAD / np.linalg.norm(spectrum)
    centers = rng.normal(size=(_CLUSTERS, dim)) * spectrum
    common = rng.normal(size=dim)
    common *= _COMMON / np.linalg.norm(common)
    shares = 1 / np.arange(1, _CLUSTERS + 1)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, 8192):
        labels = rng.choice(_CLUSTERS, min(8192, rows - start), p=shares / shares.sum())
        some = centers[labels] + common + rng.normal(size=(len(labels), dim)) * spectrum
        file[start : start + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    file.flush()


def _run(way: str, folder: Path, count: int, first: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = in_fresh_process(
        Path(__file__), way, str(folder), str(count), str(first), OMP_WAIT_POLICY="passive"
    )
    return found


def _selector(name: str, folder: Path, count: int, first: int) -> Callable[[], None]:
    from importlib import import_module

    from data_pipeline.selection.features import Features

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    features = Features([str(row) for row in range(len(vectors))], vectors)
    module = import_module(f"data_pipeline.selection.selectors.{name}")
    select = getattr(module, name)
    config = {"kcenter": "KCenterConfig", "herding": "HerdingConfig", "kmeans": "KMeansConfig"}[name]

    def run() -> None:
        found = select(features, count, np.random.default_rng(0), getattr(module, config)())
        if len(np.unique(found.rows)) != count:
            raise SystemExit(f"{name} gave {len(np.unique(found.rows))} different rows where {count} were wanted")
        np.save(folder / f"{name}.npy", found.rows)

    return run


def _kcenter_scan(folder: Path, steps: int, first: int) -> Callable[[], None]:
    from sklearn.metrics.pairwise import euclidean_distances

    vectors = np.load(folder / "vectors.npy")

    def run() -> None:
        picks, distances = [first], np.full(len(vectors), np.inf)
        for _ in range(steps):
            for start in range(0, len(vectors), 1024):
                place = slice(start, start + 1024)
                found = euclidean_distances(vectors[place], vectors[picks[-1:]])[:, 0]
                distances[place] = np.minimum(distances[place], found)
            picks.append(int(distances.argmax()))
        np.save(folder / "kcenter_scan.npy", picks)

    return run


def _kcenter_gemv(folder: Path, steps: int, first: int) -> Callable[[], None]:
    import torch

    vectors = torch.from_numpy(np.load(folder / "vectors.npy"))

    def run() -> None:
        norms = torch.linalg.vecdot(vectors, vectors)
        picks, distances = [first], torch.full((len(vectors),), torch.inf)
        for _ in range(steps):
            distances = torch.minimum(distances, norms + norms[picks[-1]] - 2 * (vectors @ vectors[picks[-1]]))
            picks.append(int(distances.argmax()))
        np.save(folder / "kcenter_gemv.npy", picks)

    return run


def _herding_scan(folder: Path, steps: int, first: int) -> Callable[[], None]:
    left = np.load(folder / "vectors.npy")

    def run() -> None:
        vectors, mean = left, left.mean(axis=0)
        weights = mean.copy()
        for _ in range(steps):
            row = int(np.argmax(vectors @ weights))
            weights += mean - vectors[row]
            vectors = np.delete(vectors, row, axis=0)

    return run


def _clusters(folder: Path, count: int, first: int) -> Callable[[], float]:
    import torch

    from data_pipeline.selection.clusters import cluster
    from data_pipeline.selection.vectors import VectorBlocks

    vectors = VectorBlocks(np.load(folder / "vectors.npy"), torch.device("cpu"))
    return lambda: cluster(vectors, count, np.random.default_rng(0)).inertia


def _clusters_sklearn(folder: Path, count: int, first: int) -> Callable[[], float]:
    from sklearn.cluster import MiniBatchKMeans

    vectors = np.load(folder / "vectors.npy")
    return lambda: float(MiniBatchKMeans(n_clusters=count, random_state=0).fit(vectors).inertia_)


_WAYS: dict[str, Callable[[Path, int, int], Callable[[], float | None]]] = {
    "kcenter": partial(_selector, "kcenter"),
    "kcenter_scan": _kcenter_scan,
    "kcenter_gemv": _kcenter_gemv,
    "herding": partial(_selector, "herding"),
    "herding_scan": _herding_scan,
    "kmeans": partial(_selector, "kmeans"),
    "clusters": _clusters,
    "clusters_sklearn": _clusters_sklearn,
}


def _timed(run: Callable[[], float | None]) -> dict[str, Any]:
    before, peak, finished = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not finished.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finished.set()
    watcher.join()
    return {"wall_s": wall, "cpu_s": cpu, "anonymous_gb": max(0, peak[0] - before) / 1000, "result": result}


if __name__ == "__main__":
    way, folder, count, first = sys.argv[1:]
    print(json.dumps(_timed(_WAYS[way](Path(folder), int(count), int(first)))))
