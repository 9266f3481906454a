"""The probe: a small head over the stored vectors, in seconds where a transformer takes minutes."""

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
        vectors: shape (N, D).
        labels: shape (N,), as they stand in the store.
        ids: of the rows; each is a document of its own.
        config: of the training.
        seed: of its weights, the order of the rows, and those held out to choose the epoch.
        embedder: metadata of the vectors' file.

    Raises:
        ConfigError: all rows have one label.
        SourceError: a label is only in the rows held out.
    """
    known = identity_settings(embedder)
    data = Labelled(vectors, labels.astype(np.float64), np.array(ids, np.str_), known, "the subset")
    kind = ("binary" if len(np.unique(labels)) == 2 else "multiclass") if config.kind == "auto" else config.kind
    asked = config.model_copy(update={"kind": kind, "seeds": [seed]})
    with _one_thread():
        return train_head(data, asked, EmbedderIdentity(known)).head


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small are slower on several, and the head would depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def probe_probabilities(head: Head, vectors: NDArray[Any], classes: Sequence[int]) -> Float32Array:
    """Of each class, shape (N, C); 0 for a class that the subset has no row of."""
    known = probabilities(head, Scorer({"head": head}).outputs(vectors)[0])
    places = {name: place for place, name in enumerate(head.labels)}
    found = np.zeros((len(vectors), len(classes)), np.float32)
    for number, label in enumerate(classes):
        if (place := places.get(label_name(label))) is not None:
            found[:, number] = known[:, place]
    return found


def save_probe(head: Head, folder: Path) -> None:
    """As a head that `elm annotate` takes too."""
    save_head(head, folder, overwrite=True)


def load_probe(folder: Path) -> Head:
    """The head that `save_probe` wrote."""
    return load_head(str(folder))
