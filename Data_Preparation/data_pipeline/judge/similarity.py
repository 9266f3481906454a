"""A judge without a language model: cosine of embeddings, with thresholds from gold judgements.

It is cheap, needs no server, and knows no more than its embedder: it takes passages on the topic for answers. Use it
to see a pipeline run, or where gold judgements show that it is good enough.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from data_pipeline.errors import ConfigError
from data_pipeline.judge.base import JudgeIdentity, Judgement
from data_pipeline.types import Float32Array

GRADES = (1, 2, 3)
"""Grades that have a threshold; below all of them it is 0."""

EncodeTexts = Callable[[Sequence[str]], Float32Array]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Lowest cosine of each grade; infinite for a grade that no cosine reaches."""

    one: float
    two: float
    three: float

    def __post_init__(self) -> None:
        values = (self.one, self.two, self.three)
        if any(math.isnan(value) for value in values) or list(values) != sorted(values):
            raise ConfigError(f"thresholds must rise from grade 1 to grade 3; got {values}")

    def grade(self, cosine: float) -> int:
        """Grade of a pair with this cosine."""
        return sum(cosine >= value for value in (self.one, self.two, self.three))


def calibrate(cosines: ArrayLike, grades: ArrayLike, precision: float | None = None) -> Thresholds:
    """Find the thresholds that agree best with gold judgements.

    For each grade g, "at least g" is a yes-or-no question with a threshold of its own: that of the best F1, the
    highest such; or, with `precision`, the lowest one that reaches it, so that as much as possible is found. The three
    are then made to rise.

    Args:
        cosines: shape (N,), of judged pairs.
        grades: shape (N,), their gold grades, 0 to 3.
        precision: share of pairs at or above a threshold that must truly have the grade; above 0, at most 1.

    Returns:
        One threshold a grade; infinite for grades that gold does not have, or whose precision is out of reach.

    Raises:
        ConfigError: there is nothing to learn from, or numbers are out of range.
    """
    values, gold = np.asarray(cosines, np.float64), np.asarray(grades)
    if values.ndim != 1 or values.shape != gold.shape or not len(values):
        raise ConfigError(f"expected one cosine and one grade a pair; got shapes {values.shape} and {gold.shape}")
    if not np.isfinite(values).all() or not np.isin(gold, range(4)).all():
        raise ConfigError("cosines must be finite, and gold grades 0, 1, 2 or 3")
    if precision is not None and not 0 < precision <= 1:
        raise ConfigError(f"precision must be above 0 and at most 1; got {precision}")
    order = np.argsort(-values, kind="stable")
    values, gold = values[order], gold[order]
    found = [_threshold(values, gold >= grade, precision) for grade in GRADES]
    one, two, three = np.maximum.accumulate(found).tolist()
    return Thresholds(one, two, three)


class Remembered:
    """An encoder that embeds a text once, while there is room: a query comes with many passages, and a passage again.

    Args:
        encode: texts -> vectors, shape (N, dim).
        most: texts that are kept; then it begins anew.
    """

    def __init__(self, encode: EncodeTexts, most: int = 50_000) -> None:
        self._encode, self._most = encode, most
        self._known: dict[str, Float32Array] = {}

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        """Vectors of texts, shape (N, dim)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(missing) > self._most:
            self._known.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._known.update(zip(missing, self._encode(missing), strict=True))
        return np.stack([self._known[text] for text in texts])


class SimilarityJudge:
    """Grades by cosine. See `base.Judge`; calls that wait at the same time are embedded together.

    Args:
        encode_queries: texts -> vectors of length 1, shape (N, dim).
        encode_passages: the same for passages.
        thresholds: from `calibrate`.
        embedder: identifies the vectors, for the key of each judgement.
    """

    name = "similarity of embeddings (no LLM)"

    def __init__(
        self, encode_queries: EncodeTexts, encode_passages: EncodeTexts, thresholds: Thresholds, embedder: str
    ) -> None:
        self._encode_queries, self._encode_passages = encode_queries, encode_passages
        self._thresholds = thresholds
        # As text: JSON has no infinity.
        parameters = {name: repr(value) for name, value in asdict(thresholds).items()}
        self._identity = JudgeIdentity("similarity", embedder, "none", parameters)
        self._waiting: list[tuple[str, str]] = []
        self._next: asyncio.Task[list[float]] | None = None
        """Will compute those that wait."""
        self._turn = asyncio.Lock()

    @property
    def identity(self) -> JudgeIdentity:
        """Embedder and thresholds."""
        return self._identity

    async def open(self) -> None:
        """Do nothing; there is no connection."""

    async def close(self) -> None:
        """Do nothing; there is no connection."""

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        place = len(self._waiting)
        self._waiting.append((query, passage))
        if self._next is None:
            self._next = asyncio.create_task(self._compute())
        # One who goes away must not end the work of the others.
        cosine = (await asyncio.shield(self._next))[place]
        return Judgement(
            "ok",
            grade=self._thresholds.grade(cosine),
            answer=f"{cosine:.6f}",
            passage_chars=len(passage),
            shown_chars=len(passage),
        )

    async def _compute(self) -> list[float]:
        async with self._turn:  # meanwhile others join this batch
            batch, self._waiting, self._next = self._waiting, [], None
            return await asyncio.to_thread(self._cosines, batch)

    def _cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        queries, passages = (dict.fromkeys(texts) for texts in zip(*pairs, strict=True))
        left = dict(zip(queries, self._encode_queries(list(queries)), strict=True))
        right = dict(zip(passages, self._encode_passages(list(passages)), strict=True))
        return [cosine(left[query], right[passage]) for query, passage in pairs]


def cosine(query_D: Float32Array, passage_D: Float32Array) -> float:
    """Cosine of two vectors of length 1, as thresholds are calibrated and as pairs are judged.

    In double precision and each pair alone, so that it does not depend on the batch: a threshold is the cosine of a
    gold pair, and that pair must reach it.
    """
    return float(query_D.astype(np.float64) @ passage_D.astype(np.float64))


def _threshold(values: np.ndarray, positive: np.ndarray, precision: float | None) -> float:
    """The lowest cosine that counts; `values` fall, and each place is a threshold that lets in all up to it."""
    if not positive.any():
        return math.inf
    hits = np.cumsum(positive)
    taken = np.arange(1, len(values) + 1)
    # A threshold cannot part equal cosines: only the last of them is a place to cut.
    last = np.append(values[:-1] != values[1:], True)
    if precision is None:
        f1 = np.where(last, 2 * hits / (taken + positive.sum()), -1.0)
        return float(values[int(np.argmax(f1))])
    reached = np.flatnonzero(last & (hits / taken >= precision))
    return float(values[reached[-1]]) if len(reached) else math.inf
