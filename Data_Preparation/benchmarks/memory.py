"""Peak memory of the whole job against the number of rows, through the hashing embedder.

JSON Lines of 100-word texts, each size in a process of its own; the peak is the process's largest
resident set. Until the first batches and the sample of the leakage report (20,000 test rows) are
full, the peak still rises; from there on it must not.
"""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Figure, Figures, in_fresh_process, peak_memory_mb

_WORDS = 100


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    sizes = (10_000, 20_000) if quick else (10_000, 100_000, 300_000, 600_000)
    peaks = {size: in_fresh_process(Path(__file__), str(size))["peak_mb"] for size in sizes}
    figures = {f"peak_mb_{size // 1000}k": Figure(peak, "MB") for size, peak in peaks.items()}
    (before, small), (after, large) = list(peaks.items())[-2:]
    grown = 1000 * (large - small) / (after - before)
    return {**figures, "kb_per_further_row": Figure(grown, "kB", "", f"from {before:,} to {after:,} rows")}


def _job(rows: int) -> dict[str, Any]:
    from data_pipeline import load_config, run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_ = random.Random(0)
        vocabulary = [f"word{number}" for number in range(5000)]
        with (folder / "rows.jsonl").open("w") as file:
            for _ in range(rows):
                file.write(json.dumps({"text": " ".join(random_.choices(vocabulary, k=_WORDS))}) + "\n")
        config = load_config(
            flags={
                "data_dir": folder / "data", "logs_dir": folder / "logs",
                "corpus.source": "jsonl", "corpus.name": "rows", "corpus.path": folder / "rows.jsonl",
                "preprocess.min_tokens": 10, "storage.shard_rows": 50_000,
                "embedding.model_name": "hashing", "embedding.batch_size": 256,
            }
        )  # fmt: skip
        run(config)
    return {"peak_mb": peak_memory_mb()}


if __name__ == "__main__":
    print(json.dumps(_job(int(sys.argv[1]))))
