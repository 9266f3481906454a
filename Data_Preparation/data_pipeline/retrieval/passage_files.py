"""Passages from users' files: JSON Lines and parquet, whole records or windows of tokens.

They are copied to an uncompressed Arrow file, which is memory-mapped from then on. Its name holds a hash of the files
and settings, so that changed files make another copy.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tokenizers import Tokenizer

from data_pipeline.config.retrieval import PassagesConfig
from data_pipeline.download.records import JSON_LINES, PARQUET
from data_pipeline.errors import CorruptShardError, SourceError
from data_pipeline.preprocess.chunking import Chunker
from data_pipeline.retrieval.passages import SCHEMA, Passages
from data_pipeline.store import ColumnHash
from data_pipeline.store.access.text_columns import make_once
from data_pipeline.user_files import checked_id, checked_text, list_files, read_records, take_field
from data_pipeline.utils import atomic_write_json, batched, converted_errors, sha256_of_file, sha256_of_json

_FORMAT = 2  # format 1 identified files by their names without folders
_SUFFIXES = (*JSON_LINES, *PARQUET)
_BATCH_ROWS = 16_384


class PassageRecord(NamedTuple):
    """Record of a file: a passage, or a document to be cut into passages."""

    id: str
    text: str
    document: str
    """Id of the document."""
    has_title: bool = False
    """Whether the record has the field of the title, which may be empty."""


def passages_of_file(path: Path, work_dir: Path, config: PassagesConfig | None = None) -> Passages:
    """Read passages from JSON Lines (also .gz, .zst) or parquet, one per record.

    Args:
        path: a file, or a folder whose files are read in the order of their names.
        work_dir: folder of the memory-mapped copy; can be deleted at any time.
        config: names of the fields; see `PassagesConfig`.

    Raises:
        SourceError: a file cannot be read, a record has no id or text, or two records have the same id.
    """
    config = config or PassagesConfig()

    def read_rows() -> Iterator[tuple[Any, ...]]:
        for record in passage_records(path, config):
            yield record.id, record.text, record.document, None, None

    return _open_copy(path, work_dir, config.deciding_whole(), read_rows)


def passages_of_documents(
    path: Path, work_dir: Path, tokenizer: Tokenizer, config: PassagesConfig | None = None
) -> Passages:
    """Read documents from JSON Lines or parquet, and cut them into overlapping windows of tokens.

    The id of a passage is `<document>_chunk_<n>`, with n from 0. Its position in the document's characters is stored,
    so that `Passages.neighbours` can tell which passages overlap. A title is cut like the text that follows it.

    Args:
        path: a file, or a folder whose files are read in the order of their names.
        work_dir: folder of the memory-mapped copy; can be deleted at any time.
        tokenizer: tokenizer whose tokens are counted.
        config: names of the fields and sizes of the windows; see `PassagesConfig`.

    Raises:
        SourceError: see `passages_of_file`.
    """
    config = config or PassagesConfig()
    chunker = Chunker(tokenizer, config.window_tokens, config.stride_tokens)
    key = config.deciding_cut() | {"tokenizer": sha256_of_json(tokenizer.to_str())}

    def read_rows() -> Iterator[tuple[Any, ...] | None]:
        return _cut(passage_records(path, config), chunker, config.min_tokens)

    return _open_copy(path, work_dir, key, read_rows)


def passage_records(path: Path, config: PassagesConfig) -> Iterator[PassageRecord]:
    """Read the records of a file or folder, in order.

    Raises:
        SourceError: see `passages_of_file`; or no record has the field of the title.
    """
    count = with_title = 0
    fields = (config.id_field, config.text_field, config.title_field, config.document_field)
    for file in list_files(path, _SUFFIXES, "passages.path"):
        for record in read_records(file, [name for name in fields if name]):
            passage = _to_passage_record(record.values, config, record.where)
            count += 1
            with_title += passage.has_title
            yield passage
    if config.title_field and count and not with_title:
        raise SourceError(
            f"passages.title_field: none of the {count:,} records of {path} has a field {config.title_field!r}; name "
            "the field with the title, or leave title_field out"
        )


def _open_copy(
    path: Path, work_dir: Path, key: Mapping[str, Any], rows: Callable[[], Iterator[tuple[Any, ...] | None]]
) -> Passages:
    root = path if path.is_dir() else path.parent
    listed = list_files(path, _SUFFIXES, "passages.path")
    files = {file.relative_to(root).as_posix(): sha256_of_file(file) for file in listed}
    name = sha256_of_json([_FORMAT, files, key])[:20]
    copy = work_dir / f"passages-{sha256_of_json(str(path.resolve()))[:8]}.{name}.arrow"
    about = copy.with_name(f"{copy.name}.json")
    make_once(copy, path.name, partial(_write, rows, about))
    failures, advice = (OSError, ValueError, pa.ArrowException), "Delete it; it will be written again."
    with converted_errors(failures, CorruptShardError, f"{copy} cannot be read", advice):
        table = pa.ipc.open_file(pa.memory_map(str(copy))).read_all()
        facts: dict[str, Any] = json.loads(about.read_bytes()) if about.exists() else {}
    if table.schema != SCHEMA:
        raise CorruptShardError(f"{copy} has the columns {table.schema.names}, expected {SCHEMA.names}. {advice}")
    return Passages(table, str(path), facts.get("fingerprint"), left_out=facts.get("left_out"))


def _write(rows: Callable[[], Iterator[tuple[Any, ...] | None]], about: Path, temporary: Path) -> None:
    """Write passages, their fingerprint, and the number of windows that were too short."""
    ids, texts, short = ColumnHash(), ColumnHash(), 0

    def passages() -> Iterator[tuple[Any, ...]]:
        nonlocal short
        for row in rows():
            if row is None:
                short += 1
            else:
                yield row

    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batched(passages(), _BATCH_ROWS):
            columns = [
                pa.array(values, kind) for values, kind in zip(zip(*batch, strict=True), SCHEMA.types, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
            ids.update(columns[0].to_pylist())
            texts.update(columns[1].to_pylist())
    # Before the copy gets its name: a complete copy without it would lack its fingerprint.
    fingerprint = sha256_of_json([ids.hexdigest(), texts.hexdigest()])
    atomic_write_json(about, {"fingerprint": fingerprint, "left_out": {"too_short": short} if short else {}})


def _cut(records: Iterable[PassageRecord], chunker: Chunker, min_tokens: int) -> Iterator[tuple[Any, ...] | None]:
    """Cut documents into windows, as rows; None for each window that is too short."""
    records, copies = tee(records)
    for record, chunks in zip(records, chunker.chunk_all(record.text for record in copies), strict=True):
        for chunk in chunks:
            if chunk.tokens < min_tokens:
                yield None
                continue
            text = record.text[chunk.start : chunk.end]
            yield f"{record.id}_chunk_{chunk.number}", text, record.id, chunk.start, chunk.end


def _to_passage_record(record: Mapping[str, Any], config: PassagesConfig, where: str) -> PassageRecord:
    identity = checked_id(take_field(record, config.id_field, where), config.id_field, where)
    text = checked_text(take_field(record, config.text_field, where), config.text_field, where)
    has_title = config.title_field is not None and config.title_field in record
    if config.title_field and record.get(config.title_field) is not None:
        title = checked_text(record[config.title_field], config.title_field, where)
        text = f"{title}\n{text}" if title and text else title or text
    document = identity
    if config.document_field and record.get(config.document_field) is not None:
        document = checked_id(record[config.document_field], config.document_field, where)
    return PassageRecord(identity, text, document, has_title)
