"""Which labels are probably wrong: Northcutt et al., "Confident Learning" (2021), arXiv:1911.00068.

A head must not have seen the label that it is asked about: every row is judged by one that was trained on the others.
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
    last_head,
    open_inputs,
    probabilities,
)
from data_pipeline.selection.ordering import ascending_order
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar, require


class ConfidentConfig(SmallHeadConfig):
    """The heads, and what counts as an issue."""

    epochs: int = Field(10, ge=1)
    """Passes of each head over the rows that it is trained on."""
    folds: int = Field(5, ge=2)
    """Parts of the rows; one head is trained for each, on the others."""
    seed: int = 0
    """Of parts and heads."""
    filter_by: Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"] = (
        "prune_by_noise_rate"
    )
    """How cleanlab decides which labels are issues."""


def confident_learning(
    embeddings: Embeddings, labels: ArrayLike, config: ConfidentConfig, groups: Sequence[str] | None = None
) -> dict[str, NDArray[np.float64]]:
    """What cleanlab says of each label.

    Columns: `label_quality`, 0 to 1, the probability of the row's own label by a head that did not see the row;
    `label_issue`, 1 where the label is probably wrong, else 0.

    Args:
        embeddings: shape (N, D).
        labels: shape (N,), whole numbers.
        config: see `ConfidentConfig`.
        groups: of each row, such as its document; rows of one group are never in two parts.

    Raises:
        SelectionError: embeddings or labels are not what they should be, or a class is in one part only.
        MissingExtra: cleanlab is not installed.
    """
    cleanlab = require("cleanlab", "selection", "finding wrong labels")
    chances = out_of_fold_probabilities(embeddings, labels, config, groups)
    classes_of, _ = class_numbers(labels, len(chances))
    issues = cleanlab.filter.find_label_issues(classes_of, chances, filter_by=config.filter_by, n_jobs=1)
    quality = cleanlab.rank.get_label_quality_scores(classes_of, chances, method="self_confidence")
    return {"label_quality": np.asarray(quality, np.float64), "label_issue": np.asarray(issues, np.float64)}


def out_of_fold_probabilities(
    embeddings: Embeddings, labels: ArrayLike, config: ConfidentConfig, groups: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Probabilities of each class by heads that did not see the row, shape (N, classes); see `confident_learning`."""
    inputs = open_inputs(embeddings, config.device)
    classes_of, classes = class_numbers(labels, len(inputs))
    parts = _folds(classes_of, config, groups)
    found = np.empty((len(inputs), classes))
    with progress_bar(config.folds, "heads for confident learning", "heads") as bar:
        for fold in range(config.folds):
            others, asked = np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)
            if missing := sorted(set(range(classes)) - set(classes_of[others].tolist())):
                example = np.asarray(labels)[classes_of == missing[0]][0]
                raise SelectionError(
                    f"all rows with the label {example} are in one part of {config.folds}, so that no head could "
                    "learn it; leave them out, or label rows of another group so"
                )
            head = last_head(inputs, others, classes_of, classes, config, config.seed + fold)
            found[asked] = probabilities(head, inputs, asked)
            bar.update()
    return found


def _folds(classes_of: IntArray, config: ConfidentConfig, groups: Sequence[str] | None) -> IntArray:
    """The part of each row; each part has its share of each class, a group counting by its first row."""
    names = np.arange(len(classes_of)) if groups is None else np.asarray(groups)
    if len(names) != len(classes_of):
        raise SelectionError(f"there are {len(names)} groups for {len(classes_of)} rows; one a row is needed")
    _, first, members = np.unique(names, return_index=True, return_inverse=True)
    dealt = np.empty(len(first), np.int64)
    order = ascending_order(classes_of[first].astype(np.float64), np.random.default_rng(config.seed))
    dealt[order] = np.arange(len(first)) % config.folds
    return dealt[members]
