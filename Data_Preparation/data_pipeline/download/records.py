"""Your own records: JSON Lines (plain, .gz, .zst) and parquet, one document a record."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import SPLIT_NAMES, Corpus, content_hash, files_under, split_of_file
from data_pipeline.errors import SourceError
from data_pipeline.types import Document, MetadataValue
from data_pipeline.utils import encodable, sha256_of_file

_TYPES: Mapping[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_BLOCK_BYTES = 1 << 20


def open_jsonl(config: CorpusConfig) -> Corpus:
    """JSON Lines, one object a line; a folder is read file by file, sorted by name."""
    return _open(config, files_under(config.path, (".jsonl", ".jsonl.gz", ".jsonl.zst"), "jsonl"), _json_documents)


def open_parquet(config: CorpusConfig) -> Corpus:
    """Parquet, one document a row; a folder is read file by file, sorted by name."""
    return _open(config, files_under(config.path, (".parquet",), "parquet"), _parquet_records)


def _open(config: CorpusConfig, files: list[Path], read: Any) -> Corpus:
    def documents() -> Iterator[Document]:
        for path in files:
            file_split = split_of_file(path)
            for number, record in read(path, config):
                yield _document(record, config, file_split, f"{path}, record {number}")

    root = config.path if config.path and config.path.is_dir() else files[0].parent
    return Corpus(
        description=f"{len(files)} {config.source} file{'s' if len(files) > 1 else ''} in {config.path}",
        identity={str(path.relative_to(root)): sha256_of_file(path) for path in files},
        documents=documents,
        metadata=config.metadata_fields,
    )


def _json_documents(path: Path, config: CorpusConfig) -> Iterator[tuple[int, Mapping[str, Any]]]:
    del config
    return json_records(path)


def json_records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and objects of a JSON Lines file, plain, .gz or .zst; empty lines are left out.

    Raises:
        SourceError: the file cannot be read, or a line is not a JSON object.
    """
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    number = 0
    try:
        with pa.input_stream(str(path), compression=compression, buffer_size=_BLOCK_BYTES) as stream:
            for number, line in enumerate(_lines(stream), start=1):
                if not line.strip():
                    continue
                yield number, _json_object(line, f"{path}, line {number}")
    except OSError as error:
        raise SourceError(f"{path} cannot be read after line {number}: {error}") from error


def _json_object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not JSON: {error}. Repair or remove that line.") from error
    if not isinstance(record, dict):
        raise SourceError(f"{where}: expected a JSON object, found {line[:40]!r}")
    return record


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _parquet_records(path: Path, config: CorpusConfig) -> Iterator[tuple[int, Mapping[str, Any]]]:
    named = (config.text_field, config.id_field, config.title_field, config.split_field, *config.metadata_fields)
    columns = list(dict.fromkeys(name for name in named if name))
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise SourceError(f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as parquet after row {number}: {error}") from error


def _document(record: Mapping[str, Any], config: CorpusConfig, file_split: str, where: str) -> Document:
    text = _field(record, config.text_field, str, where)
    if text is None:
        raise SourceError(f"{where}: the field {config.text_field!r} is empty; remove the record or give it a text")
    if config.id_field:
        given = record.get(config.id_field)
        if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
            raise SourceError(f"{where}: the id {config.id_field!r} must be a text or a whole number, found {given!r}")
        identity = str(given)
        if not identity.isprintable():
            raise SourceError(f"{where}: the id {identity!r} has control characters")
    else:
        identity = content_hash(text, 20)
    split = file_split
    if config.split_field:
        name = str(_field(record, config.split_field, str, where)).lower()
        if name not in SPLIT_NAMES:
            raise SourceError(f"{where}: {config.split_field!r} is {name!r}, expected one of {', '.join(SPLIT_NAMES)}")
        split = SPLIT_NAMES[name]
    title = _field(record, config.title_field, str, where) if config.title_field else ""
    return Document(
        id=identity,
        text=text,
        title=title or "",
        source_split=split,
        metadata={name: _field(record, name, _TYPES[kind], where) for name, kind in config.metadata_fields.items()},
    )


def _field(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """The value of a field, None for null; a whole number also serves as a float.

    Half of a surrogate pair, which JSON can spell and no file can hold, becomes U+FFFD.
    """
    if name not in record:
        raise SourceError(f"{where}: there is no field {name!r}; it has {', '.join(map(str, record)) or 'none'}")
    value: MetadataValue = record[name]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SourceError(f"{where}: the field {name!r} must fit in 64 bits, found {str(value)[:40]}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if value is not None and type(value) is not kind:
        raise SourceError(f"{where}: the field {name!r} must be {kind.__name__}, found {value!r}")
    return encodable(value) if isinstance(value, str) else value
