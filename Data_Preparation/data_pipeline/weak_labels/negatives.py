"""Hard negatives: passages that a retriever ranks high and the judge graded as not relevant.

A pair without a judgement, or with a failed one, is no negative. A passage that is too similar to a positive, by its
score, its words or its position in the same document, may be relevant and is left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.config.labels import NegativesConfig, PositivesConfig
from data_pipeline.judge.base import RELEVANT
from data_pipeline.weak_labels.state import JudgedPair

Kind = Literal["both", "bm25", "dense", "sparse", "further_down"]
"""Origin of a negative: the top of several rankings, the top of only one of them, or further down."""


@dataclass(frozen=True)
class Negative:
    """A hard negative, with its scores and ranks."""

    passage_id: str
    kind: Kind
    scores: Mapping[str, float]
    ranks: Mapping[str, int]
    p: float | None
    """Probability by the judge that the passage is relevant; None if it reports none."""


@dataclass(frozen=True)
class Mined:
    """Positives and hard negatives of one query."""

    query_id: str
    query: str
    positives: list[JudgedPair]
    """Passages of grade 2 or 3 with a high enough probability; best grade first, then in the order of the ranking."""
    negatives: list[Negative]
    """Hard negatives in the order of the ranking, hardest first."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of judged passages that are neither positive nor negative, by reason."""
    missing: int = 0
    """Number of negatives that are missing to the requested number."""


def mine(
    pairs: Sequence[JudgedPair],
    config: NegativesConfig,
    text_of: Callable[[str], str],
    neighbours_of: Callable[[str], Sequence[str]],
    positives: PositivesConfig = PositivesConfig(),  # noqa: B008, it is frozen
) -> Mined:
    """Select the positives and hard negatives of one query.

    Args:
        pairs: all pairs of the query, in the order of the ranking.
        config: see `NegativesConfig`.
        text_of: passage id -> text.
        neighbours_of: passage id -> ids of neighbouring passages in its document.
        positives: see `PositivesConfig`. Negatives are compared with all relevant passages, including those that these
            settings leave out.
    """
    judged = [pair for pair in pairs if pair.grade is not None]
    relevant = [pair for pair in judged if _grade(pair) >= RELEVANT]
    relevant.sort(key=lambda pair: -_grade(pair))  # stable: equal grades stay in the order of the ranking
    sure = [pair for pair in relevant if pair.p is None or pair.p >= positives.min_p]
    selected = sure[: positives.per_query]
    find_reason = _exclusion_check(relevant, config, text_of, neighbours_of)
    negatives: list[Negative] = []
    left_out = Counter(relevant_but_unsure=len(relevant) - len(sure), more_positives=len(sure) - len(selected))
    for pair in judged:
        if _grade(pair) != 0:
            left_out["partly_relevant"] += 0 if _grade(pair) >= RELEVANT else 1
            continue
        reason = find_reason(pair)
        if reason is not None:
            left_out[reason] += 1
        elif len(negatives) < config.per_query:
            negatives.append(_make_negative(pair, config))
    first, missing = pairs[0], config.per_query - len(negatives)
    counts = {reason: count for reason, count in sorted(left_out.items()) if count}
    return Mined(first.candidate.query_id, first.query, selected, negatives, counts, missing)


def jaccard(one: str, other: str, width: int = 5) -> float:
    """Compute the similarity of two texts' sets of character n-grams, ignoring white space and case; 0 to 1.

    See Broder, "On the resemblance and containment of documents", 1997.
    """
    grams = [_grams(text, width) for text in (one, other)]
    union = len(grams[0] | grams[1])
    return len(grams[0] & grams[1]) / union if union else 1.0


def _grams(text: str, width: int) -> set[str]:
    plain = " ".join(text.casefold().split())
    return {plain[start : start + width] for start in range(max(1, len(plain) - width + 1))}


def _grade(pair: JudgedPair) -> int:
    assert pair.grade is not None
    return pair.grade


def _exclusion_check(
    positives: Sequence[JudgedPair],
    config: NegativesConfig,
    text_of: Callable[[str], str],
    neighbours_of: Callable[[str], Sequence[str]],
) -> Callable[[JudgedPair], str | None]:
    """Make the function that gives the reason why a passage is no negative; None if it is one."""
    ids = [pair.candidate.passage_id for pair in positives]
    neighbours = {other for passage_id in ids for other in neighbours_of(passage_id)}
    texts = [text_of(passage_id) for passage_id in ids]
    positive_scores = [pair.candidate.scores.get(config.margin_score) for pair in positives]
    scores = [score for score in positive_scores if score is not None]
    limit = min(scores) * config.margin if scores else None

    def reason(pair: JudgedPair) -> str | None:
        passage_id, score = pair.candidate.passage_id, pair.candidate.scores.get(config.margin_score)
        if pair.p is not None and pair.p > config.max_p:
            return "judge_unsure"
        if passage_id in neighbours:
            return "neighbour_of_positive"
        if limit is not None and (score is None or score > limit):
            return "score_near_positive"
        text = text_of(passage_id)
        if any(jaccard(text, positive) >= config.near_duplicate for positive in texts):
            return "copy_of_positive"
        return None

    return reason


def _make_negative(pair: JudgedPair, config: NegativesConfig) -> Negative:
    candidate = pair.candidate
    lists: tuple[Kind, ...] = ("bm25", "dense", "sparse")
    tops = [name for name in lists if candidate.ranks.get(name, config.top + 1) <= config.top]
    kind: Kind = "both" if len(tops) > 1 else tops[0] if tops else "further_down"
    return Negative(candidate.passage_id, kind, candidate.scores, candidate.ranks, pair.p)
