"""The probe: a small head over the stored embeddings, trained in seconds where a transformer takes minutes."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.dataset import ELMDataset
from data_pipeline.heads import EmbedderIdentity, Head, Labelled, Scorer, probabilities, train_head
from data_pipeline.heads.identity import identity_settings
from data_pipeline.heads.labelled import label_name
from data_pipeline.study.config import LABEL, ProbeConfig
from data_pipeline.types import Float32Array


def fit_probe(dataset: ELMDataset, config: ProbeConfig, seed: int) -> Head:
    """Train the probe.

    Args:
        dataset: Rows to train on, with embeddings and labels; each row is a document of its own.
        config: Training settings.
        seed: Seed of the weights, the data order, and the rows held out to choose the epoch.

    Raises:
        ConfigError: All rows have the same label.
        SourceError: A label occurs only in the held-out rows.
    """
    identity = identity_settings(dataset.rows.first_shard.metadata)
    labels = dataset.metadata[LABEL].to_numpy().astype(np.float64)
    ids = np.array(dataset.metadata["text_id"].to_list(), np.str_)
    data = Labelled(dataset.to_numpy(), labels, ids, identity, "the subset")
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
