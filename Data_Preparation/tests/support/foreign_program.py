"""A program of somebody else, written from docs/format_specification.md: it reads, checks and writes datasets.

It knows parquet, safetensors, JSON and SHA-256, and nothing of this package.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

OF_THE_MODEL = ("model", "revision", "pooling", "normalized", "dtype", "dim", "max_length", "prompt", "tokenizer")


def file_sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def column_sha256(strings):
    digest = hashlib.sha256()
    for string in strings:
        encoded = string.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def canonical_json(value):
    """Canonical JSON as the page describes it, written out by hand."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical_json(key)}:{canonical_json(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, str):
        named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
        return '"' + "".join(named.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, float)
    assert math.isfinite(value)
    return repr(value)  # the shortest digits that give the same double


def json_sha256(value):
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def fingerprint(made):
    return json_sha256({"settings": made["settings"], "upstream": made["upstream"], "format_version": 1})


def rows_sha256(shards):
    return json_sha256([[shard["ids_sha256"], shard["texts_sha256"]] for shard in shards])


def read_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["format_version"] == 1
    return manifest


# Reading


def read_paragraphs(folder, split):
    """All rows of a split, and the manifest's records of its files, after every hash was computed again."""
    manifest = read_manifest(folder)
    assert manifest["stage"] == "preprocess"
    assert manifest["fingerprint"] == fingerprint(manifest)
    assert manifest["dropped_sha256"] == file_sha256(folder / "dropped.parquet")
    tables, records = [], manifest["splits"][split]["shards"]
    for record in records:
        path = folder / record["file"]
        table, stored = pq.read_table(path), pq.read_metadata(path).metadata
        assert (path.stat().st_size, file_sha256(path), table.num_rows) == (
            record["bytes"], record["sha256"], record["rows"]
        )  # fmt: skip
        for column, key in (("text_id", "ids_sha256"), ("text", "texts_sha256")):
            assert column_sha256(table[column].to_pylist()) == record[key] == stored[key.encode()].decode()
        assert table["char_count"].to_pylist() == [len(text) for text in table["text"].to_pylist()]
        tables.append(table)
    return pa.concat_tables(tables), records


def deleted_rows(folder, split):
    record = read_manifest(folder).get("deleted")
    if record is None:
        return []
    assert file_sha256(folder / record["file"]) == record["sha256"]
    rows = pq.read_table(folder / record["file"]).to_pylist()
    return [row["row"] for row in rows if row["split"] == split]


def read_embeddings(folder, split, paragraphs):
    """All vectors of a split, decoded, shape (rows, dim); `paragraphs` are the records of the paragraph files."""
    listed = read_manifest(folder)["splits"][split]
    assert listed["upstream"] == rows_sha256(paragraphs)
    assert listed["fingerprint"] == fingerprint(listed)
    parts = []
    for record, rows in zip(listed["shards"], paragraphs, strict=True):
        path = folder / record["file"]
        assert record["file"] == f"{split}_embeddings{rows['file'][len(split) : -len('.parquet')]}.safetensors"
        assert (file_sha256(path), path.stat().st_size) == (record["sha256"], record["bytes"])
        with safe_open(path, "pt") as file:
            stored, metadata = file.get_tensor("embeddings"), file.metadata()
        for key in ("ids_sha256", "texts_sha256"):
            assert metadata[key] == record[key] == rows[key]
        assert {name: metadata[name] for name in listed["settings"]} == listed["settings"]
        parts.append(decode(stored, metadata))
    return np.concatenate(parts)


def decode(stored, metadata):
    dim, precision = int(metadata["dim"]), metadata["precision"]
    if precision == "float8":  # numpy has no such type; torch gives its values
        high = json.loads(metadata["calibration"])["high"]
        vectors = stored.float().numpy() * (np.float32(high[0]) / np.float32(448))
    elif precision == "int8":
        low, high = (np.array(json.loads(metadata["calibration"])[name], np.float32) for name in ("low", "high"))
        step = np.maximum((high - low) / np.float32(255), np.float32(1e-12))
        vectors = low + (stored.numpy().astype(np.float32) + 128) * step
    elif precision == "ubinary":
        bits = np.unpackbits(stored.numpy(), axis=1)
        vectors = np.where(bits == 1, 1, -1).astype(np.float32) / np.float32(math.sqrt(dim))
    else:
        return stored.numpy()
    if metadata["normalized"] == "true":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def read_scores(folder, split, paragraphs):
    listed = read_manifest(folder)["splits"][split]
    assert listed["upstream"] == rows_sha256(paragraphs)
    assert listed["fingerprint"] == fingerprint(listed)
    tables = []
    for record in listed["shards"]:
        path = folder / record["file"]
        assert file_sha256(path) == record["sha256"]
        assert pq.read_metadata(path).metadata[b"fingerprint"].decode() == listed["fingerprint"]
        tables.append(pq.read_table(path))
        assert column_sha256(tables[-1]["text_id"].to_pylist()) == record["ids_sha256"]
    table = pa.concat_tables(tables)
    assert table.column_names == ["text_id", *listed["columns"]]
    return table


