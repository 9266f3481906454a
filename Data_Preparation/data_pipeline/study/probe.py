"""The probe: a small head over the stored embeddings, trained in seconds where a transformer takes minutes."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.heads import (
    EmbedderIdentity,
    Head,
    Labelled,
    Scorer,
    load_head,
    probabilities,
    save_head,
    train_head,
)
from data_pipeline.heads.identity import identity_settings
from data_pipeline.heads.labelled import label_name
from data_pipeline.study.config import ProbeConfig
from data_pipeline.types import Float32Array, IntArray


def fit_probe(
    vectors: NDArray[Any],
    labels: IntArray,
    ids: Sequence[str],
    config: ProbeConfig,
    seed: int,
    embedder: Mapping[str, str],
) -> Head:
    """Train the probe.

    Args:
        vectors: Shape (N, D), embeddings.
        labels: Shape (N,), labels as in the store.
        ids: Ids of the rows; each row is a document of its own.
        config: Training settings.
        seed: Seed of the weights, the data order, and the rows held out to choose the epoch.
        embedder: Metadata of the file of the embeddings.

    Raises:
        ConfigError: All rows have the same label.
        SourceError: A label occurs only in the held-out rows.
    """
    identity = identity_settings(embedder)
    data = Labelled(vectors, labels.astype(np.float64), np.array(ids, np.str_), identity, "the subset")
    kind = ("binary" if len(np.unique(labels)) == 2 else "multiclass") if config.kind == "auto" else config.kind
    training = config.model_copy(update={"kind": kind, "seeds": [seed]})
    with _one_thread():
        return train_head(data, training, EmbedderIdentity(identity)).head


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: more are slower for products this small, and the head would depend on their number."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def probe_probabilities(head: Head, vectors: NDArray[Any], classes: Sequence[int]) -> Float32Array:
    """Probabilities of the classes, shape (N, C); 0 for a class without rows in the subset.

    Args:
        head: A trained probe.
        vectors: Shape (N, D), embeddings.
        classes: Labels of the training split, C of them.
    """
    head_probabilities = probabilities(head, Scorer({"head": head}).outputs(vectors)[0])
    outputs = {name: index for index, name in enumerate(head.labels)}
    result = np.zeros((len(vectors), len(classes)), np.float32)
    for column, label in enumerate(classes):
        if (output := outputs.get(label_name(label))) is not None:
            result[:, column] = head_probabilities[:, output]
    return result


def save_probe(head: Head, folder: Path) -> None:
    """Save the probe as a head that `elm annotate` accepts, too."""
    save_head(head, folder, overwrite=True)


def load_probe(folder: Path) -> Head:
    """Load the head that `save_probe` wrote."""
    return load_head(str(folder))
