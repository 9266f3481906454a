"""Sampling of the candidates to judge: from strata of ranks, a few per document, with a seed."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipeline.config.labels import SamplingConfig


def sample(documents: Sequence[str], query_id: str, config: SamplingConfig) -> list[int]:
    """Sample the candidates of a query.

    If a stratum has too few candidates, or too many of the same documents, the next one makes up for it. The sample
    depends on the query's id and the seed, not on the other queries.

    Args:
        documents: source document of each candidate, best first.
        query_id: id of the query.
        config: see `SamplingConfig`.

    Returns:
        Positions of the sampled candidates, ascending, from 0.
    """
    digest = hashlib.blake2b(f"{config.seed}\0{query_id}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    sampled: list[int] = []
    per_document: Counter[str] = Counter()
    missing = 0
    for stratum in config.strata:
        positions = np.arange(stratum.first - 1, min(stratum.last, len(documents)))
        missing += stratum.take
        if len(positions) > missing:
            positions = rng.permutation(positions)
        for position in positions.tolist():
            if missing and per_document[documents[position]] < config.per_document:
                sampled.append(position)
                per_document[documents[position]] += 1
                missing -= 1
    return sorted(sampled)
