"""The whole sweep in one process, with probes.

Embeddings are read once, and every selector ranks once for each seed, at the largest budget: smaller budgets are
prefixes, as every selector guarantees. (With strata they are not, and each budget is selected on its own.)
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import ConfigError
from data_pipeline.selection.budget import Budget
from data_pipeline.selection.description import describe, near_rows
from data_pipeline.selection.features import Features
from data_pipeline.selection.registry import selector_config
from data_pipeline.selection.selecting import Selection, select
from data_pipeline.stages.features import features_from_dataset
from data_pipeline.study.config import LABEL, StudyConfig, SweepEntry
from data_pipeline.study.prepare import prepare
from data_pipeline.study.probe import fit_probe, probe_probabilities
from data_pipeline.study.runs import Run, class_indices, classes_of, metrics_record, read_record, run_of
from data_pipeline.study.subsets import compute_scores, study_lock, subset_of
from data_pipeline.study.sweep import sweep_selectors
from data_pipeline.types import IntArray
from data_pipeline.utils import atomic_write_json, progress_bar

_DESCRIBED_FEATURES = {"embeddings", "labels", "token_counts"}


@dataclass(frozen=True)
class _Data:
    """Data that all runs read."""

    dataset: ELMDataset
    features: Features
    classes: list[int]
    dev_vectors: NDArray[Any]
    dev_classes: IntArray
    near_dev: NDArray[np.bool_]
    """Shape (N,), training rows that are near duplicates of a dev row."""


def run_study(config: StudyConfig, full: bool = True) -> list[dict[str, Any]]:
    """Select, train and evaluate probes for every selector, budget and seed of the sweep. Finished runs are skipped.

    Records and folders are those of `evaluate`; a record also has the seconds that ranking the largest budget took
    (`rank_s`), and the budget that the subset is a prefix of (`prefix_of`). The probes are not saved. An entry with the
    parameter `like` (length_matched_random) names an earlier entry, whose subset of the same seed it is matched to.

    Args:
        config: Its sections paths, data, embedding, measures and sweep, selection.strata and training.probe.
        full: Also train on all rows.

    Returns:
        One record per run, see `metrics_record`.

    Raises:
        ConfigError: The model is no probe, or two selectors have the same name.
        DataPipelineError: A stage fails.
    """
    if config.model.kind != "probe":
        raise ConfigError(
            f"model.kind: run_study trains probes, found {config.model.kind}. Set model.kind=probe, or fine-tune with "
            "workflow/Snakefile"
        )
    selectors, fractions = sweep_selectors(config.sweep), config.sweep.fractions
    prepare(config)
    data = _open(config, selectors.values())
    largest = max(fractions)
    records: list[dict[str, Any]] = []
    runs = len(config.sweep.seeds) * (len(selectors) * len(fractions) + full)
    with progress_bar(runs, "study", "run") as bar:
        for seed in config.sweep.seeds:
            subsets = dict[str, IntArray]()
            for name, entry in selectors.items():
                started = time.monotonic()
                ranking = _select(config, replace(data.features, subsets=subsets), entry, largest, seed)
                rank_s = time.monotonic() - started
                subsets[name] = ranking.rows
                for fraction in fractions:
                    selection, is_prefix = _cut(config, data.features, entry, ranking, fraction)
                    extra = {"rank_s": round(rank_s, 3), "prefix_of": largest if is_prefix else None}
                    records.append(_measure(config, data, selection, entry.label, extra))
                    bar.update()
            if full:
                all_rows = select("random", data.features.only([]), Budget(fraction=1.0), seed=seed)
                records.append(_measure(config, data, all_rows, "all rows", {"rank_s": 0.0, "prefix_of": None}))
                bar.update()
    return records


def _open(config: StudyConfig, entries: Iterable[SweepEntry]) -> _Data:
    strata = config.selection.strata.needs if config.selection.strata else frozenset[str]()
    needs = set(strata).union(*(selector_config(entry.name, entry.params).needs for entry in entries))
    with study_lock(config):
        compute_scores(config, needs)
    needs = {need for need in needs if not need.startswith("subset:")}
    dataset = ELMDataset(config=config.pipeline_config)
    dev = ELMDataset(split="val", config=config.pipeline_config)
    classes, dev_vectors = classes_of(config), dev.to_numpy()
    features = features_from_dataset(dataset, needs | _DESCRIBED_FEATURES, LABEL)
    near_dev = near_rows(features.vectors(), dev_vectors)
    return _Data(dataset, features, classes, dev_vectors, class_indices(dev, classes), near_dev)


def _select(config: StudyConfig, features: Features, entry: SweepEntry, fraction: float, seed: int) -> Selection:
    return select(
        entry.name, features, Budget(fraction=fraction), seed=seed, parameters=entry.params,
        strata=config.selection.strata,
    )  # fmt: skip


def _cut(
    config: StudyConfig, features: Features, entry: SweepEntry, ranking: Selection, fraction: float
) -> tuple[Selection, bool]:
    """The selection of a budget, and whether it is a prefix of a larger one."""
    budget = Budget(fraction=fraction)
    if budget == ranking.budget:
        return ranking, False
    if ranking.strata is not None:
        return _select(config, features, entry, fraction, ranking.seed), False
    rows = budget.rows_of(len(features))
    values = None if ranking.values is None else ranking.values[:rows]
    return replace(ranking, budget=budget, rows=ranking.rows[:rows], ids=ranking.ids[:rows], values=values), True


def _measure(
    config: StudyConfig, data: _Data, selection: Selection, label: str | None, extra: Mapping[str, Any]
) -> dict[str, Any]:
    config = config.model_copy(update={"seed": selection.seed})
    # A subset is cheap to identify and costly to describe: finished ones are not described again.
    undescribed = subset_of(selection, {"of": len(data.features)}, label)
    run = run_of(config, data.dataset, undescribed)
    existing = read_record(run.folder / "metrics.json")
    if existing is not None:
        return existing
    description = {"of": len(data.features)}
    if len(selection.rows) < len(data.features):
        description = describe(data.features, selection.rows, seed=selection.seed)
    run = replace(run, subset=replace(undescribed, about=description))
    record = {**_train_and_evaluate(config, data, run, selection), **extra}
    atomic_write_json(run.folder / "metrics.json", record)
    return record


def _train_and_evaluate(config: StudyConfig, data: _Data, run: Run, selection: Selection) -> dict[str, Any]:
    dataset = data.dataset.select(selection.rows)
    started = time.monotonic()
    head = fit_probe(dataset, config.training.probe, config.seed)
    seconds = round(time.monotonic() - started, 3)
    probabilities = probe_probabilities(head, data.dev_vectors, data.classes)
    near_dev = int(data.near_dev[selection.rows].sum())
    return metrics_record(run, data.dev_classes, probabilities, near_dev, seconds)
