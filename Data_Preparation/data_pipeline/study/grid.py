"""The whole study in one process: selectors x budgets x seeds, each measured by the probe.

Vectors are read once, and every selector ranks once for each seed, at the largest budget: smaller budgets are its
prefixes, as every selector promises. (With strata they are not, and are selected one by one.)
"""

import logging
import time
from collections.abc import Mapping, Sequence
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
from data_pipeline.stages.features import features_of
from data_pipeline.study.config import LABEL, StudyConfig, SweepEntry
from data_pipeline.study.prepare import prepare
from data_pipeline.study.probe import fit_probe, probe_probabilities
from data_pipeline.study.runs import Run, classes_of, metrics_record, numbered, read_record, run_of
from data_pipeline.study.subsets import measure_needed, subset_of, taking_turns
from data_pipeline.types import IntArray
from data_pipeline.utils import atomic_write_json, progress_bar

logger = logging.getLogger(__name__)

_KINDS = {"embeddings", "labels", "token_counts"}


@dataclass(frozen=True)
class _Opened:
    """What all runs look at."""

    dataset: ELMDataset
    features: Features
    classes: list[int]
    dev_vectors: NDArray[Any]
    dev_truth: IntArray
    near: NDArray[np.bool_]
    """Training rows that are near duplicates of a dev row."""


def run_study(
    config: StudyConfig,
    selectors: Sequence[SweepEntry | str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    full: bool = True,
) -> list[dict[str, Any]]:
    """Select, train and measure probes for every selector, budget and seed; finished ones are skipped.

    The records are those of `evaluate`, in the same folders, with how long the ranking took (`rank_s`, of the largest
    budget) and whether the subset is a prefix of a larger one; the probes themselves are not kept. An entry with the
    parameter `like` (length_matched_random) names an earlier entry, whose subset of the same seed it is matched to.

    Args:
        config: paths, data, embedding, measures, selection.strata and training.probe; the rest is replaced.
        selectors: names, or names with parameters and a label.
        fractions: budgets, of the rows.
        seeds: five or more say how far the numbers can be trusted.
        full: also train on all rows.

    Returns:
        One record a run, see `metrics_record`.

    Raises:
        DataPipelineError: something cannot be prepared, measured, selected or trained.
    """
    if config.model.kind != "probe":
        raise ConfigError("run_study trains probes (model.kind=probe); for fine-tuning use workflow/Snakefile")
    entries = [SweepEntry(name=entry) if isinstance(entry, str) else entry for entry in selectors]
    if twice := {_name(entry) for entry in entries if [_name(other) for other in entries].count(_name(entry)) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} stands there twice; give one of them another label")
    prepare(config)
    opened = _open(config, entries)
    largest = max(fractions)
    found: list[dict[str, Any]] = []
    with progress_bar(len(seeds) * (len(entries) * len(fractions) + full), "study", "run") as bar:
        for seed in seeds:
            features, ranked = opened.features, dict[str, IntArray]()
            for entry in entries:
                started = time.monotonic()
                whole = _select(config, replace(features, subsets=ranked), entry, largest, seed)
                rank_s = time.monotonic() - started
                ranked[_name(entry)] = whole.rows
                for fraction in fractions:
                    some = _cut(config, features, entry, whole, fraction)
                    extra = {"rank_s": round(rank_s, 3), "prefix_of": largest if some.prefix else None}
                    found.append(_measured(config, opened, some.selection, entry.label, extra))
                    bar.update()
            if full:
                everything = select("random", features.only([]), Budget(fraction=1.0), seed=seed)
                found.append(_measured(config, opened, everything, "all rows", {"rank_s": 0.0, "prefix_of": None}))
                bar.update()
    return found


@dataclass(frozen=True)
class _Cut:
    selection: Selection
    prefix: bool


def _open(config: StudyConfig, entries: Sequence[SweepEntry]) -> _Opened:
    strata = config.selection.strata.needs if config.selection.strata else frozenset[str]()
    needs = set(strata).union(*(selector_config(entry.name, entry.params).needs for entry in entries))
    with taking_turns(config):
        measure_needed(config, needs)
    needs = {need for need in needs if not need.startswith("subset:")}
    dataset = ELMDataset(config=config.main_job)
    dev = ELMDataset(split="val", config=config.main_job)
    classes, dev_vectors = classes_of(config), dev.to_numpy()
    features = features_of(dataset, needs | _KINDS, LABEL)
    near = near_rows(features.vectors(), dev_vectors)
    return _Opened(dataset, features, classes, dev_vectors, numbered(dev, classes), near)


def _select(config: StudyConfig, features: Features, entry: SweepEntry, fraction: float, seed: int) -> Selection:
    return select(
        entry.name, features, Budget(fraction=fraction), seed=seed, parameters=entry.params,
        strata=config.selection.strata,
    )  # fmt: skip


def _cut(config: StudyConfig, features: Features, entry: SweepEntry, whole: Selection, fraction: float) -> _Cut:
    """The selection of a smaller budget."""
    budget = Budget(fraction=fraction)
    if budget == whole.budget:
        return _Cut(whole, prefix=False)
    if whole.strata is not None:
        return _Cut(_select(config, features, entry, fraction, whole.seed), prefix=False)
    rows = budget.rows_of(len(features))
    values = None if whole.values is None else whole.values[:rows]
    return _Cut(replace(whole, budget=budget, rows=whole.rows[:rows], ids=whole.ids[:rows], values=values), prefix=True)


def _measured(
    config: StudyConfig, opened: _Opened, chosen: Selection, label: str | None, extra: Mapping[str, Any]
) -> dict[str, Any]:
    config = config.model_copy(update={"seed": chosen.seed})
    # Cheap to name, costly to describe: what is finished is not described again.
    bare = subset_of(chosen, {"of": len(opened.features)}, label)
    run = run_of(config, opened.dataset, bare)
    done = read_record(run.folder / "metrics.json")
    if done is not None:
        return done
    described = {"of": len(opened.features)}
    if len(chosen.rows) < len(opened.features):
        described = describe(opened.features, chosen.rows, seed=chosen.seed)
    run = Run(run.folder, run.study, replace(bare, about=described), run.seed)
    record = {**_trained(config, opened, run, chosen), **extra}
    atomic_write_json(run.folder / "metrics.json", record)
    return record


def _trained(config: StudyConfig, opened: _Opened, run: Run, chosen: Selection) -> dict[str, Any]:
    data = opened.dataset.select(chosen.rows)
    started = time.monotonic()
    head = fit_probe(
        data.to_numpy(), data.metadata[LABEL].to_numpy(), chosen.ids, config.training.probe, config.seed,
        data.rows.first_shard.metadata,
    )  # fmt: skip
    seconds = round(time.monotonic() - started, 3)
    found = probe_probabilities(head, opened.dev_vectors, opened.classes)
    return metrics_record(run, opened.dev_truth, found, int(opened.near[chosen.rows].sum()), seconds)


def _name(entry: SweepEntry) -> str:
    return entry.label or entry.name
