"""How unsure a classifier is of a text: the entropy of its classes' probabilities (Shannon, 1948), in nats."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.errors import ModelError, SelectionError
from data_pipeline.metrics.models import ModelConfig, batches, finite, load_text_model
from data_pipeline.utils import progress_bar, refuse_single_text

_ROUNDING = 1e-3  # by which probabilities that were stored in half precision may miss a sum of 1


def predictive_entropy(texts: Sequence[str], config: ModelConfig) -> dict[str, NDArray[np.float64]]:
    """Entropy by a text classifier, column `predictive_entropy`, from 0 to the logarithm of the number of classes.

    A model that was trained on the labels of these very texts is sure of them for that reason alone, and brings in
    more labels than a budget allows.

    Raises:
        SelectionError: a text has no tokens.
        ModelError: the model cannot be loaded, is no classifier of one class a text, or gives no finite number.
    """
    refuse_single_text(texts, "texts")
    model = load_text_model(config, "AutoModelForSequenceClassification")
    settings = model.model.config
    if settings.num_labels < 2 or settings.problem_type not in (None, "single_label_classification"):
        raise ModelError(
            f"{config.model} has {settings.num_labels} outputs for {settings.problem_type or 'one number'}; an entropy "
            "needs a classifier that gives each text one of two classes or more"
        )
    if settings.pad_token_id is None:
        raise ModelError(f"{config.model} names no padding token in its config; set pad_token_id there")
    rows = [tokens.ids for tokens in model.tokenize(texts, special_tokens=True)]
    lengths = np.array([len(ids) for ids in rows], np.int64)
    values = np.zeros(len(rows))
    with progress_bar(len(rows), "predictive entropy", "texts") as bar:
        for batch in batches(lengths, config.batch_tokens):
            values[batch] = _entropy(model.logits([rows[row] for row in batch.tolist()]))
            bar.update(len(batch))
    return finite("predictive_entropy", values, config.model)


def entropy_of_probabilities(probabilities: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """The same from probabilities that are there already.

    Args:
        probabilities: shape (N, classes), 0 to 1, of sum 1 in each row.

    Raises:
        SelectionError: they are not.
    """
    found = np.asarray(probabilities, np.float64)
    if found.ndim != 2 or found.shape[1] < 2:
        raise SelectionError(f"probabilities must be of shape (rows, two classes or more), found {found.shape}")
    right = (found >= 0).all(axis=1) & (np.abs(found.sum(axis=1) - 1) <= _ROUNDING)
    if len(bad := np.flatnonzero(~right)):
        raise SelectionError(
            f"row {bad[0]} ({found[bad[0]].tolist()}) and {len(bad) - 1} more are no probabilities: 0 to 1, of sum 1"
        )
    found = found / found.sum(axis=1, keepdims=True)
    logarithms = np.log(found, out=np.zeros_like(found), where=found > 0)
    return {"predictive_entropy": np.abs((found * logarithms).sum(axis=1))}


def _entropy(logits: Tensor) -> NDArray[np.float64]:
    logarithms = logits.cpu().double().log_softmax(dim=1)
    found: NDArray[np.float64] = (logarithms.exp() * logarithms).sum(dim=1).abs().numpy()
    return found
