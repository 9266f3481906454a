"""What the loader benchmark reads: made-up vectors, WikiText-2 paragraphs, and this project's store of them.

The first four values of a vector are its row number in base 256, which float16 holds exactly; the others
repeat every 8,192 rows. A text begins with its row number. So any batch shows which rows it holds, and
whether its texts and vectors belong together.
"""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from models import wikitext_lines
from numpy.typing import NDArray

Texts = Callable[[int, int], list[str]]
Vectors = Callable[[int, int], NDArray[np.float16]]

_TILE_ROWS = 8192
_WRITE_ROWS = 65_536
_DIGITS = 256 ** np.arange(4, dtype=np.int64)


def made_up_vectors(dim: int) -> Vectors:
    """Gives the vectors of the rows from `start` to `stop`, shape (stop - start, dim)."""

    def vectors(start: int, stop: int) -> NDArray[np.float16]:
        rows = np.arange(start, stop)
        found = np.take(_tile(dim), rows % _TILE_ROWS, axis=0)
        found[:, :4] = rows[:, None] // _DIGITS % 256
        return found

    return vectors


def row_numbers(heads: NDArray[np.float16]) -> NDArray[np.int64]:
    """The rows that vectors with these first four values have."""
    return heads.astype(np.int64) @ _DIGITS


def wikitext_texts() -> Texts:
    """Gives the texts of the rows from `start` to `stop`: WikiText-2, over and over."""
    lines = wikitext_lines("train")
    return lambda start, stop: [f"row {row}: {lines[row % len(lines)]}" for row in range(start, stop)]


def short_texts() -> Texts:
    """The same with a few words each, for stores whose texts do not matter."""
    return lambda start, stop: [f"row {row}: a short text" for row in range(start, stop)]


@cache
def _tile(dim: int) -> NDArray[np.float16]:
    random = np.random.default_rng(0)
    return (random.standard_normal((_TILE_ROWS, dim), dtype=np.float32) / np.sqrt(dim)).astype(np.float16)


def write_store(folder: Path, rows: int, dim: int, texts: Texts, vectors: Vectors, shard_rows: int) -> float:
    """Write a split `train` as the pipeline would, into an empty folder.

    Returns:
        Seconds in the project's writers, making the rows not counted.
    """
    processed, embeddings = folder / "benchmark_processed", folder / "embeddings"
    processed.mkdir(parents=True)
    seconds, shards, upstream = _write_paragraphs(processed, rows, texts, shard_rows)
    return seconds + _write_embeddings(embeddings, dim, vectors, shards, upstream)


def _write_paragraphs(
    folder: Path, rows: int, texts: Texts, shard_rows: int
) -> tuple[float, list[tuple[int, str, str]], str]:
    import pyarrow as pa

    from data_pipeline.store import fingerprint, write_manifest
    from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema
    from data_pipeline.utils import sha256_of_json

    schema, seconds = paragraph_schema({}), 0.0
    writer = ParagraphWriter(folder, "train", schema, shard_rows)
    for start in range(0, rows, _WRITE_ROWS):
        numbers = range(start, min(start + _WRITE_ROWS, rows))
        some = texts(numbers.start, numbers.stop)
        columns = {
            "text_id": [f"benchmark-{row:09d}" for row in numbers],
            "text": some,
            "token_count": [text.count(" ") + 1 for text in some],
            "char_count": [len(text) for text in some],
            "document_id": [f"document-{row // 10:08d}" for row in numbers],
            **{name: ["benchmark"] * len(some) for name in ("title", "section", "source_split")},
        }
        table = pa.table(columns, schema=schema)
        started = time.perf_counter()
        writer.write(table)
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    entries = writer.close()
    settings = {"made_by": "benchmark", "rows": rows, "tokenizer": "words"}
    manifest = {
        "stage": "preprocess",
        "fingerprint": fingerprint(settings, ""),
        "settings": settings,
        "upstream": "",
        "corpus": "benchmark",
        "counts": {
            "documents": -(-rows // 10), "paragraphs": rows, "kept": rows, "dropped": {}, "token_counter": "words"
        },
        "splits": {"train": {"rows": rows, "shards": [entry.to_json() for entry in entries]}},
    }  # fmt: skip
    write_manifest(folder, manifest)
    seconds += time.perf_counter() - started
    hashes = [[entry.ids_sha256, entry.texts_sha256] for entry in entries]
    return seconds, [(entry.rows, entry.ids_sha256, entry.texts_sha256) for entry in entries], sha256_of_json(hashes)


def _write_embeddings(
    folder: Path, dim: int, vectors: Vectors, shards: list[tuple[int, str, str]], upstream: str
) -> float:
    from data_pipeline.store import Coding, fingerprint, write_manifest
    from data_pipeline.store.embeddings import EmbeddingWriter
    from data_pipeline.store.manifest import entry_of
    from data_pipeline.store.paragraphs import shard_name

    settings = {
        "model": "benchmark", "revision": "1", "pooling": "mean", "normalized": "false", "dtype": "float16",
        "dim": str(dim), "max_length": "512", "prompt": "", "tokenizer": "words", "precision": "float16",
    }  # fmt: skip
    entries, before, seconds = [], 0, 0.0
    for index, (rows, ids, texts) in enumerate(shards):
        metadata = {**settings, "split": "train", "ids_sha256": ids, "texts_sha256": texts}
        final = folder / shard_name("train_embeddings", ".safetensors", index, len(shards))
        writer = EmbeddingWriter(final, rows, dim, Coding("float16"), metadata)
        for start in range(0, rows, _WRITE_ROWS):
            stop = min(start + _WRITE_ROWS, rows)
            some = vectors(before + start, before + stop)
            started = time.perf_counter()
            writer.write(np.arange(start, stop), some)
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        writer.finish()
        entries.append(entry_of(final, rows, ids, texts).to_json())
        seconds += time.perf_counter() - started
        before += rows
    entry = {
        "fingerprint": fingerprint(settings, upstream),
        "settings": settings,
        "upstream": upstream,
        "corpus": "benchmark",
        "rows": before,
        "dim": dim,
        "truncated": 0,
        "shards": entries,
    }
    write_manifest(folder, {"stage": "embeddings", "splits": {"train": entry}})
    return seconds
