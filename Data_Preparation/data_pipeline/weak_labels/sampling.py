"""Which of a query's candidates are judged: strata of ranks, few of one document, seeded."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipeline.config.labels import SamplingConfig


def sample(documents: Sequence[str], query_id: str, config: SamplingConfig) -> list[int]:
    """Choose among a query's candidates.

    What a stratum cannot give, because it is short or its documents have had their share, the next one gives.
    The choice depends on the query's id and the seed, not on the other queries.

    Args:
        documents: source document of each candidate, best first.
        query_id: of the query.
        config: see `SamplingConfig`.

    Returns:
        Places of the chosen ones among the candidates, ascending; from 0.
    """
    digest = hashlib.blake2b(f"{config.seed}\0{query_id}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    chosen: list[int] = []
    used: Counter[str] = Counter()
    missing = 0
    for stratum in config.strata:
        places = np.arange(stratum.first - 1, min(stratum.last, len(documents)))
        wanted = stratum.take + missing
        if len(places) > wanted:
            places = rng.permutation(places)
        missing = wanted
        for place in places.tolist():
            if missing and used[documents[place]] < config.per_document:
                chosen.append(place)
                used[documents[place]] += 1
                missing -= 1
    return sorted(chosen)
