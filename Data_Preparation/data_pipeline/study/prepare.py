"""The stage `prepare`: store a labelled dataset with embeddings, every row unchanged and in order.

The dev rows become the split `val`. They are embedded like the others, and read when a model is evaluated.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import SourceError, StaleStageError
from data_pipeline.execution.run import run_pipeline
from data_pipeline.stages.features import Texts
from data_pipeline.study.config import LABEL, DataConfig, StudyConfig
from data_pipeline.types import Split
from data_pipeline.user_files.tables import Role, read_table
from data_pipeline.utils import atomic_write_json, encodable, exclusive, published, sha256_of_file, shortened, shown
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, resolve_commit

_SPLITS: dict[str, Split] = {"train": "train", "dev": "val"}
_HUB_SPLITS = {"train": "train", "dev": "validation"}
_HUB_TIMEOUT_S = 10.0
_TEXT_COLUMNS = ("text", "sentence")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and labels of a split, in memory."""

    texts: Sequence[str]
    labels: Sequence[int]
    source: str
    """File or dataset, for messages."""


def prepare(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Store the dataset with its embeddings. Finished work is skipped.

    Args:
        config: Its sections paths, data and embedding.
        overwrite: Replace existing results of other data or of another embedder.

    Returns:
        Rows by split (`train`, `dev`), classes, and the folders.

    Raises:
        SourceError: The data cannot be read, a text or label is invalid, or a row was lost.
        StaleStageError: The folder was made from other data or with another embedder, and `overwrite` is off.
    """
    folder = config.records_dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        source = _write_records(config.data, folder, overwrite)
    job = config.pipeline_config
    report = run_pipeline(job, overwrite=overwrite)
    assert report.manifest is not None
    rows = {name: report.manifest["splits"][split]["rows"] for name, split in _SPLITS.items()}
    if rows != source["rows"]:
        raise SourceError(f"rows were lost: {job.processed_dir} has {rows}, expected {source['rows']} as in {folder}")
    if not report.preprocess_skipped:
        _check_unchanged(config)
    return {
        "rows": rows,
        "classes": source["classes"],
        "skipped": report.preprocess_skipped and all(result.skipped for result in report.embeddings.values()),
        "paragraphs": str(job.processed_dir),
        "embeddings": str(job.embeddings_dir),
    }


def _write_records(data: DataConfig, folder: Path, overwrite: bool) -> dict[str, Any]:
    """Write `train.jsonl` and `dev.jsonl`, and last `source.json`, which records the data they were made from."""
    settings = data.deciding()
    for name in _SPLITS:
        path = getattr(data, name)
        if path is not None and not path.is_file():
            raise SourceError(f"data.train, data.dev: no such file: {path}")
        if path is not None:
            settings[name] = sha256_of_file(path)
    about = folder / "source.json"
    if about.is_file() and not overwrite:
        existing: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
        if existing["settings"] != settings:
            raise StaleStageError(
                f"{folder} was made from other data:\n  was {existing['settings']}\n  now {settings}\n"
                "Replace it with overwrite, or set another data.name to keep both."
            )
        return existing
    commit = None
    if data.train is None:
        commit = resolve_commit(data.dataset, "dataset", data.revision, _HUB_TIMEOUT_S)
    tables = {name: _read(data, name, commit) for name in _SPLITS}
    classes = sorted(set(tables["train"].labels))
    if unknown := sorted(set(tables["dev"].labels) - set(classes)):
        raise SourceError(f"{tables['dev'].source} has labels that no training row has: {unknown}; expected {classes}")
    about.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        _write_jsonl(folder / f"{name}.jsonl", name, table)
    rows = {name: len(table.texts) for name, table in tables.items()}
    written = {"settings": settings, "commit": commit, "rows": rows, "classes": classes}
    atomic_write_json(about, written)
    return written


def _write_jsonl(path: Path, name: str, table: LabelledTexts) -> None:
    with published(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row, (text, label) in enumerate(zip(table.texts, table.labels, strict=True)):
            file.write(json.dumps({"id": f"{name}-{row:07d}", "text": text, LABEL: label}, ensure_ascii=False) + "\n")


def _read(data: DataConfig, name: str, commit: str | None) -> LabelledTexts:
    path: Path | None = getattr(data, name)
    text_columns = (data.text_column,) if data.text_column else _TEXT_COLUMNS
    # Texts are read verbatim: "null", "n/a" and "1984" are texts like any other.
    roles: dict[str, Role] = {**dict.fromkeys(text_columns, "text"), data.label_column: "value"}
    table = read_table(_load_from_hub(data, name, commit) if path is None else path, roles)
    where = f"{data.dataset} {_HUB_SPLITS[name]}" if path is None else table.where
    text = next((column for column in text_columns if column in table.names), None)
    if text is None or data.label_column not in table.names:
        raise SourceError(
            f"{where} must have the columns {' or '.join(text_columns)}, and {data.label_column}; it has "
            f"{shortened(', '.join(table.names))}. Name them with data.text_column and data.label_column"
        )
    texts, labels = table.frame[text].to_list(), table.frame[data.label_column].to_list()
    for row, (content, label) in enumerate(zip(texts, labels, strict=True)):
        location = table.place(row) if path is not None else f"{where}, row {row + 1}"
        _check_text(content, location)
        labels[row] = _whole_number(label, location)
    if not texts:
        raise SourceError(f"{where} has no rows")
    return LabelledTexts([encodable(content) for content in texts], labels, where)


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise SourceError(f"{where}: expected a text, found {shown(text)}")
    if any(not line.strip() for line in text.split("\n")):
        raise SourceError(
            f"{where}: {text[:60]!r} has a blank line, or only white space. A row must be one text without such lines"
        )


def _whole_number(label: Any, where: str) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or str(label).strip() not in {str(number), f"{number}.0"}:
        raise SourceError(
            f"{where}: a label must be a whole number from 0, found {shown(label)}. Leave unlabelled rows out"
        )
    return number


def _load_from_hub(data: DataConfig, name: str, commit: str | None) -> pl.DataFrame:
    # Imported here: `datasets` takes a second to import, and files do not need it.
    import datasets

    try:
        split = datasets.load_dataset(data.dataset, split=_HUB_SPLITS[name], revision=commit or data.revision)
    except ValueError as error:
        raise SourceError(f"{data.dataset} has no split {_HUB_SPLITS[name]!r}: {error}") from error
    except TRANSPORT_ERRORS as error:
        raise SourceError(
            f"could not download {data.dataset}: {error}. {OFFLINE_HINT}, or give files: data.train=... data.dev=..."
        ) from error
    return pl.DataFrame({column: split[column][:] for column in split.column_names})


def _check_unchanged(config: StudyConfig) -> None:
    """Check that every text and label in the store is the one that was read, in order."""
    for name, split in _SPLITS.items():
        path = config.records_dir / f"{name}.jsonl"
        dataset = ELMDataset(split=split, load_embeddings=False, config=config.pipeline_config)
        stored = zip(Texts(dataset.rows), dataset.metadata[LABEL].to_list(), strict=True)
        with path.open(encoding="utf-8", newline="\n") as lines:
            for row, (line, stored_pair) in enumerate(zip(lines, stored, strict=True)):
                record = json.loads(line)
                if (record["text"], record[LABEL]) != stored_pair:
                    raise SourceError(
                        f"{path}, line {row + 1}: {record['text']!r} was stored as {stored_pair[0]!r}. This is a bug; "
                        "please report it with the text."
                    )
