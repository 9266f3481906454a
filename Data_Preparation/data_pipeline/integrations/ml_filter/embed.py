"""Embedding of a JSON Lines file to an HDF5 file, resumable at any position.

The file is read once before the computation, so that an invalid line fails after seconds and not after hours. Vectors
are written to a hidden file beside the output, from which a killed run resumes. The HDF5 file is written at the end
from the vectors and the records.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings import Embedder, Engine, Tokens, make_plan, spill, tokenize_with_prompt
from data_pipeline.embeddings.embed_to_file import PLANNED_ROWS, TOKENIZED_ROWS, FilePlan, Window, embed_to_file
from data_pipeline.embeddings.identity import with_recorded_probes
from data_pipeline.errors import ConfigError, CorruptShardError, SourceError, StaleStageError, StoreError
from data_pipeline.integrations.ml_filter.jobs import (
    EmbeddingParameters,
    embedding_config,
    stored_dtype,
    stored_label_dtype,
)
from data_pipeline.integrations.ml_filter.records import (
    InputFile,
    InputRecord,
    Survey,
    open_source,
    stored_value,
    survey,
)
from data_pipeline.store import Coding, EmbeddingShard, open_embedding_shard
from data_pipeline.store.embeddings import unfinished_metadata
from data_pipeline.store.hdf5 import Block, EmbeddingFile, Layout, write_embedding_file
from data_pipeline.utils import batched, exclusive, progress_bar, sha256_of_file, sha256_of_json

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 1024  # of HDF5, at a time


@dataclass(frozen=True)
class FileResult:
    """Result of processing one file."""

    rows: int
    skipped: bool
    """Whether an earlier run finished the file."""
    tokens: int = 0
    truncated: int = 0
    without_label: int = 0


def embed_file(
    path: Path, name: str, final: Path, embedder: Embedder, params: EmbeddingParameters, overwrite: bool = False
) -> FileResult:
    """Embed one file, resuming an interrupted run.

    Args:
        path: path of the JSON Lines file.
        name: name of the file in the output: relative to the input folder, without its ending.
        final: path of the HDF5 file.
        embedder: embedding model.
        params: parameters of the job.
        overwrite: whether to replace a file that was made with other settings or from another input.

    Raises:
        SourceError: a line is invalid, or a text is too long and truncation is off.
        StaleStageError: the output was made with other settings or from another input, and `overwrite` is false.
        StoreError: another process is writing the output.
        ModelError: a vector cannot be computed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(final):
        return _embed_file(path, name, final, embedder, params, overwrite)


def _embed_file(
    path: Path, name: str, final: Path, embedder: Embedder, params: EmbeddingParameters, overwrite: bool
) -> FileResult:
    attributes = {
        **embedder.identity.to_metadata(),
        "source": name,
        "source_sha256": sha256_of_file(path),
        "settings": sha256_of_json(params.deciding()),
        "package_version": version("elm-data-preparation"),
    }
    attributes = with_recorded_probes(attributes, _recorded(final, params.hdf5_dataset_name))
    finished_rows = _finished(final, params.hdf5_dataset_name, attributes, overwrite)
    if finished_rows is not None:
        _tidy(final)  # a run may have been killed just before it did
        return FileResult(finished_rows, skipped=True)
    source = open_source(path, name, params)
    surveyed = survey(source)
    if params.save_labels and surveyed.targets is None:
        logger.warning("%s: save_labels is on, and no record has a label", path)
    layout = _layout(surveyed, embedder, params, path)
    stored, engine = _vectors(source, surveyed, final, embedder, params, attributes, overwrite)
    write_embedding_file(final, params.hdf5_dataset_name, layout, attributes, _blocks(source, surveyed, stored))
    _tidy(final)
    if sha256_of_file(path) != attributes["source_sha256"]:
        final.unlink()
        raise SourceError(f"{path} was changed while it was being embedded. Run again.")
    tally = engine.tally
    return FileResult(
        surveyed.rows, False, tally.tokens, tally.truncated, surveyed.without_label if params.save_labels else 0
    )


def _recorded(final: Path, group: str) -> Mapping[str, str]:
    """Attributes of a finished file, or metadata of its vectors if it is not finished; empty if it was not begun."""
    try:
        if final.exists():
            with EmbeddingFile(final, group) as file:
                return file.attributes
        path = _vectors_path(final)
        return open_embedding_shard(path).metadata if path.exists() else unfinished_metadata(path)
    except StoreError:
        return {}  # what is damaged is reported, or made again, below


def _finished(final: Path, group: str, attributes: dict[str, str], overwrite: bool) -> int | None:
    """Return the number of rows of a finished file; None if it has to be made."""
    if not final.exists():
        return None
    try:
        with EmbeddingFile(final, group) as file:
            recorded = file.attributes
            rows = file.rows
    except CorruptShardError:
        if overwrite:
            return None
        raise
    changed = [name for name, value in attributes.items() if recorded.get(name) != value and name != "package_version"]
    if not changed:
        return rows
    if overwrite:
        return None
    changes = "; ".join(
        f"{name} was {recorded.get(name, 'not recorded')!r}, now {attributes[name]!r}" for name in changed
    )
    raise StaleStageError(
        f"{final} was made with other settings or from another input ({changes}). "
        "Set overwrite: true to make it again, or choose another embedding_dir."
    )


