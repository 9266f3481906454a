"""The stages `train` and `eval`: a run is one model trained on one subset, and evaluated once on the dev rows.

    <artifacts_dir>/<model>/<subset>-<hash>/
        model/              weights
        train_metrics.json  written last by `train`: a run without it is incomplete, and starts again
        metrics.json        written by `evaluate`

The hash covers everything that decides the numbers: rows, labels, model, training and seed. Other settings get another
folder.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import NotFoundError, SourceError, StoreError
from data_pipeline.heads import load_head, save_head
from data_pipeline.heads.identity import identity_settings
from data_pipeline.selection.description import near_rows
from data_pipeline.stages.features import Texts
from data_pipeline.study.config import LABEL, StudyConfig
from data_pipeline.study.finetune import finetune, finetuned_probabilities, model_files
from data_pipeline.study.probe import fit_probe, probe_probabilities
from data_pipeline.study.scores import classification_scores
from data_pipeline.study.subsets import Subset, find_subset
from data_pipeline.study.tracking import tracked
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils import atomic_write_json, exclusive, sha256_of_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Folder of a run, and everything that decides its numbers."""

    folder: Path
    """Folder of weights and records."""
    study: Mapping[str, Any]
    """Model, training and data: equal for all runs that may be compared."""
    subset: Subset
    """Subset to train on."""
    seed: int
    """Seed of the training."""
    fingerprint: str
    """SHA-256 of everything that decides the numbers."""


