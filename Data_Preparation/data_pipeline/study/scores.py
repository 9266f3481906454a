"""Scores of a classifier on the dev rows."""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import Float32Array, IntArray

_LEAST_PROBABILITY = 1e-12


def classification_scores(truth: IntArray, probabilities: Float32Array) -> dict[str, float]:
    """Accuracy, F1, precision, recall and mean cross-entropy.

    With two classes F1, precision and recall are those of class 1; with more, means over the classes. A class that is
    never predicted has precision 0.

    Args:
        truth: Shape (N,), classes counted from 0.
        probabilities: Shape (N, C).
    """
    predicted = probabilities.argmax(axis=1)
    classes = probabilities.shape[1]
    by_class = [_precision_recall_f1(truth == index, predicted == index) for index in range(classes)]
    precision, recall, f1 = by_class[1] if classes == 2 else tuple(np.mean(by_class, axis=0).tolist())
    likelihood = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return {
        "accuracy": float((truth == predicted).mean()),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "loss": float(-np.log(np.maximum(likelihood, _LEAST_PROBABILITY)).mean()),
    }


def _precision_recall_f1(true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[float, float, float]:
    hits, positives, relevant = int((true & predicted).sum()), int(predicted.sum()), int(true.sum())
    return hits / max(1, positives), hits / max(1, relevant), 2 * hits / max(1, positives + relevant)