def _layout(surveyed: Survey, embedder: Embedder, params: EmbeddingParameters, path: Path) -> Layout:
    labels = None
    if surveyed.targets is not None:
        dtype = np.dtype(stored_label_dtype(params))
        if dtype.kind == "i" and surveyed.without_label:
            raise ConfigError(
                f"{path}: {surveyed.without_label} of {surveyed.rows} records have no label, and {dtype} has no value "
                "for that. Use label_dtype: float32."
            )
        labels = dtype, surveyed.targets
    return Layout(
        rows=surveyed.rows,
        dim=embedder.identity.dim,
        dtype=np.dtype(stored_dtype(params)),
        keys=surveyed.keys,
        labels=labels,
        compression=params.compression,
    )


def _vectors(
    source: InputFile,
    surveyed: Survey,
    final: Path,
    embedder: Embedder,
    params: EmbeddingParameters,
    attributes: dict[str, str],
    overwrite: bool,
) -> tuple[EmbeddingShard, Engine]:
    """Compute all vectors of a file, stored in a hidden file."""
    path = _vectors_path(final)
    coding = Coding(stored_dtype(params))
    # Settings that do not decide the vectors may change between two runs.
    metadata = {name: value for name, value in attributes.items() if name not in {"settings", "package_version"}}
    metadata["texts"] = sha256_of_json([params.keys_to_index, params.text_field])
    engine = Engine(embedder, embedding_config(params).batch_tokens, params.batch_size)
    if path.exists() and _is_complete(path, surveyed.rows, metadata):
        return open_embedding_shard(path), engine
    file = FilePlan(
        path,
        surveyed.rows,
        coding,
        metadata,
        row_name=partial(_name, source),
        float16_advice="Use embedding_dtype: float32.",
    )
    with progress_bar(surveyed.rows, f"Embedding {source.name}", "row") as bar:
        embed_to_file(
            file,
            _windows(source, engine, final.parent, params),
            engine,
            advance=bar.update,
            flush_rows=params.writer_batch_size,
            overwrite=overwrite,
        )
    return open_embedding_shard(path), engine


def _vectors_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.vectors")


def _tidy(final: Path) -> None:
    """Remove the hidden files of a finished file."""
    vectors = _vectors_path(final)
    vectors.unlink(missing_ok=True)
    vectors.with_name(f".{vectors.name}.progress").unlink(missing_ok=True)


def _is_complete(path: Path, rows: int, metadata: dict[str, str]) -> bool:
    try:
        shard = open_embedding_shard(path)
    except StoreError:
        return False
    return shard.rows == rows and metadata.items() <= shard.metadata.items()


def _windows(source: InputFile, engine: Engine, folder: Path, params: EmbeddingParameters) -> Iterator[Window]:
    """Iterate over the windows of all texts."""
    prompt = engine.embedder.identity.prompt
    records = source.records()
    start = 0
    while first := list(itertools.islice(records, 1)):
        window = itertools.chain(first, itertools.islice(records, PLANNED_ROWS - 1))
        texts = ([record.text for record in batch] for batch in batched(window, TOKENIZED_ROWS))
        tokens = spill((tokenize_with_prompt(engine.embedder, batch, prompt) for batch in texts), folder)
        _check_lengths(tokens, start, source, params)
        engine.tally.truncated += int(tokens.truncated.sum())
        yield Window(np.arange(start, start + len(tokens)), partial(make_plan, tokens))
        start += len(tokens)


def _check_lengths(tokens: Tokens, start: int, source: InputFile, params: EmbeddingParameters) -> None:
    cut = params.truncation is not False and params.truncation != "do_not_truncate"
    if cut or not tokens.truncated.any():
        return
    name = _name(source, start + int(np.flatnonzero(tokens.truncated)[0]))
    raise SourceError(
        f"{source.path}: {int(tokens.truncated.sum())} texts are longer than the model takes, the first is {name}, "
        "and truncation is off. Set truncation: true, or cut them yourself."
    )


def _name(source: InputFile, row: int) -> str:
    """Return the id of a row for a message; reads the file up to it."""
    return next(itertools.islice(source.records(), row, None)).id


def _blocks(source: InputFile, surveyed: Survey, stored: EmbeddingShard) -> Iterator[Block]:
    start = 0
    for records in batched(source.records(), _BLOCK_ROWS):
        yield Block(
            ids=[record.id for record in records],
            vectors=stored.stored[start : start + len(records)],
            columns={
                key: [stored_value(record, key, plain) for record in records] for key, plain in surveyed.keys.items()
            },
            labels=_labels(records, surveyed, source),
        )
        start += len(records)


def _labels(records: list[InputRecord], surveyed: Survey, source: InputFile) -> NDArray[np.float64] | None:
    if surveyed.targets is None:
        return None
    missing: float | list[float] = [np.nan] * surveyed.targets if surveyed.targets else np.nan
    labels = np.array([missing if record.label is None else record.label for record in records], np.float64)
    if source.params.label_dtype.startswith("int"):
        _check_whole(labels, records, source)
    return labels


def _check_whole(labels: NDArray[np.float64], records: list[InputRecord], source: InputFile) -> None:
    limits = np.iinfo(source.params.label_dtype)
    rows = labels.reshape(len(labels), -1)
    bad = ~((rows == np.floor(rows)) & (rows >= limits.min) & (rows <= limits.max)).all(axis=1)
    if bad.any():
        record = records[int(np.flatnonzero(bad)[0])]
        raise ConfigError(
            f"{source.path}, document {record.id}: the label {record.label} cannot be stored as "
            f"{source.params.label_dtype}. Use label_dtype: float32."
        )
