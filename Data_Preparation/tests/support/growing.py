"""A corpus of JSON Lines files that grows, and what a dataset made of it must hold."""

import json
from collections import Counter

import numpy as np
import polars as pl

from data_pipeline.config.load import load_config
from data_pipeline.dataset import ELMDataset
from data_pipeline.store import ParagraphStore

PARAGRAPHS = [
    "the river runs past old mills and quiet fields to reach the sea".replace(" ", f"{number} ") + str(number)
    for number in range(9)
]
"""Texts of 13 words; each word of one has its number."""
PARAGRAPHS += [PARAGRAPHS[0] + " again", PARAGRAPHS[0].replace("mills0", "barns0"), "too short a text"]


def settings(folder, files, **changes):
    """Config of a dataset in a folder, of some files of a corpus."""
    flags = {
        "data_dir": str(folder), "logs_dir": str(folder / "logs"), "corpus.source": "jsonl", "corpus.name": "mine",
        "corpus.path": [str(path) for path in files], "corpus.id_field": "id", "embedding.model_name": "hashing",
        "preprocess.unit": "line", "preprocess.min_tokens": 5, "preprocess.min_chars": 0,
        "corpus.max_bad_share": 1, **changes,
    }  # fmt: skip
    return load_config(None, flags)


def write(path, documents):
    """Write documents, given as pairs of id and numbers of paragraphs; None instead of numbers is a bad record."""
    with path.open("w") as file:
        for name, paragraphs in documents:
            text = None if paragraphs is None else "\n\n".join(PARAGRAPHS[number] for number in paragraphs)
            file.write(json.dumps({"id": name, "text": text if paragraphs is not None else 7}) + "\n")


def rows(config):
    """Rows of each split with their vectors, in no order."""
    found = {}
    store = ParagraphStore(config.processed_dir)
    for split in store.splits:
        dataset = ELMDataset(split=split, config=config)
        table = dataset.rows.table(dataset.rows.names).to_pylist()
        vectors = dataset.to_numpy() if len(dataset) else np.zeros((0, 1))
        found[split] = sorted(
            (json.dumps(row, sort_keys=True), vector.tobytes()) for row, vector in zip(table, vectors, strict=True)
        )
    return found


def left_out(config):
    """Rows of the ledger, in no order; which of two bad or equal rows repeats the other does not count."""
    table = pl.read_parquet(config.processed_dir / "dropped.parquet")
    return Counter(table.select("text_id", "document_id", "stage", "reason", "duplicate_of").rows())


def examples(config):
    """Bytes of the examples of dropped rows."""
    return (config.processed_dir / "dropped_examples.parquet").read_bytes()


def counts(config):
    """Numbers in the manifest that do not depend on how the dataset came to be."""
    manifest = ParagraphStore(config.processed_dir).manifest
    totals = {
        split: {name: entry[name] for name in ("rows", "tokens", "characters")}
        for split, entry in manifest["splits"].items()
    }
    return {"counts": {**manifest["counts"], "dropped": dict(sorted(manifest["counts"]["dropped"].items()))},
            "splits": totals, "leakage": manifest["leakage"]}  # fmt: skip