def read_selection(folder, split, paragraphs):
    listed = read_manifest(folder)["splits"][split]
    path = folder / f"{split}.parquet"
    ids = pq.read_table(path)["text_id"].to_pylist()
    assert listed["fingerprint"] == fingerprint(listed)
    assert listed["about"]["paragraphs"] == rows_sha256(paragraphs)
    assert (listed["ids_sha256"], listed["sha256"], listed["rows"]) == (column_sha256(ids), file_sha256(path), len(ids))
    return ids


# Writing


def write_dataset(data_dir, corpus, splits, vectors, shard_rows):
    """Write a dataset: texts by split (`{"train": [(document, text), ...]}`), and a vector for each."""
    paragraphs, embeddings = data_dir / f"{corpus}_processed", data_dir / "embeddings"
    paragraphs.mkdir(parents=True)
    embeddings.mkdir()
    records = {split: _write_split(paragraphs, split, rows, shard_rows) for split, rows in splits.items()}
    dropped = pa.schema([(name, pa.string()) for name in ("text_id", "document_id", "stage", "reason", "duplicate_of")])
    pq.write_table(dropped.empty_table(), paragraphs / "dropped.parquet")
    kept = sum(map(len, splits.values()))
    made = {"settings": {"preprocess": {"min_tokens": 1, "max_tokens": 1000}}, "upstream": ""}
    manifest = {
        "format_version": 1,
        "stage": "preprocess",
        **made,
        "fingerprint": fingerprint(made),
        "counts": {"documents": kept, "paragraphs": kept, "kept": kept, "dropped": {}, "token_counter": "words"},
        "dropped_sha256": file_sha256(paragraphs / "dropped.parquet"),
        "splits": {
            split: {"rows": len(splits[split]), "shards": [{**record} for record in listed]}
            for split, listed in records.items()
        },
    }
    _write_json(paragraphs / "manifest.json", manifest)
    listed = {
        split: _embed_split(embeddings, split, corpus, records[split], vectors[split]) for split in splits
    }  # fmt: skip
    _write_json(embeddings / "manifest.json", {"format_version": 1, "stage": "embeddings", "splits": listed})


def _write_split(folder, split, rows, shard_rows):
    parts = [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)] or [[]]
    records = []
    for number, part in enumerate(parts):
        name = f"{split}.parquet" if len(parts) == 1 else f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
        columns = {
            "text_id": [f"{document}/{split}/{number}/{row}" for row, (document, _) in enumerate(part)],
            "text": pa.array([text for _, text in part], pa.string()),
            "token_count": pa.array([len(text.split()) for _, text in part], pa.int64()),
            "char_count": pa.array([len(text) for _, text in part], pa.int64()),
            "document_id": pa.array([document for document, _ in part], pa.string()),
            "title": pa.array([f"About {document}" for document, _ in part], pa.string()),
        }
        ids, texts = columns["text_id"], [text for _, text in part]
        hashes = {"ids_sha256": column_sha256(ids), "texts_sha256": column_sha256(texts)}
        columns["text_id"] = pa.array(ids, pa.string())
        pq.write_table(pa.table(columns).replace_schema_metadata(hashes), folder / name)
        records.append(_record(folder / name, len(part), hashes))
    return records


def _embed_split(folder, split, corpus, paragraphs, vectors):
    settings = {
        "model": "somebody/else", "revision": "1", "pooling": "mean", "normalized": "false", "dtype": "float32",
        "dim": str(vectors.shape[1]), "max_length": "0", "prompt": "", "tokenizer": "0" * 64, "precision": "float32",
    }  # fmt: skip
    records, start = [], 0
    for record in paragraphs:
        path = folder / f"{split}_embeddings{record['file'][len(split) : -len('.parquet')]}.safetensors"
        hashes = {name: record[name] for name in ("ids_sha256", "texts_sha256")}
        part = np.ascontiguousarray(vectors[start : start + record["rows"]])
        save_file({"embeddings": part}, path, metadata={**settings, **hashes, "split": split})
        records.append(_record(path, record["rows"], hashes))
        start += record["rows"]
    made = {"settings": settings, "upstream": rows_sha256(paragraphs)}
    return {
        **made, "fingerprint": fingerprint(made), "corpus": corpus, "rows": len(vectors), "dim": vectors.shape[1],
        "truncated": 0, "shards": records,
    }  # fmt: skip


def _record(path: Path, rows, hashes):
    return {"file": path.name, "rows": rows, "sha256": file_sha256(path), **hashes, "bytes": path.stat().st_size}


def _write_json(path, value):
    path.write_text(json.dumps(value), "utf-8")
