"""Scoring of an HDF5 file with vectors to a JSON Lines file, resumable at any position.

Lines are appended to a hidden file beside the output. Every few seconds the file is flushed to disk and its length
recorded, so that the next run can truncate it to that length after a crash and resume from there.
"""

import gzip
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import ConfigError, CorruptShardError, ModelError, StaleStageError
from data_pipeline.heads.apply import Scorer
from data_pipeline.heads.files import head_sha256
from data_pipeline.heads.identity import check_identity
from data_pipeline.integrations.ml_filter.jobs import AnnotationParameters
from data_pipeline.store import ColumnHash
from data_pipeline.store.hdf5 import EmbeddingFile
from data_pipeline.utils import atomic_write_json, exclusive, progress_bar, publish, require, sha256_of_json

orjson: Any = require("orjson", "annotation", "writing JSON Lines")

_SAFE_EVERY_S = 5.0
_ID_NAMES = ("document_id", "doc_id")
_LABEL_NAMES = ("labels", "label")


@dataclass(frozen=True)
class Annotated:
    """Result of processing one file."""

    rows: int
    skipped: bool
    """Whether an earlier run finished the file."""


def annotate_file(
    path: Path, final: Path, scorer: Scorer, params: AnnotationParameters, overwrite: bool = False
) -> Annotated:
    """Score one file, resuming an interrupted run.

    Args:
        path: path of the HDF5 file.
        final: path of the JSON Lines file.
        scorer: scorer with the heads.
        params: parameters of the job.
        overwrite: whether to replace a file that was made with other heads, keys or vectors.

    Raises:
        CorruptShardError: the input is damaged; no output is published.
        WrongEmbedderError: a head was trained on vectors of another embedder.
        ConfigError: the input lacks a key.
        StaleStageError: the output was made with other settings, and `overwrite` is false.
        StoreError: another process is writing the output.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    names = {"embeddings": params.embedding_key, "document_id": params.document_id_key, "labels": params.label_key}
    with EmbeddingFile(path, params.hdf5_dataset_name, names) as file, exclusive(final):
        for name, head in scorer.heads.items():
            identity = file.attributes if file.is_ours else {"dim": str(file.dim)}
            check_identity(name, head.embedder, head.dim, identity, str(path))
        _check_keys(file, params, scorer)
        work = _Work(file, final, scorer, params)
        if work.is_finished(overwrite):
            work.tidy()
            return Annotated(file.rows, skipped=True)
        work.run()
        return Annotated(file.rows, skipped=False)


def _check_keys(file: EmbeddingFile, params: AnnotationParameters, scorer: Scorer) -> None:
    if not file.rows:  # records that do not exist have no keys
        return
    labels = (*_LABEL_NAMES, params.label_key) if file.has_labels else ()
    existing = [*file.keys, *_ID_NAMES, params.document_id_key, *labels]
    scores = {f"{params.score_prefix}{column}" for column in scorer.columns}
    missing = [key for key in params.output_keys if key not in existing and key not in scores]
    if missing:
        raise ConfigError(
            f"output_keys: {file.path} has no {', '.join(missing)}; it has {', '.join(dict.fromkeys(existing))}. "
            "What shall be carried through must be kept when the texts are embedded (keys_to_keep)."
        )


class _Work:
    """Scoring of one file."""

    def __init__(self, file: EmbeddingFile, final: Path, scorer: Scorer, params: AnnotationParameters) -> None:
        self._file, self._final, self._scorer, self._params = file, final, scorer, params
        scores = {f"{params.score_prefix}{column}" for column in scorer.columns}
        self._keys = [key for key in dict.fromkeys(params.output_keys) if key not in scores]
        self._partial = final.with_name(f".{final.name}.partial")
        self._progress = final.with_name(f".{final.name}.progress")
        self._record = final.parent / ".made" / f"{final.name}.json"
        """What the finished file was made from; a folder of its own keeps it out of the way of `*.jsonl`."""
        self._settings: dict[str, Any] = {
            "heads": {name: head_sha256(head) for name, head in scorer.heads.items()},
            "keys": self._keys,
            "vectors": _fingerprint(file),
            "compression": params.compression,
        }
        if params.score_prefix != "score_":  # what was written before there was a choice stays finished
            self._settings["score_prefix"] = params.score_prefix

    def is_finished(self, overwrite: bool) -> bool:
        """Return whether the output exists and was made with the same settings."""
        made = _read_json(self._record)
        if not self._final.exists():
            return False
        if made.get("settings") == self._settings and made.get("bytes") == self._final.stat().st_size:
            return True
        if overwrite:
            return False
        changed = sorted(
            name for name, value in self._settings.items() if (made.get("settings") or {}).get(name) != value
        )
        raise StaleStageError(
            f"{self._final} was made with other {', '.join(changed) or 'content'}, or by another program. "
            "Set overwrite: true to make it again, or choose another output_dir."
        )

    def run(self) -> None:
        """Score all rows, and publish the finished file."""
        start, size = self._resume()
        vectors, digest, ids = self._file.vectors(), hashlib.sha256(), ColumnHash()
        rows = self._params.batch_size
        for block in range(0, start, rows):  # the hash is of all vectors, and those are scored already
            stop = min(block + rows, start)
            digest.update(np.ascontiguousarray(vectors[block:stop]).data)
            ids.update(self._file.ids(block, stop))
        with self._partial.open("r+b" if size else "wb") as out, _bar(self._file.rows, self._final.name) as bar:
            out.truncate(size)
            out.seek(size)
            bar.update(start)
            safe = time.monotonic()
            for block in range(start, self._file.rows, rows):
                stop = min(block + rows, self._file.rows)
                rows_of_block = np.ascontiguousarray(vectors[block:stop])
                digest.update(rows_of_block.data)
                ids.update(self._file.ids(block, stop))
                out.write(self._lines(block, stop, rows_of_block))
                bar.update(stop - block)
                if time.monotonic() - safe > _SAFE_EVERY_S:
                    self._make_safe(out, stop)
                    safe = time.monotonic()
            if not self._file.rows and self._params.compression:
                out.write(gzip.compress(b"", mtime=0))  # nothing at all would be a damaged gzip file
            self._make_safe(out, self._file.rows)
            size = out.tell()
        expected = [self._file.attributes.get(name) for name in ("embeddings_sha256", "ids_sha256")]
        if self._file.is_ours and expected != [digest.hexdigest(), ids.hexdigest()]:
            self._discard()
            raise CorruptShardError(
                f"{self._file.path}: its vectors or ids do not match their checksums: the file is damaged. "
                "Make it again; nothing was written."
            )
        # The record of the new file must not be seen beside an older one of the same length.
        self._final.unlink(missing_ok=True)
        atomic_write_json(self._record, {"settings": self._settings, "rows": self._file.rows, "bytes": size})
        publish(self._partial, self._final)
        self.tidy()

    def tidy(self) -> None:
        """Remove the progress file, which a run may have left if it was killed."""
        self._progress.unlink(missing_ok=True)

    def _resume(self) -> tuple[int, int]:
        """Return the number of finished rows, and their size in bytes."""
        progress = _read_json(self._progress)
        size = progress.get("bytes", 0)
        if progress.get("settings") != sha256_of_json(self._settings) or not self._partial.exists():
            self._discard()
            return 0, 0
        whole = progress["rows"] % self._params.batch_size == 0 or progress["rows"] == self._file.rows
        return (progress["rows"], size) if whole and self._partial.stat().st_size >= size else (0, 0)

    def _discard(self) -> None:
        self._progress.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def _make_safe(self, out: Any, rows: int) -> None:
        out.flush()
        os.fsync(out.fileno())
        progress = {"settings": sha256_of_json(self._settings), "rows": rows, "bytes": out.tell()}
        atomic_write_json(self._progress, progress)

    def _lines(self, start: int, stop: int, vectors: Any) -> bytes:
        columns = {key: self._column(key, start, stop) for key in self._keys}
        try:
            scores = self._scorer.score(vectors)
        except ModelError as error:
            raise ModelError(f"{self._file.path}, rows {start} to {stop}: {error}") from error
        for name, values in scores.items():
            columns[f"{self._params.score_prefix}{name}"] = list(values)
        names = list(columns)
        lines = b"".join(_line(dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True))
        # Members of their own, so that the file can be cut after any of them.
        return gzip.compress(lines, 6, mtime=0) if self._params.compression else lines

    def _column(self, key: str, start: int, stop: int) -> list[Any]:
        if key in self._file.keys:
            return self._file.column(key, start, stop)
        if key in (*_ID_NAMES, self._params.document_id_key):
            return self._file.ids(start, stop)
        return list(self._file.labels(start, stop))


def _line(record: dict[str, Any]) -> bytes:
    """Encode a record as a JSON line: numbers with the fewest digits that restore them, null if they are not finite."""
    try:
        line: bytes = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a number of more than 64 bits, or half of a surrogate pair
        line = json.dumps(_plain(record)).encode() + b"\n"
    return line


def _plain(value: Any) -> Any:
    """Convert a value so that Python's `json` writes it as orjson would."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        value = float(str(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fingerprint(file: EmbeddingFile) -> Mapping[str, str]:
    """Identify the vectors and keys of a file by its recorded hashes, else by its size and modification time."""
    if file.is_ours:
        names = ("embeddings_sha256", "ids_sha256", "settings", "source_sha256")
        return {name: file.attributes.get(name, "") for name in names}
    stat = file.path.stat()
    return {"bytes": str(stat.st_size), "modified_ns": str(stat.st_mtime_ns)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _bar(rows: int, name: str) -> Any:
    return progress_bar(rows, f"scoring {name}", "row")