def train(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Train a model on the subset that `choose` selected. Finished runs are skipped; dev rows are not read.

    Args:
        config: Its sections model, training, selection, subset and seed.
        overwrite: Train again.

    Returns:
        The content of `train_metrics.json`: seconds, logged values, the subset and the whole config.

    Raises:
        StoreError: There is no such subset, or another process is training the same run.
        ModelError, SourceError, ConfigError, MissingExtraError: The model cannot be trained.
    """
    subset = find_subset(config)
    dataset = ELMDataset(
        subset=subset.name, load_embeddings=config.model.kind == "probe", config=config.pipeline_config
    )
    run = run_of(config, dataset, subset)
    with exclusive(run.folder):
        existing = read_record(run.folder / "train_metrics.json")
        if existing is not None and not overwrite:
            logger.info("Skipping training: %s is finished", run.folder)
            return existing
        if run.folder.exists():
            shutil.rmtree(run.folder)
        run.folder.mkdir(parents=True)
        started = time.monotonic()
        with tracked(config, "train", run.folder.name) as log:
            history = _fit(config, dataset, run.folder / "model")
            for entry in history:
                log(entry)
        record = {
            "fingerprint": run.fingerprint,
            "subset": subset.name,
            "rows": subset.rows,
            "seconds": round(time.monotonic() - started, 3),
            "history": history,
            "study": dict(run.study),
            "config": config.model_dump(mode="json"),
        }
        atomic_write_json(run.folder / "train_metrics.json", record)
    return record


def evaluate(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Evaluate a trained model on the dev rows, once.

    Args:
        config: The config of `train`.
        overwrite: Evaluate again.

    Returns:
        The content of `metrics.json`, see `metrics_record`.

    Raises:
        StoreError: The model is not trained yet, or its weights were deleted.
    """
    subset = find_subset(config)
    dataset = ELMDataset(subset=subset.name, config=config.pipeline_config)
    run = run_of(config, dataset, subset)
    with exclusive(run.folder):
        trained = read_record(run.folder / "train_metrics.json")
        if trained is None:
            raise NotFoundError(f"no trained model in {run.folder}. Run `elm study train` with the same settings first")
        existing = read_record(run.folder / "metrics.json")
        if existing is not None and not overwrite:
            logger.info("Skipping evaluation: %s is finished", run.folder)
            _delete_model_if_unwanted(config, run)
            return existing
        if not (run.folder / "model").is_dir():
            raise StoreError(
                f"the weights of {run.folder} were deleted. Train it again: `elm study train` with overwrite"
            )
        dev = ELMDataset(split="val", config=config.pipeline_config)
        classes = classes_of(config)
        truth = class_indices(dev, classes)
        probabilities = _dev_probabilities(config, run.folder / "model", dev, classes)
        near = near_rows(dataset.to_numpy(), dev.to_numpy())
        record = metrics_record(run, truth, probabilities, int(near.sum()), trained["seconds"])
        with tracked(config, "eval", run.folder.name) as log:
            log({name: value for name, value in record.items() if isinstance(value, float)})
        atomic_write_json(run.folder / "metrics.json", record)
        _delete_model_if_unwanted(config, run)
    return record


def _delete_model_if_unwanted(config: StudyConfig, run: Run) -> None:
    if not config.training.keep_model:
        shutil.rmtree(run.folder / "model", ignore_errors=True)


def metrics_record(
    run: Run, truth: IntArray, probabilities: Float32Array, near_dev: int, train_s: float
) -> dict[str, Any]:
    """Record of an evaluated run, as JSON values.

    Args:
        run: The run.
        truth: Shape (N,), classes of the dev rows, counted from 0.
        probabilities: Shape (N, C), probabilities of the classes.
        near_dev: Number of rows of the subset that are near duplicates of a dev row.
        train_s: Seconds of training.
    """
    subset = run.subset
    return {
        **classification_scores(truth, probabilities),
        "rows": len(truth),
        "subset": subset.name,
        "method": subset.method,
        "selector": subset.settings["selector"],
        "parameters": subset.settings["parameters"],
        "budget": subset.settings["budget"],
        "seed": run.seed,
        "subset_rows": subset.rows,
        "fraction": subset.rows / subset.about["of"],
        "train_s": train_s,
        "description": {**subset.about, "near_duplicates_of_dev": near_dev},
        "model": run.folder.parent.name,
        "study": dict(run.study),
        "fingerprint": run.fingerprint,
    }


def run_of(config: StudyConfig, dataset: ELMDataset, subset: Subset) -> Run:
    """The run of a subset, whose folder is named by everything that decides its numbers.

    Args:
        config: Its sections model, training and seed.
        dataset: The training split, with embeddings for a probe.
        subset: Subset to train on.

    Raises:
        SourceError, ModelError, MissingExtraError: The model to fine-tune cannot be found.
    """
    training = config.training
    study: dict[str, Any] = {"paragraphs": dataset.rows.source.fingerprint(), "kind": config.model.kind}
    if config.model.kind == "probe":
        metadata = dataset.rows.first_shard.metadata
        embeddings = identity_settings(metadata) | {"precision": metadata.get("precision", "")}
        name = f"probe-{embeddings.get('model', config.embedding.model_name)}"
        study |= {"embeddings": embeddings, "training": training.probe.deciding()}
    else:
        name = config.model.name
        settings = {name: value for name, value in training.deciding().items() if name != "probe"}
        study |= {"model": name, "revision": model_files(config.model).revision, "training": settings}
    fingerprint = sha256_of_json([study, subset.settings, subset.ids_sha256, config.seed])
    folder = config.artifacts_dir / _folder_name(name) / f"{subset.name}-{fingerprint[:10]}"
    return Run(folder, study, subset, config.seed, fingerprint)


def classes_of(config: StudyConfig) -> list[int]:
    """The labels of the training split, sorted."""
    dataset = ELMDataset(load_embeddings=False, config=config.pipeline_config)
    return dataset.metadata[LABEL].unique().sort().to_list()


def class_indices(dataset: ELMDataset, classes: Sequence[int]) -> IntArray:
    """Index of the class of each row, shape (N,).

    Args:
        dataset: N rows with labels.
        classes: Labels of the training split, sorted.

    Raises:
        SourceError: A row has a label that no training row has.
    """
    labels = dataset.metadata[LABEL].to_numpy()
    if len(unknown := np.setdiff1d(labels, classes)):
        raise SourceError(
            f"{dataset.split} has labels that no training row has: {unknown.tolist()}; expected {classes}"
        )
    return np.searchsorted(np.array(classes), labels).astype(np.int64)


def read_record(path: Path) -> dict[str, Any] | None:
    """JSON record of a finished run; None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _fit(config: StudyConfig, dataset: ELMDataset, folder: Path) -> list[dict[str, float]]:
    if config.model.kind == "probe":
        head = fit_probe(dataset, config.training.probe, config.seed)
        save_head(head, folder, overwrite=True)  # `elm annotate` accepts it, too
        return list(head.about["curve"])
    classes = classes_of(config)
    source = model_files(config.model).folder
    texts, labels = list(Texts(dataset.rows)), class_indices(dataset, classes)
    return finetune(source, texts, labels, classes, config.training, config.seed, folder)


def _dev_probabilities(
    config: StudyConfig, folder: Path, dev: ELMDataset, classes: Sequence[int]
) -> NDArray[np.float32]:
    if config.model.kind == "probe":
        return probe_probabilities(load_head(folder), dev.to_numpy(), classes)
    return finetuned_probabilities(folder, list(Texts(dev.rows)), config.training)


def _folder_name(name: str) -> str:
    """Folder of a model: `answerdotai/ModernBERT-base` -> `ModernBERT-base`; for a probe, `probe-` and its embedder."""
    kind, dash, rest = name.partition("-") if name.startswith("probe-") else ("", "", name)
    return kind + dash + re.sub(r"[^\w.-]+", "_", rest.rstrip("/").rsplit("/", 1)[-1])
