"""A dataset of 100 appended parts beside the same one in a single part: how long it takes to open and to read.

The rows are texts of WikiText-2 with vectors of the hashing embedder. One dataset is made by a run and 99 appends, the
other one is its copy after `elm compact`. Both are checked to have the same rows and vectors.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from harness import shared_data
from models import wikitext_lines

_PARTS, _PART_DOCUMENTS = 100, 400
_REPEATS = 7


def measure_parts(quick: bool) -> dict[str, Any]:
    """Ratios of 100 parts to one part, of the time to open and to read."""
    from data_pipeline import ELMDataset
    from data_pipeline.config.load import load_config
    from data_pipeline.stages.compact import compact
    from data_pipeline.stages.pipeline import append_documents, run

    parts = 5 if quick else _PARTS
    shared_data("wikitext-2")
    lines = [line for line in wikitext_lines("train") if len(line.split()) > 20]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def config(data: str, part: int) -> Any:
            path = folder / f"{part}.jsonl"
            if not path.exists():
                texts = [lines[(part * _PART_DOCUMENTS + n) % len(lines)] for n in range(_PART_DOCUMENTS)]
                records = [{"id": f"{part}-{n}", "text": f"{part} {text}"} for n, text in enumerate(texts)]
                path.write_text("".join(json.dumps(record) + "\n" for record in records))
            own = {"corpus.source": "jsonl", "corpus.path": str(path), "corpus.id_field": "id", "corpus.name": "parts"}
            limits = {"preprocess.min_tokens": 5, "embedding.model_name": "hashing", "storage.versions": 1}
            return load_config(None, own | limits | {"data_dir": str(folder / data), "logs_dir": str(folder / "logs")})

        run(config("many", 0))
        for part in range(1, parts):
            append_documents(config("many", part))
        shutil.copytree(folder / "many", folder / "one")
        compact(config("one", 0))

        configs = {data: config(data, 0) for data in ("many", "one")}

        def opened(data: str) -> Any:
            return ELMDataset(split="train", config=configs[data])

        many, one = opened("many"), opened("one")
        files = [len(dataset.rows.source.paragraphs) for dataset in (many, one)]
        if files[0] != parts or files[1] != 1 or _content(many) != _content(one):
            raise SystemExit(f"the two datasets differ, or have {files} files")
        order = random.Random(0).sample(range(len(one)), len(one))
        times = _timed(opened, order)
    return {
        "rows": len(order), "parts": parts,
        "open_ms": 1000 * times["open many"], "open_one_ms": 1000 * times["open one"],
        "open_ratio": times["open many"] / times["open one"], "read_ratio": times["first many"] / times["first one"],
        "read_again_ratio": times["later many"] / times["later one"],
    }  # fmt: skip


def _timed(opened: Callable[[str], Any], order: list[int]) -> dict[str, float]:
    """Median seconds to open each dataset, and to read it in the first and in a later epoch."""
    found: dict[str, list[float]] = {}
    for _ in range(_REPEATS):  # by turns, so that both see the same machine
        for data in ("many", "one"):
            started = time.perf_counter()
            dataset = opened(data)
            found.setdefault(f"open {data}", []).append(time.perf_counter() - started)
            for epoch in ("first", "later"):
                started = time.perf_counter()
                for _batch in dataset.iter_batches(256):
                    pass
                for row in order:
                    dataset[row]
                found.setdefault(f"{epoch} {data}", []).append(time.perf_counter() - started)
    return {name: median(values) for name, values in found.items()}


def _content(dataset: Any) -> set[tuple[str, str, bytes]]:
    table = dataset.rows.table(["text_id", "text"]).to_pylist()
    vectors = dataset.to_numpy()
    return {(row["text_id"], row["text"], vector.tobytes()) for row, vector in zip(table, vectors, strict=True)}


if __name__ == "__main__":
    print(json.dumps(measure_parts(sys.argv[1] == "quick")))
