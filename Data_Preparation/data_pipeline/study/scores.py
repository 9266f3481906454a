"""How good a classifier is on the dev rows."""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import Float32Array, IntArray

_LEAST_PROBABILITY = 1e-12


def classification_scores(truth: IntArray, probabilities: Float32Array) -> dict[str, float]:
    """Accuracy, F1, precision, recall and mean cross-entropy.

    With two classes F1, precision and recall are those of class 1; with more, means over the classes. A class that is
    never found has precision 0.

    Args:
        truth: shape (N,), classes from 0.
        probabilities: shape (N, C).
    """
    found = probabilities.argmax(axis=1)
    classes = probabilities.shape[1]
    of_class = [_of_class(truth == number, found == number) for number in range(classes)]
    precision, recall, f1 = of_class[1] if classes == 2 else tuple(np.mean(of_class, axis=0).tolist())
    likelihood = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return {
        "accuracy": float((truth == found).mean()),
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "loss": float(-np.log(np.maximum(likelihood, _LEAST_PROBABILITY)).mean()),
    }


def _of_class(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[float, float, float]:
    hits, said, there = int((true & found).sum()), int(found.sum()), int(true.sum())
    return hits / max(1, said), hits / max(1, there), 2 * hits / max(1, said + there)
