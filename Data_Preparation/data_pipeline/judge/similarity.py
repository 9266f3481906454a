"""Judge without a language model: cosine of embeddings, with thresholds from gold judgements.

It is cheap and needs no server, but cannot tell a passage that answers the query from one on the same topic. Use it to
try out a pipeline, or where gold judgements show that it is good enough.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from data_pipeline.errors import ConfigError
from data_pipeline.judge.base import JudgeIdentity, Judgement, OfflineJudge
from data_pipeline.types import Float32Array

GRADES = (1, 2, 3)
"""Grades that have a threshold; the grade below all thresholds is 0."""

EncodeTexts = Callable[[Sequence[str]], Float32Array]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Lowest cosine of grades 1, 2 and 3; infinite for a grade that no cosine reaches."""

    one: float
    two: float
    three: float

    def __post_init__(self) -> None:
        values = (self.one, self.two, self.three)
        if any(math.isnan(value) for value in values) or list(values) != sorted(values):
            raise ConfigError(f"thresholds must not fall from grade 1 to grade 3; got {values}")

    def grade(self, cosine: float) -> int:
        """Grade a pair by its cosine."""
        return sum(cosine >= value for value in (self.one, self.two, self.three))


def calibrate(cosines: ArrayLike, grades: ArrayLike, precision: float | None = None) -> Thresholds:
    """Find the thresholds that agree best with gold judgements.

    For each grade g, "at least g" is a binary question with its own threshold: the highest one with the best F1; or,
    with `precision`, the lowest one that reaches it, for the highest recall. A threshold below that of a lower grade is
    then raised to it.

    Args:
        cosines: cosines of judged pairs, shape (N,).
        grades: gold grades of the pairs, 0 to 3, shape (N,).
        precision: share of pairs at or above a threshold that must have the grade; above 0 and at most 1.

    Returns:
        Threshold of each grade; infinite if gold lacks the grade or no threshold reaches the precision.

    Raises:
        ConfigError: there are no pairs, shapes differ, or numbers are out of range.
    """
    values, gold = np.asarray(cosines, np.float64), np.asarray(grades)
    if values.ndim != 1 or values.shape != gold.shape or not len(values):
        raise ConfigError(f"expected one cosine and one grade per pair; got shapes {values.shape} and {gold.shape}")
    if not np.isfinite(values).all() or not np.isin(gold, range(4)).all():
        raise ConfigError("cosines must be finite, and gold grades 0, 1, 2 or 3")
    if precision is not None and not 0 < precision <= 1:
        raise ConfigError(f"precision must be above 0 and at most 1; got {precision}")
    order = np.argsort(-values, kind="stable")
    values, gold = values[order], gold[order]
    thresholds = [_find_threshold(values, gold >= grade, precision) for grade in GRADES]
    one, two, three = np.maximum.accumulate(thresholds).tolist()
    return Thresholds(one, two, three)


class CachedEncoder:
    """Encoder that keeps vectors in memory: a query comes with many passages, and a passage with many queries.

    Args:
        encode: texts -> vectors, shape (N, dim).
        max_texts: number of texts whose vectors are kept; then the cache is emptied.
    """

    def __init__(self, encode: EncodeTexts, max_texts: int = 50_000) -> None:
        self._encode, self._max_texts = encode, max_texts
        self._vectors: dict[str, Float32Array] = {}

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts; shape (N, dim)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if len(self._vectors) + len(missing) > self._max_texts:
            self._vectors.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._vectors.update(zip(missing, self._encode(missing), strict=True))
        return np.stack([self._vectors[text] for text in texts])


class SimilarityJudge(OfflineJudge):
    """Judge that grades by cosine; calls that wait at the same time are embedded together. See `base.Judge`.

    Args:
        encode_queries: texts -> vectors of length 1, shape (N, dim).
        encode_passages: texts -> vectors of length 1, shape (N, dim).
        thresholds: lowest cosines of the grades; see `calibrate`.
        embedder: identifies the vectors in the key of each judgement.
    """

    name = "similarity of embeddings (no LLM)"

    def __init__(
        self, encode_queries: EncodeTexts, encode_passages: EncodeTexts, thresholds: Thresholds, embedder: str
    ) -> None:
        # As text, since JSON has no infinity.
        parameters = {name: repr(value) for name, value in asdict(thresholds).items()}
        super().__init__(JudgeIdentity("similarity", embedder, "none", parameters))
        self._encode_queries, self._encode_passages, self._thresholds = encode_queries, encode_passages, thresholds
        self._waiting: list[tuple[str, str]] = []
        self._task: asyncio.Task[list[float]] | None = None
        """Task that will compute the waiting pairs; None if none wait."""
        self._one_batch = asyncio.Lock()

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        position = len(self._waiting)
        self._waiting.append((query, passage))
        if self._task is None:
            self._task = asyncio.create_task(self._compute())
        # A caller that is cancelled must not cancel the work of the others.
        cosine = (await asyncio.shield(self._task))[position]
        grade, chars = self._thresholds.grade(cosine), len(passage)
        return Judgement("ok", grade, answer=f"{cosine:.6f}", passage_chars=chars, shown_chars=chars)

    async def _compute(self) -> list[float]:
        async with self._one_batch:  # meanwhile further calls join this batch
            batch, self._waiting, self._task = self._waiting, [], None
            return await asyncio.to_thread(self._cosines, batch)

    def _cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        queries, passages = (dict.fromkeys(texts) for texts in zip(*pairs, strict=True))
        query_vectors = dict(zip(queries, self._encode_queries(list(queries)), strict=True))
        passage_vectors = dict(zip(passages, self._encode_passages(list(passages)), strict=True))
        return [cosine(query_vectors[query], passage_vectors[passage]) for query, passage in pairs]


def cosine(query_D: Float32Array, passage_D: Float32Array) -> float:
    """Compute the cosine of two vectors of length 1, for calibration and for judging.

    Each pair is computed alone and in double precision, so that the cosine does not depend on the batch: a threshold is
    the cosine of a gold pair, and that pair must reach it.
    """
    return float(query_D.astype(np.float64) @ passage_D.astype(np.float64))


def _find_threshold(values: np.ndarray, positive: np.ndarray, precision: float | None) -> float:
    """Find the lowest cosine that counts as positive; `values` fall, and each may be the threshold."""
    if not positive.any():
        return math.inf
    hits = np.cumsum(positive)
    counts = np.arange(1, len(values) + 1)
    # A threshold cannot separate equal cosines: only the last of them is a candidate.
    is_last = np.append(values[:-1] != values[1:], True)
    if precision is None:
        f1 = np.where(is_last, 2 * hits / (counts + positive.sum()), -1.0)
        return float(values[int(np.argmax(f1))])
    reached = np.flatnonzero(is_last & (hits / counts >= precision))
    return float(values[reached[-1]]) if len(reached) else math.inf
