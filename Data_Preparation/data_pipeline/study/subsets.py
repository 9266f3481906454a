"""The stage `select`: select the subset, and find it again by its settings."""

import contextlib
import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import NotFoundError
from data_pipeline.execution.scores import compute_metric
from data_pipeline.metrics.registry import MEASURES
from data_pipeline.selection.features import Need
from data_pipeline.selection.registry import selector_config
from data_pipeline.selection.selecting import Selection, SelectionSettings
from data_pipeline.stages.select import select_subset
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import SelectionManifest, read_manifest
from data_pipeline.study.config import LABEL, StudyConfig
from data_pipeline.user_files import visible
from data_pipeline.utils import batched, published


@dataclass(frozen=True)
class Subset:
    """Subset to train on, and how it was selected."""

    name: str
    """Name of the selection in the store."""
    settings: Mapping[str, Any]
    """Selector, parameters, budget, seed and the features that were read, as JSON values."""
    rows: int
    """Number of rows."""
    ids_sha256: str
    """SHA-256 of the ids in order."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Description, see `data_pipeline.selection.describe`."""
    label: str | None = None
    """Name in tables; None: name and parameters of the selector."""

    @property
    def method(self) -> str:
        """Name in tables: the label, or selector, parameters and whether labels were read."""
        if self.label is not None:
            return self.label
        parameters = ", ".join(f"{name}={value}" for name, value in sorted(self.settings["parameters"].items()))
        suffix = " +labels" if "labels" in self.settings["sees"] else ""
        return self.settings["selector"] + (f"({parameters})" if parameters else "") + suffix


def choose(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Select the subset, after computing the scores that its selector needs. Dev rows are not read.

    Args:
        config: Its sections selection, subset, measures and seed.
        overwrite: Replace an existing subset or scores of other data or settings.

    Returns:
        Name, file and description of the subset, the features that were read, and the CSV manifest if asked for.

    Raises:
        ConfigError, SelectionError, StoreError, ModelError, MissingExtraError: The subset cannot be selected.
        StaleStageError: A subset or score of that name was made from other data or settings, and `overwrite` is off.
    """
    with study_lock(config):
        return _choose(config, overwrite)


@contextlib.contextmanager
def study_lock(config: StudyConfig) -> Iterator[None]:
    """Lock the stores of the study: a sweep selects several subsets at once.

    Waits until no other process holds the lock.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(config.data_dir / ".study.lock"):
        yield


def _choose(config: StudyConfig, overwrite: bool) -> dict[str, Any]:
    selection = config.selection
    needs = selector_config(selection.name, selection.params).needs
    compute_scores(config, needs | (selection.strata.needs if selection.strata else frozenset()), overwrite)
    stored = select_subset(
        config.pipeline_config, selection.name, config.subset.budget, seed=config.seed, parameters=selection.params,
        strata=selection.strata, label=LABEL, overwrite=overwrite,
    )  # fmt: skip
    result: dict[str, Any] = {
        "subset": stored.selection.subset,
        "file": str(stored.path),
        "looked_at": sorted(stored.selection.sees),
        "description": _without(stored.about, "paragraphs", "corpus"),
    }
    if config.subset.manifest:
        dataset = ELMDataset(load_embeddings=False, config=config.pipeline_config)
        path = config.data_dir / "manifests" / f"{stored.selection.subset}.csv"
        write_csv(dataset, stored.selection.rows.tolist(), path)
        result["manifest"] = str(path)
    return result


def compute_scores(config: StudyConfig, needs: Iterable[Need], overwrite: bool = False) -> None:
    """Compute the scores among `needs`, with the parameters of their measures in the config.

    An existing score of a measure that is not in the config is used as it is; a missing one is computed with defaults.

    Args:
        config: Its section measures.
        needs: Features, of which only scores are computed.
        overwrite: Replace existing scores of other parameters.

    Raises:
        ConfigError: A measure has required parameters, and is not in the config.
        StaleStageError: A score was computed with other parameters than those of the config, and `overwrite` is off.
    """
    columns = {need.removeprefix("score:") for need in needs if need.startswith("score:")}
    existing = set(ELMDataset(load_embeddings=False, config=config.pipeline_config).rows.names)
    for name, entry in MEASURES.items():
        needed = columns & set(entry.columns)
        if needed and (name in config.measures or not needed <= existing):
            compute_metric(config.pipeline_config, name, config.measures.get(name), label=LABEL, overwrite=overwrite)


def find_subset(config: StudyConfig) -> Subset:
    """Find the subset that `choose` selected with these settings.

    Raises:
        NotFoundError: There is no such subset.
    """
    settings, folder = _selection_settings(config), config.pipeline_config.selections_dir
    for path in visible(folder.glob("*/manifest.json"), folder):
        manifest = read_manifest(path.parent, SelectionManifest)
        listed = manifest["splits"].get("train") if manifest else None
        if listed is None:
            continue
        if _without(listed["settings"], "sees") == settings:
            about = _without(listed["about"], "paragraphs", "corpus")
            rows, ids_sha256 = listed["rows"], listed["ids_sha256"]
            return Subset(path.parent.name, listed["settings"], rows, ids_sha256, about, config.selection.label)
    raise NotFoundError(f"No subset in {folder} with {settings}. Run `elm study select` with the same settings first")


def _without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def subset_of(selection: Selection, about: Mapping[str, Any], label: str | None = None) -> Subset:
    """The subset of a selection in memory."""
    ids = column_sha256(selection.ids)
    return Subset(selection.subset, selection.settings, len(selection.ids), ids, about, label)


def write_csv(dataset: ELMDataset, rows: list[int], path: Path) -> None:
    """Write rows as CSV with the columns `id` (position of the row), `text_id`, `text` and `label`, texts in quotes.

    `dataset.subset(path)` reads it. pandas reads the text "null" as missing unless called with keep_default_na=False.
    """
    ids, labels = dataset.metadata["text_id"], dataset.metadata[LABEL]
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(["id", "text_id", "text", LABEL])
        for batch in batched(rows, 4096):
            texts = dataset.get_batch(batch)["text"]
            writer.writerows((row, ids[row], text, labels[row]) for row, text in zip(batch, texts, strict=True))


def _selection_settings(config: StudyConfig) -> dict[str, Any]:
    """Settings as in the manifest of a selection, except the features that were read: they are known afterwards."""
    section = config.selection
    settings = SelectionSettings(
        section.name, selector_config(section.name, section.params), config.subset.budget, config.seed, section.strata,
        frozenset(),
    ).settings  # fmt: skip
    return {name: value for name, value in settings.items() if name != "sees"}
