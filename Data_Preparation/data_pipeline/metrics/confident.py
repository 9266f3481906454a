"""Labels that are probably wrong: Northcutt et al., "Confident Learning" (2021), arXiv:1911.00068.

A head must not have seen the label that it is asked about: cross-validation predicts each row from the others.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.small_head import (
    Embeddings,
    SmallHeadConfig,
    class_numbers,
    class_probabilities,
    last_head,
    open_inputs,
)
from data_pipeline.selection.ordering import ascending_order
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar, require


class ConfidentConfig(SmallHeadConfig):
    """Settings of the measure `confident`."""

    epochs: int = Field(10, ge=1)
    """Epochs of each head over its training rows."""
    folds: int = Field(5, ge=2)
    """Number of folds; for each, one head is trained on the other folds."""
    seed: int = 0
    """Seed of folds and heads."""
    filter_by: Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"] = (
        "prune_by_noise_rate"
    )
    """Method by which cleanlab decides which labels are issues."""


def confident_learning(
    embeddings: Embeddings, labels: ArrayLike, config: ConfidentConfig, groups: Sequence[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Find label issues with cleanlab.

    Columns: `label_quality`, 0 to 1, the probability of the row's own label by a head that did not see the row;
    `label_issue`, 1 if the label is probably wrong, else 0.

    Args:
        embeddings: Shape (N, D).
        labels: Shape (N,), whole numbers.
        config: Settings.
        groups: Group of each row, such as its document; a group is never divided among folds.

    Raises:
        SelectionError: Embeddings or labels are invalid, or a class occurs in one fold only.
        MissingExtraError: cleanlab is not installed.
    """
    cleanlab = require("cleanlab", "selection", "finding wrong labels")
    probabilities = out_of_fold_probabilities(embeddings, labels, config, groups)
    classes_of, _ = class_numbers(labels, len(probabilities))
    issues = cleanlab.filter.find_label_issues(classes_of, probabilities, filter_by=config.filter_by, n_jobs=1)
    quality = cleanlab.rank.get_label_quality_scores(classes_of, probabilities, method="self_confidence")
    return {"label_quality": np.asarray(quality, np.float64), "label_issue": np.asarray(issues, np.float64)}


def out_of_fold_probabilities(
    embeddings: Embeddings, labels: ArrayLike, config: ConfidentConfig, groups: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Class probabilities by heads that did not see the row, shape (N, classes); see `confident_learning`."""
    inputs = open_inputs(embeddings, config.device)
    classes_of, classes = class_numbers(labels, len(inputs))
    folds = _folds(classes_of, config, groups)
    result = np.empty((len(inputs), classes))
    with progress_bar(config.folds, "heads for confident learning", "heads") as bar:
        for fold in range(config.folds):
            training, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            if missing := sorted(set(range(classes)) - set(classes_of[training].tolist())):
                example = np.asarray(labels)[classes_of == missing[0]][0]
                raise SelectionError(
                    f"all rows with the label {example} are in one fold of {config.folds}: no head could learn it. "
                    "Leave them out, or give rows of another group this label"
                )
            head = last_head(inputs, training, classes_of, classes, config, config.seed + fold)
            result[held_out] = class_probabilities(head, inputs, held_out)
            bar.update()
    return result


def _folds(classes_of: IntArray, config: ConfidentConfig, groups: Sequence[str] | None) -> IntArray:
    """Fold of each row, stratified by class; a group counts by the class of its first row."""
    names = np.arange(len(classes_of)) if groups is None else np.asarray(groups)
    if len(names) != len(classes_of):
        raise SelectionError(f"groups: expected {len(classes_of)}, one per row, found {len(names)}")
    _, first, members = np.unique(names, return_index=True, return_inverse=True)
    group_folds = np.empty(len(first), np.int64)
    order = ascending_order(classes_of[first].astype(np.float64), np.random.default_rng(config.seed))
    group_folds[order] = np.arange(len(first)) % config.folds
    return group_folds[members]
