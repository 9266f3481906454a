"""Clusters of the rows of a sample, named by the words that are typical of them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.vectors import VectorBlocks
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils.words import split_words

_MAX_CLUSTERS = 20
_ROWS_PER_CLUSTER = 10
_READ_ROWS = 60
_READ_CHARS = 600
_WORDS = 3
_MIN_LETTERS = 4


def named_clusters(vectors_ND: Float32Array, texts: Sequence[str], seed: int = 0) -> list[str]:
    """Cluster rows by k-means, and return the name of the cluster of each row.

    Args:
        vectors_ND: vectors, shape (N, D).
        texts: their texts.
        seed: seed of the clusters.
    """
    count = max(1, min(_MAX_CLUSTERS, len(vectors_ND) // _ROWS_PER_CLUSTER))
    blocks = VectorBlocks(vectors_ND, torch.device("cpu"), unit=True)
    found = cluster(blocks, count, np.random.default_rng(seed), full_passes=1)
    members = [found.by_distance(rows, "nearest")[:_READ_ROWS] for rows in found.members()]
    names = [f"{number + 1}: {', '.join(words)}" for number, words in enumerate(_typical_words(members, texts))]
    return [names[number] for number in found.labels.tolist()]


def _typical_words(members: Sequence[IntArray], texts: Sequence[str]) -> list[list[str]]:
    """Words that are most frequent in the rows of each cluster, weighed by how few clusters have them."""
    counts = [Counter(word for row in rows.tolist() for word in set(_words(texts[row]))) for rows in members]
    spread = Counter(word for counter in counts for word in counter)
    typical = []
    for counter in counts:
        weighed = sorted(counter, key=lambda word: (-counter[word] * np.log((1 + len(counts)) / spread[word]), word))
        typical.append(weighed[:_WORDS])
    return typical


def _words(text: str) -> list[str]:
    return [word for word in split_words(text[:_READ_CHARS].lower()) if len(word) >= _MIN_LETTERS and word.isalpha()]
