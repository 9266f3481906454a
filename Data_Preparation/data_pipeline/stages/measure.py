"""Measures computed into our stores: `data/scores/<name>/`, beside the scores of heads.

A measure is kept with all that decides its numbers. The same one is computed once; another one under the same name is
refused unless it is to be replaced, and none touches the folders of others.
"""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from data_pipeline.config import Config, FolderName, Section, explain
from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.metrics.base import Columns, Measure
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, WorkerPlace, run_in_order, run_stages
from data_pipeline.stages.features import features_from_rows
from data_pipeline.stages.score_output import ScoreOutput
from data_pipeline.store.manifest import ScoreManifest, read_manifest_to_replace
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.types import IntArray, Split
from data_pipeline.utils import atomic_write_bytes, sha256_of_json
from data_pipeline.utils.displays import Displayed

_PART_ROWS = 16_384  # rows after which finished work is stored; large, since a model is called for each part


@dataclass(frozen=True, repr=False)
class Measured(Displayed):
    """Result of computing a measure of one split."""

    rows: int
    columns: list[str]
    skipped: bool
    """Whether an earlier run computed the measure."""

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        done = ", finished before" if self.skipped else ""
        return [("rows", f"{self.rows:,}{done}"), ("columns", ", ".join(self.columns))]


def compute_metric(
    config: Config,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    splits: Sequence[Split] = ("train",),
    called: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
    execute: Executor = run_in_order,
) -> dict[Split, Measured]:
    """Compute a measure of a corpus, and store it as score columns.

    Args:
        config: configuration with the folders, the corpus and the variant.
        name: name of the measure; see `MEASURES`.
        parameters: parameters of the measure.
        splits: splits to measure, each separately.
        called: name of the folder and the column (or prefix of several columns); None for the name of the measure.
            Perplexities of two models need two names.
        label: column with the class, for measures that need it.
        overwrite: whether to replace scores of the same name with other settings.
        execute: runs the tasks of a measure that looks at each row by itself.

    Raises:
        ConfigError: the measure or a parameter is unknown, or a column of that name exists already.
        StaleStageError: scores of the same name have other settings, and `overwrite` is false.
        SelectionError, ModelError, StoreError, MissingExtraError: the measure cannot be computed.
    """
    metric, settings = configured_measure(name, parameters)
    stored_as = called or name
    try:
        TypeAdapter(FolderName).validate_python(stored_as)
    except ValidationError as error:
        raise ConfigError(f"{stored_as!r} names a folder: {error.errors()[0]['msg']}") from None

    def stages() -> Iterator[MetricScores]:
        read_manifest_to_replace(config.scores_dir / stored_as, overwrite, ScoreManifest)
        for split in splits:
            yield _open_stage(config, name, metric, settings, split, stored_as, label)

    engine = execute if metric.row_by_row else run_in_order
    measured = run_stages(stages(), config.scores_dir, overwrite=overwrite, execute=engine)
    return dict(zip(splits, measured, strict=True))


measure = compute_metric
"""Former name of `compute_metric`."""


def configured_measure(name: str, parameters: Mapping[str, Any] | None) -> tuple[Measure, Section]:
    """Return a measure and its validated parameters.

    Raises:
        ConfigError: the measure or a parameter is unknown, or a value is invalid.
    """
    from data_pipeline.metrics.registry import MEASURES

    if name not in MEASURES:
        raise ConfigError(f"unknown measure {name!r}; expected one of {', '.join(sorted(MEASURES))}")
    measure = MEASURES[name]
    try:
        return measure, measure.config.model_validate(dict(parameters or {}))
    except ValidationError as error:
        raise ConfigError(f"parameters of {name}:\n{explain(error)}") from None


def column_names(measure: Measure, name: str, called: str) -> dict[str, str]:
    """Map the columns of a measure to their names in the store."""
    if called == name:
        return {column: column for column in measure.columns}
    if len(measure.columns) == 1:
        return {measure.columns[0]: called}
    return {column: f"{called}_{column}" for column in measure.columns}


