"""N-grams that WikiText-2 has in common with Cranfield's queries and documents, 50 of which are planted.

Ways: this package, and the peer: datatrove's NGramsDecontFilter with 13-grams. It is measured as it is with its word
tokenizer for English, and with `str.split` in its place, the fastest tokenizer there is. Its index is written here by
its own rule, since its indexer reads named tasks only. CPU seconds with one thread, each way in a process of its own,
the best of three for this package and for the split. All ways must find the planted rows and no others. Also the
near-duplicate test on the same texts, and semantic deduplication of 100,000 made-up vectors with 5,000 planted copies.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Figure, Figures, in_fresh_process, shared_data

_PLANTED = 50
_BATCH_ROWS = 6000
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    repeats = {"ours": 3, "datatrove_split": 3, "datatrove": 1, "near": 1, "semantic": 1}
    runs = {
        way: [
            in_fresh_process(Path(__file__), way, str(int(quick)), **_ONE_THREAD) for _ in range(1 if quick else count)
        ]
        for way, count in repeats.items()
        if not (quick and way == "datatrove")
    }
    best = {way: min(run["cpu_s"] for run in found) for way, found in runs.items()}
    rows = {way: found[0]["rows"] for way, found in runs.items() if way not in ("near", "semantic")}
    if any(found != rows["ours"] for found in rows.values()) or len(rows["ours"]) != _PLANTED:
        raise SystemExit(f"the ways disagree: {[(way, len(found)) for way, found in rows.items()]}")
    megabytes = runs["ours"][0]["megabytes"]
    figures = {
        "mb_per_cpu_s": Figure(megabytes / best["ours"], "MB/CPU-s", "", "13-grams, this package"),
        "mb_per_cpu_s_datatrove_split": Figure(
            megabytes / best["datatrove_split"], "MB/CPU-s", "", "datatrove, with str.split as its word tokenizer"
        ),
        "cpu_ratio_vs_datatrove_split": Figure(best["datatrove_split"] / best["ours"], "x", ">= 5"),
    }
    if not quick:
        figures["mb_per_cpu_s_datatrove"] = Figure(
            megabytes / best["datatrove"], "MB/CPU-s", "", "datatrove, with its word tokenizer"
        )
        figures["cpu_ratio_vs_datatrove"] = Figure(best["datatrove"] / best["ours"], "x")
    semantic = runs["semantic"][0]
    return figures | {
        "planted_rows_found": Figure(len(rows["ours"]), "rows", str(_PLANTED), "by all ways, and no others"),
        "near_mb_per_cpu_s": Figure(megabytes / best["near"], "MB/CPU-s", "", "near duplicates, this package"),
        "semantic_rows_per_cpu_s": Figure(
            semantic["rows"] / best["semantic"], "rows/CPU-s", "", "semantic duplicates, 384 dimensions"
        ),
        "semantic_recall": Figure(semantic["recall"], "share", "", "of planted copies with a cosine of 0.998"),
    }


def _texts(quick: bool) -> tuple[list[str], list[str]]:
    """Paragraphs of WikiText-2 with planted items, and the items."""
    folder = shared_data("cranfield")
    items = [
        json.loads(line)["text"]
        for name in ("queries.jsonl", "corpus.jsonl")
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
    ]
    name = "wiki.valid.tokens" if quick else "wiki.train.tokens"
    lines = (shared_data("wikitext-2") / name).read_text(encoding="utf-8").split("\n")
    texts = [line for line in lines if len(line) > 100]
    for number in range(_PLANTED):
        texts[number * (len(texts) // _PLANTED)] += " " + items[300 + number * 10]
    return texts, items


def _timed(texts: list[str], find: Callable[[], list[int]]) -> dict[str, Any]:
    started = time.process_time()
    rows = find()
    seconds = time.process_time() - started
    return {"cpu_s": seconds, "rows": rows, "megabytes": sum(len(text.encode()) for text in texts) / 1e6}


def _ours(quick: bool) -> dict[str, Any]:
    import pyarrow as pa

    from data_pipeline.preprocess.ngrams import NgramIndex

    texts, items = _texts(quick)
    index = NgramIndex(items, range(len(items)), 13, 8)
    index.find(pa.array(texts[:10], pa.large_string()))

    def find() -> list[int]:
        rows: list[int] = []
        for start in range(0, len(texts), _BATCH_ROWS):
            batch = pa.array(texts[start : start + _BATCH_ROWS], pa.large_string())
            rows += (start + index.find(batch).rows).tolist()
        return rows

    return _timed(texts, find)


def _near(quick: bool) -> dict[str, Any]:
    from data_pipeline.preprocess.near_index import NearIndex

    texts, items = _texts(quick)
    index = NearIndex(0.8, items)
    return _timed(texts, lambda: sorted(index.nearest(texts)))


def _datatrove(quick: bool, split: bool) -> dict[str, Any]:
    import numpy as np
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.decont import n_grams

    class _Split:
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    if split:
        n_grams.load_word_tokenizer = lambda language: _Split()
    texts, items = _texts(quick)
    config = n_grams.NGramsDecontConfig(n_grams=13)
    with tempfile.TemporaryDirectory() as folder:
        peer = n_grams.NGramsDecontFilter(folder, config)
        # Its hash function of this release passes text to a version of xxhash that takes bytes only.
        peer.hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
        hashes = {
            peer.hash_func(" ".join(gram))
            for item in items
            for gram in n_grams.ngrams(
                peer.tokenizer.word_tokenize(n_grams.simplify_text(item, config.norm_config)), 13
            )
        }
        np.array(sorted(hashes), config.hash_config.np_descr).tofile(Path(folder) / "cranfield.index.hashes")
        peer.load_index_hashes()
    return _timed(
        texts,
        lambda: [row for row, text in enumerate(texts) if peer.filter(Document(text=text, id=str(row))) is not True],
    )


def _semantic(quick: bool) -> dict[str, Any]:
    import numpy as np
    import torch

    from data_pipeline.selection.semantic_duplicates import semantic_duplicates
    from data_pipeline.selection.vectors import VectorBlocks

    torch.set_num_threads(1)
    rows, dim = 20_000 if quick else 100_000, 384
    copies = rows // 20
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(500, dim))
    vectors = (centers[rng.integers(500, size=rows)] + rng.normal(size=(rows, dim))).astype(np.float32)
    vectors[rows - copies :] = vectors[:copies] + 0.09 * rng.normal(size=(copies, dim))
    blocks = VectorBlocks(vectors, torch.device("cpu"), unit=True)
    started = time.process_time()
    found = semantic_duplicates(blocks, np.arange(rows), 0.95, rng, clusters=-(-rows // 1024), keep="farthest")
    seconds = time.process_time() - started
    pairs = np.abs(found.rows - found.similar_to) == rows - copies
    return {"cpu_s": seconds, "rows": rows, "recall": float(pairs.sum() / copies)}


if __name__ == "__main__":
    small = sys.argv[2] == "1"
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: _ours(small),
        "near": lambda: _near(small),
        "datatrove": lambda: _datatrove(small, split=False),
        "datatrove_split": lambda: _datatrove(small, split=True),
        "semantic": lambda: _semantic(small),
    }
    print(json.dumps(ways[sys.argv[1]]()))
