"""How busy the slots of an embedder behind an API are: the real stage over several shards, answers after 200 ms.

The slots' use is the time that calls take, over all slots, by the time of the stage times the slots: from its start to
its manifest. The server runs in a process of its own. A client that ends each shard before the next, and each batch of
requests before the next, is measured beside ours, and so is the ideal, requests x answer time / slots.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
from harness import Figure, in_server_process

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.stages.embed import embed_split
from data_pipeline.store import ParagraphStore, write_manifest
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema
from data_pipeline.testing import misbehaving_server
from data_pipeline.types import SPLITS

_LATENCY_S, _SLOTS, _BATCH, _SHARDS = 0.2, 16, 32, 8
_TEXT = "A paragraph of about sixty words, as those of a corpus are. " * 5


def measure_api_slots(quick: bool) -> dict[str, Figure]:
    """`api_slot_use`: share of the slots' time that calls take, first request to last row on disk."""
    rows = (10 if quick else 50) * _SLOTS * _BATCH
    with in_server_process(_serve) as base_url, tempfile.TemporaryDirectory() as folder:
        config = EmbeddingConfig(
            model_name="tiny-embedder", backend="api", batch_size=_BATCH, api={"base_url": base_url, "slots": _SLOTS}
        )
        store = _write_paragraphs(Path(folder) / "benchmark_processed", rows, rows // _SHARDS)
        embedder = load_embedder(config)
        remote = embedder.runtime.remote
        assert remote is not None
        busy_before, calls_before = remote.usage.busy_s, remote.usage.calls
        started = time.perf_counter()
        result = embed_split(store, "train", embedder, config, Path(folder) / "embeddings")
        wall_s = time.perf_counter() - started
        calls, busy_s = remote.usage.calls - calls_before, remote.usage.busy_s - busy_before
        if result.rows != rows or calls != -(-rows // _SHARDS // _BATCH) * _SHARDS or remote.usage.failed_calls:
            raise SystemExit(f"expected {rows} rows without a failed call, got {result.rows} and {remote.usage}")
        by_shard_s = _shard_by_shard(embedder, store)
    ideal_s = calls * _LATENCY_S / _SLOTS
    note = (
        f"{calls} requests of {_BATCH} texts in {_SHARDS} shards, {_SLOTS} slots; ideal by measured time "
        f"{ideal_s / wall_s:.3f}, shard by shard and batch by batch {ideal_s / by_shard_s:.3f}"
    )
    return {"api_slot_use": Figure(busy_s / (wall_s * _SLOTS), "share", ">= 0.95", note)}


def _shard_by_shard(embedder: Embedder, store: ParagraphStore) -> float:
    """Seconds for the same calls, when each batch of requests waits for the one before."""
    started = time.perf_counter()
    with ThreadPoolExecutor(_SLOTS) as pool:
        for shard in store.listed("train"):
            texts = [text for batch in shard.batches(["text"]) for text in batch["text"].to_pylist()]
            tokens = embedder.tokenize(texts)
            packs = [np.arange(first, min(first + _BATCH, len(texts))) for first in range(0, len(texts), _BATCH)]
            for first in range(0, len(packs), _SLOTS):
                list(pool.map(embedder.forward, [tokens.take(pack) for pack in packs[first : first + _SLOTS]]))
    return time.perf_counter() - started


def _write_paragraphs(folder: Path, rows: int, shard_rows: int) -> ParagraphStore:
    """A store with these rows as train, and empty splits beside it."""
    folder.mkdir(parents=True)
    entries = {}
    for split in SPLITS:
        schema = paragraph_schema({})
        writer = ParagraphWriter(folder, split, schema, shard_rows)
        texts = [f"{row} {_TEXT}" for row in range(rows)] if split == "train" else []
        columns = {name: [name] * len(texts) for name in schema.names}
        columns |= {
            "text_id": [f"id-{row}" for row in range(len(texts))],
            "text": texts,
            "token_count": [-(-len(text.encode()) // 4) for text in texts],
            "char_count": [len(text) for text in texts],
        }
        writer.write(pa.table(columns, schema=schema))
        entries[split] = {"shards": [entry.to_json() for entry in writer.close()]}
    write_manifest(folder, {"fingerprint": "", "settings": {}, "upstream": "", "splits": entries})
    return ParagraphStore(folder)


def _serve(pipe: Connection) -> None:
    vectors = np.random.default_rng(0).standard_normal((_BATCH, 384)).astype(np.float32)
    with misbehaving_server(latency_s=_LATENCY_S, embed=lambda texts: vectors[: len(texts)]) as server:
        pipe.send(server.base_url)
        pipe.recv()


if __name__ == "__main__":
    from harness import print_table

    print_table("api_embedding", measure_api_slots("--quick" in sys.argv))