@dataclass(frozen=True)
class MetricScores:
    """Stage that computes a metric of all rows of a split."""

    source: Rows
    metric: Measure
    settings: Section
    label: str | None
    columns: Mapping[str, str]
    """Names of the columns in the store, by columns of the metric."""
    output: ScoreOutput
    rows: int = 0  # metrics that take long show progress of their own
    unit: str = "row"

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Computing {self.output.folder.name} of {self.output.split}"

    @property
    def outputs(self) -> list[ScoreOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return self.output.fingerprint

    def tasks(self) -> list[Task]:
        """Return one task for each paragraph shard."""
        return self.output.tasks()

    def portable(self) -> Self:
        """Return the stage; other processes open the rows for themselves."""
        return self

    def for_worker(self, place: WorkerPlace) -> Self:
        """Return the stage; the measure chooses its device."""
        del place
        return self

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Compute the file of one shard."""
        shards = self.output.paragraphs
        start, count = sum(shard.rows for shard in shards[: task.index]), shards[task.index].rows
        if self.output.is_written(task.index):
            return TaskResult(task.name, count, skipped=True)
        index = np.arange(start, start + count)
        values = self._values(index)
        if not self.output.settings["gaps"]:
            rows = self.source.selection
            live = index if rows is None else np.intersect1d(index, rows, assume_unique=True)
            _check_finite(self.source, live, {name: column[live - start] for name, column in values.items()})
        _write(self.output, task.index, self.source, index, {self.columns[name]: values[name] for name in values})
        advance(count)
        return TaskResult(task.name, count)

    def finish(self, results: Sequence[TaskResult]) -> Measured:
        """Write the manifest, and remove the finished parts."""
        if results:
            if self._parts.exists():
                shutil.rmtree(self._parts)
            self.output.publish()
        return Measured(len(self.source), list(self.columns.values()), skipped=not results)

    @property
    def _parts(self) -> Path:
        """Folder of finished parts of an unfinished file."""
        return self.output.folder / f".parts-{self.output.split}-{self.output.fingerprint[:20]}"

    def _values(self, index: IntArray) -> Columns:
        """Compute the values of consecutive rows."""
        rows = self.source.selection
        if rows is None:
            return self._values_of(index)
        live = np.arange(*np.searchsorted(rows, [index[0], index[-1] + 1])) if len(index) else index
        values = self._values_of(live)
        places = rows[live] - index[0] if len(live) else live
        filled = {column: np.full(len(index), np.nan) for column in values}
        for column, of_live in values.items():
            filled[column][places] = of_live
        return filled

    def _values_of(self, index: IntArray) -> Columns:
        """Compute the values of consecutive rows among those that were not deleted."""
        if not self.metric.row_by_row:
            return {column: values[index] for column, values in self._whole.items()}
        starts = range(0, max(len(index), 1), _PART_ROWS)
        parts = [self._part(index[start : start + _PART_ROWS]) for start in starts]
        return {column: np.concatenate([part[column] for part in parts]) for column in self.metric.columns}

    @cached_property
    def _whole(self) -> Columns:
        return self._computed(self.source)

    def _part(self, index: IntArray) -> Columns:
        """Read a part that a killed run finished, or compute and store it."""
        path = self._parts / f"{index[0]}-{len(index)}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as finished:
                return dict(finished)
        columns = self._computed(self.source.select(index))
        content = io.BytesIO()
        np.savez(content, **columns)  # type: ignore[arg-type]  # numpy's own stub is narrower
        self._parts.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, content.getvalue())
        return columns

    def _computed(self, rows: Rows) -> Columns:
        features = features_from_rows(rows, self.metric.needs, self.label)
        return self.metric.compute(rows, features, self.settings)


def _open_stage(
    config: Config, name: str, metric: Measure, settings: Section, split: Split, called: str, label: str | None
) -> MetricScores:
    others = [scores.name for scores in open_rows(config, split, with_embeddings=False).source.scores]
    others = [other for other in others if other != called]
    rows = open_rows(config, split, with_embeddings="embeddings" in metric.needs, scores=others)
    columns = column_names(metric, name, called)
    if clash := set(columns.values()) & {*rows.names, "embedding"}:
        raise ConfigError(
            f"a column {', '.join(sorted(clash))} exists already; give the measure another name (called=, or "
            "elm measure --as)"
        )
    deciding = {"measure": name, **_kept_settings(metric, settings, rows, label)}
    types = dict.fromkeys(columns.values(), pa.float64())
    output = ScoreOutput.of(rows, config.scores_dir / called, types, deciding)
    return MetricScores(rows, metric, settings, label, columns, output)


def _kept_settings(metric: Measure, settings: Section, rows: Rows, label: str | None) -> dict[str, Any]:
    """Return the settings that decide the values, as JSON values."""
    made_with, sees = dict(metric.identity(settings)), set(metric.sees)
    for scores in rows.source.scores:
        if set(scores.columns) & set(metric.reads(settings)):
            made_with[scores.name] = scores.listed["fingerprint"]
            sees |= set(scores.listed["settings"].get("sees", ()))
    deciding: dict[str, Any] = {
        "parameters": settings.deciding(),
        "made_with": made_with,
        "sees": sorted(sees),
        "gaps": getattr(settings, "unanswered", "error") == "keep",
    }
    if "labels" in metric.needs:
        deciding["label"] = label
    if "embeddings" in metric.needs:
        deciding["embeddings"] = sha256_of_json(dict(rows.first_shard.metadata))
    return deciding


def _check_finite(rows: Rows, index: IntArray, columns: Columns) -> None:
    for name, values in columns.items():
        if len(bad := np.flatnonzero(~np.isfinite(values))):
            row = int(index[bad[0]])
            text_id = rows.records(index[bad[:1]], ["text_id"])["text_id"][0].as_py()
            raise SelectionError(
                f"{name} of row {row} ({text_id!r}) is {values[bad[0]]}, as are {len(bad) - 1} more: nothing was kept. "
                "Look at these texts, or leave them out of the corpus"
            )


def _write(output: ScoreOutput, index: int, rows: Rows, of_rows: IntArray, columns: Columns) -> None:
    writer = output.writer(index)
    try:
        writer.write({"text_id": rows.records(of_rows, ["text_id"])["text_id"].combine_chunks(), **columns})
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
