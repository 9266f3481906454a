"""Which of a query's candidates are judged: strata of ranks, few of one document, seeded."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from data_pipeline.config import Section


class Stratum(Section):
    """A range of ranks, and how many of it are taken."""

    first: int = Field(ge=1)
    """The best rank of the range; ranks count from 1."""
    last: int = Field(ge=1)
    """The worst rank of the range, inclusive."""
    take: int = Field(ge=0)
    """Number of passages that are taken, at random if the range has more."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last ({self.last}) is before first ({self.first})")
        return self


_DEFAULT = (Stratum(first=1, last=15, take=15), Stratum(first=16, last=40, take=6), Stratum(first=41, last=100, take=4))


class SamplingConfig(Section):
    """Sampling of the candidates that are judged."""

    strata: tuple[Stratum, ...] = _DEFAULT
    """Strata of ranks; by default about 25 passages of a query, the best 15 and some from further down."""
    per_document: int = Field(2, ge=1)
    """Maximum number of passages of one source document."""
    seed: int = 0
    """Seed of the choice within strata that are not taken whole."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for before, after in zip(self.strata, self.strata[1:], strict=False):
            if after.first <= before.last:
                raise ValueError(f"the strata {before.first}-{before.last} and {after.first}-{after.last} overlap")
        return self


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
