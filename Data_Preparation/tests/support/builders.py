"""Small stores for the tests of this folder, and what is in them, read without the package."""

import json

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, StorageConfig
from data_pipeline.dataset.batched import BatchedDataset
from data_pipeline.dataset.samples import Batch
from data_pipeline.stages.pipeline import run

ROWS = 165
# 32 rows of 256 float32 numbers fill whole pages, so the shards are mapped side by side; 33 do not.
JOINED, UNJOINED, ONE = 32, 33, 10**6


def made(folder, shard_rows=ONE, **embedding):
    """The bundled sample, with the vectors of the hashing embedder; returns the config."""
    config = Config(
        data_dir=folder / "data",
        logs_dir=folder / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60),
        storage=StorageConfig(shard_rows=shard_rows),
        embedding=EmbeddingConfig(**{"model_name": "hashing", "batch_size": 16} | embedding),
    )
    run(config)
    return config


def make(folder, shard_rows=ONE, **embedding):
    """The same; returns the data folder."""
    return made(folder, shard_rows, **embedding).data_dir


def files(data_dir, folder, split="train"):
    """The files of a split, in the order of the manifest."""
    manifest = json.loads((data_dir / folder / "manifest.json").read_text())
    return [data_dir / folder / shard["file"] for shard in manifest["splits"][split]["shards"]]


def stored_vectors(data_dir, split="train"):
    """All vectors as the official reader gives them."""
    return np.concatenate([load_file(path)["embeddings"] for path in files(data_dir, "embeddings", split)])


def stored_rows(data_dir, split="train"):
    """All paragraphs."""
    return pl.concat([pl.read_parquet(path) for path in files(data_dir, "sample_processed", split)])


def rows_of(batches):
    """The row numbers of batches that have the column `index`, as lists."""
    return [batch["index"].tolist() for batch in batches]


def flat(lists):
    """All their items, one after the other."""
    return [item for each in lists for item in each]


class Numbers(BatchedDataset):
    """Stands in for a data set of any size: its samples are their own numbers."""

    fingerprint = "numbers"

    def __init__(self, rows):
        self.rows, self.prepared = rows, []

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def gather(self, index):
        return Batch({"index": torch.from_numpy(index.copy())}, len(index))

    def prepare(self, index, count=1):
        self.prepared.append((index.copy(), count))


def same(first, second):
    """Two batches or samples hold the same."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, torch.as_tensor(second[name]))
        else:
            assert value == second[name]
    return True
