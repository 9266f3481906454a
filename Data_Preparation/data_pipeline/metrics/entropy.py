"""Predictive entropy of a classifier: the entropy of its class probabilities (Shannon, 1948), in nats."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.errors import ModelError, SelectionError
from data_pipeline.metrics.models import ModelConfig, batches, finite, load_text_model
from data_pipeline.utils import progress_bar, refuse_single_text

_ROUNDING = 1e-3  # error of the sum of probabilities that were stored in half precision


def predictive_entropy(texts: Sequence[str], config: ModelConfig) -> dict[str, NDArray[np.float64]]:
    """Entropy by a text classifier, column `predictive_entropy`, from 0 to the logarithm of the number of classes.

    A model that was trained on the labels of the same texts is sure of them for that reason alone, and has seen more
    labels than the budget of a selection allows.

    Args:
        texts: N texts.
        config: The classifier.

    Raises:
        SelectionError: A text has no tokens.
        ModelError: The model cannot be loaded, does not assign one class per text, or returns NaN or infinity.
    """
    refuse_single_text(texts, "texts")
    model = load_text_model(config, "AutoModelForSequenceClassification")
    settings = model.model.config
    if settings.num_labels < 2 or settings.problem_type not in (None, "single_label_classification"):
        raise ModelError(
            f"{config.model} has {settings.num_labels} outputs for {settings.problem_type or 'one number'}; expected a "
            "classifier that assigns each text one of two classes or more"
        )
    if settings.pad_token_id is None:
        raise ModelError(f"{config.model} has no padding token in its config. Set pad_token_id there")
    rows = [tokens.ids for tokens in model.tokenize(texts, special_tokens=True)]
    lengths = np.array([len(ids) for ids in rows], np.int64)
    values = np.zeros(len(rows))
    with progress_bar(len(rows), "predictive entropy", "texts") as bar:
        for batch in batches(lengths, config.batch_tokens):
            values[batch] = _entropy(model.logits([rows[row] for row in batch.tolist()]))
            bar.update(len(batch))
    return finite("predictive_entropy", values, config.model)


def entropy_of_probabilities(probabilities: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Entropy of existing probabilities, column `predictive_entropy`.

    Args:
        probabilities: Shape (N, classes), 0 to 1, of sum 1 in each row.

    Raises:
        SelectionError: The array has another shape, or a row is not a probability distribution.
    """
    shares = np.asarray(probabilities, np.float64)
    if shares.ndim != 2 or shares.shape[1] < 2:
        raise SelectionError(f"probabilities must have the shape (rows, two classes or more), found {shares.shape}")
    valid = (shares >= 0).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) <= _ROUNDING)
    if len(bad := np.flatnonzero(~valid)):
        raise SelectionError(
            f"probabilities of a row must be 0 to 1 and sum to 1, found {shares[bad[0]].tolist()} in row {bad[0]}, and "
            f"{len(bad) - 1} more rows"
        )
    shares = shares / shares.sum(axis=1, keepdims=True)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return {"predictive_entropy": np.abs((shares * logarithms).sum(axis=1))}


def _entropy(logits: Tensor) -> NDArray[np.float64]:
    logarithms = logits.cpu().double().log_softmax(dim=1)
    return (logarithms.exp() * logarithms).sum(dim=1).abs().numpy()
