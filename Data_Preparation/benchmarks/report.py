"""The report and the explorer: time and size for 20,000 rows, and time for a million.

Each figure is that of the whole command in a process of its own, imports included, on a dataset of made-up vectors in
clusters (384 dimensions, float16) and texts of the bundled sample: whole paragraphs for the report of 20,000 rows,
sentences for a million. The first report of a dataset also makes the copy of its texts for random access, which is
part of the time. The nearest rows that the page lists are compared with those of an exact search by numpy.

The explorer's time is from the command to the page with points, in a real browser; see `report_explorer`.

Quick: fewer rows, and no explorer.
"""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Figure, Figures
from large_dataset import clustered_vectors, sample_paragraphs, write_large_dataset
from loader_stores import write_store

_DIM = 384
_ROWS, _QUICK_ROWS = 20_000, 2_000
_MANY_ROWS, _QUICK_MANY_ROWS = 1_000_000, 30_000
_COMPARED = 200
_SHARD_ROWS = 262_144


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    rows, many = (_QUICK_ROWS, _QUICK_MANY_ROWS) if quick else (_ROWS, _MANY_ROWS)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
        small, large = Path(name) / "small", Path(name) / "large"
        small.mkdir()
        write_store(small, rows, _DIM, sample_paragraphs(), clustered_vectors(_DIM), _SHARD_ROWS)
        figures["report_s_20k"] = Figure(_report(small), "s", "< 10", f"{rows:,} rows, whole command")
        page = small / "report.html"
        figures["report_mb_20k"] = Figure(page.stat().st_size / 1e6, "MB", "< 12", f"{rows:,} rows")
        figures["neighbors_as_exact"] = Figure(_agreement(page, rows), "share", "1", f"{_COMPARED} rows, ten of each")
        large.mkdir()
        write_large_dataset(large, many, _DIM)
        figures["report_s_1m"] = Figure(_report(large), "s", "<= 60", f"{many:,} rows, whole command")
    if not quick:
        import report_explorer  # which needs a browser

        figures |= report_explorer.measure(quick)
    return figures


def _report(folder: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "data_pipeline.cli", "report", "--preset", "offline", "--output-dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _agreement(page: Path, rows: int) -> float:
    """Compare the nearest rows that a page lists with those of an exact search; returns the share in common."""
    values = _map_of(page)
    if values["count"] != rows:
        raise SystemExit(f"the page shows {values['count']} rows, expected {rows}")
    listed = np.frombuffer(base64.b64decode(values["neighbors"]), "<u2").reshape(rows, -1)
    vectors = clustered_vectors(_DIM)(0, rows).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shared = 0
    for row in np.random.default_rng(0).choice(rows, _COMPARED, replace=False).tolist():
        cosines = vectors @ vectors[row]
        cosines[row] = -np.inf
        # Of rows with the same cosine any is right.
        least = np.sort(cosines)[-listed.shape[1]]
        shared += int((cosines[listed[row]] >= least - 1e-6).sum())
    return shared / (_COMPARED * listed.shape[1])


def _map_of(page: Path) -> dict[str, int | str]:
    found = re.search(r'data-map>\s*<script type="application/json">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    values: dict[str, int | str] = json.loads(found[1])
    return values
