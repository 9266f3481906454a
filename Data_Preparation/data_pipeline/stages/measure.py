"""Measures computed into our stores: `data/scores/<name>/`, beside the scores of heads.

A measure is kept with all that decides its numbers. The same one is computed once; another one under the same name is
refused unless it is to be replaced, and none touches the folders of others.
"""

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from data_pipeline.config import Config, FolderName, Section, explain
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.metrics.base import Columns, Measure
from data_pipeline.stages.features import features_of
from data_pipeline.stages.score_files import ScoreStage
from data_pipeline.store import fingerprint, read_manifest_to_replace
from data_pipeline.types import IntArray, Split
from data_pipeline.utils import atomic_write_bytes, exclusive, sha256_of_json

_PART_ROWS = 16_384  # of work that a killed run does not do again: many for a model that must be loaded each time
_HOW_COMPUTED = {
    "batch_tokens", "device", "base_url", "api_key_env", "timeout_s", "slots", "tries", "backoff_s", "max_backoff_s",
    "max_retry_after_s", "max_calls", "breaker_window", "breaker_share", "flush_s", "flush_answers",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What became of a split."""

    rows: int
    columns: list[str]
    skipped: bool
    """It was there before."""


def measure(
    config: Config,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    splits: Sequence[Split] = ("train",),
    called: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> dict[Split, Measured]:
    """Compute a measure of a corpus, and keep it as score columns.

    Args:
        config: its folders, corpus and variant.
        name: of the measure, see `MEASURES`.
        parameters: of the measure.
        splits: which ones; each for itself.
        called: name of the folder, and of the column (or the beginning of several columns' names); None for the
            measure's own. Two models' perplexities need two names.
        label: column with the class, for measures that look at it.
        overwrite: replace what was made under the name with other settings.

    Raises:
        ConfigError: there is no such measure or parameter, or a column of that name is there already.
        StaleStage: the name is taken by other settings, and not `overwrite`.
        SelectionError, ModelError, StoreError, MissingExtra: it cannot be computed.
    """
    found, settings = configured_measure(name, parameters)
    called = called or name
    try:
        TypeAdapter(FolderName).validate_python(called)
    except ValidationError as error:
        raise ConfigError(f"{called!r} names a folder: {error.errors()[0]['msg']}") from None
    with exclusive(config.scores_dir):
        read_manifest_to_replace(config.scores_dir / called, overwrite)
        return {
            split: _measure_split(config, name, found, settings, split, called, label, overwrite) for split in splits
        }


def configured_measure(name: str, parameters: Mapping[str, Any] | None) -> tuple[Measure, Section]:
    """A measure and its parameters, checked.

    Raises:
        ConfigError: there is no such measure or parameter, or a value cannot be.
    """
    from data_pipeline.metrics.registry import MEASURES

    if name not in MEASURES:
        raise ConfigError(f"there is no measure {name!r}; there are {', '.join(sorted(MEASURES))}")
    found = MEASURES[name]
    try:
        return found, found.config.model_validate(dict(parameters or {}))
    except ValidationError as error:
        raise ConfigError(f"parameters of {name}:\n{explain(error)}") from None


def column_names(measure: Measure, name: str, called: str) -> dict[str, str]:
    """The measure's own columns -> those in the store."""
    if called == name:
        return {column: column for column in measure.columns}
    if len(measure.columns) == 1:
        return {measure.columns[0]: called}
    return {column: f"{called}_{column}" for column in measure.columns}


def _measure_split(
    config: Config,
    name: str,
    found: Measure,
    settings: Section,
    split: Split,
    called: str,
    label: str | None,
    overwrite: bool,
) -> Measured:
    vectors = "embeddings" in found.needs
    dataset = ELMDataset(split=split, load_embeddings=vectors, config=config, scores=_others(config, split, called))
    source, names = dataset.rows.source, column_names(found, name, called)
    if clash := set(names.values()) & {*dataset.rows.names, "embedding"}:
        raise ConfigError(f"there is a column {', '.join(sorted(clash))} already; give the measure another name (--as)")
    kept = {"measure": name, **_kept_settings(found, settings, dataset, label)}
    stage = ScoreStage(
        config.scores_dir / called, split, dict.fromkeys(names.values(), pa.float64()), kept, source.fingerprint(),
        source.corpus, source.paragraphs,
    )  # fmt: skip
    if stage.is_finished(overwrite):
        return Measured(len(dataset), list(names.values()), skipped=True)
    work = _Work(dataset, found, settings, label, _parts_folder(stage))
    start = 0
    for index, shard in enumerate(source.paragraphs):
        rows = np.arange(start, start + shard.rows)
        if not stage.is_written(index):
            columns = work.columns(rows)
            if not kept["gaps"]:
                _check_finite(dataset, rows, columns)
            _write(stage, index, dataset, rows, {names[column]: values for column, values in columns.items()})
        start += shard.rows
    if work.parts.exists():
        shutil.rmtree(work.parts)
    stage.finish()
    return Measured(len(dataset), list(names.values()), skipped=False)


def _parts_folder(stage: ScoreStage) -> Path:
    """Where finished parts of a file lie until it is whole."""
    return stage.folder / f".parts-{stage.split}-{fingerprint(stage.settings, stage.upstream)[:20]}"


@dataclass(frozen=True)
class _Work:
    """A measure of a split, being computed."""

    dataset: ELMDataset
    measure: Measure
    settings: Section
    label: str | None
    parts: Path

    def columns(self, rows: IntArray) -> Columns:
        """Of some rows, which follow each other."""
        if not self.measure.row_by_row:
            return {column: values[rows] for column, values in self._whole.items()}
        starts = range(0, len(rows), _PART_ROWS)
        parts = [self._part(rows[start : start + _PART_ROWS]) for start in starts]
        return {column: np.concatenate([part[column] for part in parts]) for column in self.measure.columns}

    @cached_property
    def _whole(self) -> Columns:
        return self._computed(self.dataset)

    def _part(self, rows: IntArray) -> Columns:
        """Read, if a killed run has finished it; computed and kept, if not."""
        path = self.parts / f"{rows[0]}-{len(rows)}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as found:
                return dict(found)
        columns = self._computed(self.dataset.select(rows))
        content = io.BytesIO()
        np.savez(content, **columns)  # type: ignore[arg-type]  # numpy's own stub is narrower
        self.parts.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, content.getvalue())
        return columns

    def _computed(self, dataset: ELMDataset) -> Columns:
        features = features_of(dataset, self.measure.needs, self.label)
        return self.measure.compute(dataset, features, self.settings)


def _kept_settings(found: Measure, settings: Section, dataset: ELMDataset, label: str | None) -> dict[str, Any]:
    """All that decides the numbers, beside the texts."""
    made_with, sees = dict(found.identity(settings)), set(found.sees)
    for scores in dataset.rows.source.scores:
        if set(scores.columns) & set(found.reads(settings)):
            made_with[scores.name] = scores.listed["fingerprint"]
            sees |= set(scores.listed["settings"].get("sees", ()))
    kept: dict[str, Any] = {
        "parameters": _deciding(settings.model_dump(mode="json")),
        "made_with": made_with,
        "sees": sorted(sees),
        "gaps": getattr(settings, "unanswered", "error") == "keep",
    }
    if "labels" in found.needs:
        kept["label"] = label
    if "embeddings" in found.needs:
        kept["embeddings"] = sha256_of_json(dict(dataset.rows.first_shard.metadata))
    return kept


def _deciding(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those that only say how it is computed."""
    return {
        name: _deciding(value) if isinstance(value, Mapping) else value
        for name, value in parameters.items()
        if name not in _HOW_COMPUTED
    }


def _others(config: Config, split: Split, called: str) -> list[str]:
    """Scores under other names, that belong to these paragraphs."""
    there = ELMDataset(split=split, load_embeddings=False, config=config).rows.source.scores
    return [scores.name for scores in there if scores.name != called]


def _check_finite(dataset: ELMDataset, rows: IntArray, columns: Columns) -> None:
    for name, values in columns.items():
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            row = int(rows[bad[0]])
            raise SelectionError(
                f"{name} of row {row} ({dataset[row]['metadata']['text_id']!r}) is {values[bad[0]]}, as are "
                f"{len(bad) - 1} more: nothing was kept. Look at these texts, or leave them out of the corpus"
            )


def _write(stage: ScoreStage, index: int, dataset: ELMDataset, rows: IntArray, columns: Columns) -> None:
    writer = stage.writer(index)
    try:
        writer.write({"text_id": dataset.rows.records(rows, ["text_id"])["text_id"].combine_chunks(), **columns})
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
