"""Evaluation sets that a corpus is decontaminated against: files, BEIR folders, processed folders, hub datasets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.download.corpus import SPLIT_NAMES
from data_pipeline.download.hub_records import load_splits, read_rows
from data_pipeline.download.records import JSON_LINES, PARQUET
from data_pipeline.errors import RecordError, SourceError
from data_pipeline.store.paragraphs import ParagraphStore
from data_pipeline.types import EvaluationItem, EvaluationSet
from data_pipeline.user_files import ListedFile, checked_id, checked_text, find_field, list_inputs, read_records
from data_pipeline.utils import shortened
from data_pipeline.utils.hub import resolve_commit
from data_pipeline.utils.urls import is_url, without_secrets

_SETTING = "decontamination.paths"
_HUB = "hf://datasets/"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_ID_FIELDS = ("_id", "id", "text_id", "query_id")
_ENDINGS = (*JSON_LINES, *PARQUET)
_TIMEOUT_S = 10.0
_MISSING = object()


def open_evaluation_sets(config: DecontaminationConfig) -> list[EvaluationSet]:
    """Open the evaluation sets that a config names, and compute their identities.

    Raises:
        SourceError: a file, folder or dataset does not exist or cannot be read.
    """
    return [_open(path, config) for path in config.paths]


def _open(name: str, config: DecontaminationConfig) -> EvaluationSet:
    path = Path(name).expanduser()
    if name.startswith(_HUB) and _HUB_NAME.fullmatch(name.removeprefix(_HUB)):
        return _open_hub(name.removeprefix(_HUB), config)
    if path.is_file() or is_url(name):
        return _open_files(name, list_inputs([name], _ENDINGS, _SETTING), config)
    if not path.is_dir():
        if _HUB_NAME.fullmatch(name):
            return _open_hub(name, config)
        raise SourceError(f"{_SETTING}: no such file or folder: {name}, and it is not a dataset of the hub either")
    processed = [path] if _is_processed(path) else [folder for folder in path.glob("*_processed") if folder.is_dir()]
    if len(processed) > 1:
        raise SourceError(f"{_SETTING}: {name} has {len(processed)} processed folders, expected one. Name one of them.")
    if processed:
        return _open_processed(name, processed[0], config)
    beir = [(path / f"{stem}{ending}", stem) for stem in ("queries", "corpus") for ending in JSON_LINES]
    existing = {stem: file for file, stem in reversed(beir) if file.is_file()}
    if existing:
        missing = [stem for stem in config.beir_files if stem not in existing]
        if missing:
            raise SourceError(
                f"{_SETTING}: {name} has no {missing[0]}.jsonl, which decontamination.beir_files names; it has "
                f"{', '.join(file.name for file in existing.values())}"
            )
        return _open_files(
            name, [ListedFile(existing[stem], existing[stem].name) for stem in config.beir_files], config
        )
    return _open_files(name, list_inputs([name], _ENDINGS, _SETTING), config)


def _is_processed(folder: Path) -> bool:
    return folder.name.endswith("_processed") or (folder / "dropped.parquet").is_file()


def _open_files(name: str, files: Sequence[ListedFile], config: DecontaminationConfig) -> EvaluationSet:
    def items() -> Iterator[EvaluationItem]:
        for listed in files:
            for record in read_records(listed.file):
                yield from _item(record.values, config, listed.name, record.number, record.where)

    return EvaluationSet(without_secrets(name), {listed.name: listed.identity for listed in files}, items)


def _open_processed(name: str, folder: Path, config: DecontaminationConfig) -> EvaluationSet:
    store = ParagraphStore(folder)
    splits = [split for split in store.splits if split in config.splits]
    if not splits:
        raise SourceError(
            f"{_SETTING}: {folder} has the splits {', '.join(store.splits)}, and decontamination.splits names "
            f"{', '.join(config.splits)}"
        )

    def items() -> Iterator[EvaluationItem]:
        for split in splits:
            for batch, _ in store.live_batches(split, ["text_id", "text"]):
                for text_id, text in zip(batch["text_id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                    yield EvaluationItem(f"{folder.name}/{split}:{text_id}", (text,))

    identity = {f"{folder.name}/{split}": store.rows_sha256(split) for split in splits}
    return EvaluationSet(name, identity, items)


def _open_hub(name: str, config: DecontaminationConfig) -> EvaluationSet:
    repository, _, revision = name.partition("@")
    commit = resolve_commit(repository, "dataset", revision or None, _TIMEOUT_S)

    def items() -> Iterator[EvaluationItem]:
        splits = load_splits(repository, config.hub_config, commit, revision or None, "decontamination")
        chosen = [split for split in splits if SPLIT_NAMES.get(split.lower()) in config.splits]
        if not chosen:
            raise SourceError(
                f"{_SETTING}: {repository} has the splits {', '.join(splits)}, and decontamination.splits names "
                f"{', '.join(config.splits)}"
            )
        for split in chosen:
            for number, values in enumerate(read_rows(splits[split], repository, split), start=1):
                where = f"{repository}, {split}, row {number}"
                yield from _item(values, config, f"{repository}/{split}", number, where)

    identity = {repository: commit or revision or "cached", "config": config.hub_config or ""}
    return EvaluationSet(name, identity, items)


def _item(
    values: Mapping[str, Any], config: DecontaminationConfig, name: str, number: int, where: str
) -> Iterator[EvaluationItem]:
    """Return the item of a record; none if all its texts are empty."""
    texts: list[str] = []
    has_field = False
    for field in config.text_fields:
        value = find_field(values, field, _MISSING)
        if value is _MISSING:
            continue
        has_field = True
        parts = value if isinstance(value, list) else [value]
        texts += [checked_text(part, field, where) for part in parts if part is not None]
    if not has_field:
        raise RecordError(
            f"{where}: there is no field {' or '.join(map(repr, config.text_fields))}; it has "
            f"{shortened(', '.join(map(str, values)) or 'none')}. Set decontamination.text_fields.",
            "missing_field",
        )
    if texts := [text for text in texts if text.strip()]:
        yield EvaluationItem(f"{name}:{_identity(values, config, number, where)}", tuple(texts))


def _identity(values: Mapping[str, Any], config: DecontaminationConfig, number: int, where: str) -> str:
    if config.id_field is not None:
        return checked_id(find_field(values, config.id_field), config.id_field, where)
    name = next((name for name in _ID_FIELDS if values.get(name) is not None), None)
    return str(number) if name is None else checked_id(values[name], name, where)
