"""Grades from answers and log-probabilities; an answer that is not clearly a grade has none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.judge.base import RELEVANT

MAX_OUTSIDE = 0.5
"""Probability of other answers above which an answer does not count as a label."""

# Spaces as SentencePiece and byte-level tokenizers write them: some servers report raw tokens.
_SPACES = "\u2581\u0120\u010a"
_IGNORED = " \t\r\n.,;:!*_`'\"()[]{}<>\u201c\u201d\u2018\u2019\u3002" + _SPACES


@dataclass(frozen=True, slots=True)
class Reading:
    """Grade and probabilities from the log-probabilities of a first token."""

    grade: int
    p: float
    """Probability of the relevant grades, among the labels."""
    confidence: float
    """Probability of the grade, among the labels."""
    outside: float
    """Probability of all tokens that are not labels."""


def parse_answer(answer: str, labels: Mapping[str, int]) -> int | None:
    """Read the grade that an answer consists of; None if the answer is or holds anything else.

    The whole answer must be one label, apart from white space and punctuation around it. A longer answer cannot be read
    by its first word, nor by the words in it: "No. YES would be wrong" holds both.

    Args:
        answer: text of the reply.
        labels: answer in lower case -> grade.
    """
    return labels.get(answer.strip(_IGNORED).casefold())


def read_logprobs(top: Sequence[tuple[str, float]], labels: Mapping[str, int]) -> Reading | None:
    """Compute the probabilities of the grades from those of the first token.

    The probabilities of all spellings of a label (" YES", "Yes", "yes") are added. Among the labels this is the softmax
    over their logits; the rest, including tokens that the server did not list, is the probability outside.

    Args:
        top: likeliest tokens, each with the natural logarithm of its probability.
        labels: answer in lower case -> grade.

    Returns:
        Grade and probabilities; None if no label has any probability.

    Raises:
        ValueError: the numbers are not logarithms of probabilities.
    """
    mass = dict.fromkeys(sorted(set(labels.values())), 0.0)
    for token, logprob in top:
        # Rounding may give numbers a little above 0.
        if math.isnan(logprob) or logprob > 1e-3:
            raise ValueError(f"the logprob of {token!r} is {logprob}; expected a number of at most 0")
        grade = parse_answer(token, labels)
        if grade is not None:
            mass[grade] += math.exp(logprob)
    inside = math.fsum(mass.values())
    if inside > 1.01:
        raise ValueError(f"the probabilities of the labels add up to {inside:.3f}; expected at most 1")
    if inside <= 0:
        return None
    grade = max(mass, key=lambda value: mass[value])
    relevant = math.fsum(share for value, share in mass.items() if value >= RELEVANT)
    return Reading(grade, relevant / inside, mass[grade] / inside, max(0.0, 1 - inside))


def first_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Read the likeliest first tokens of a choice; empty if the server reports none.

    Raises:
        ValueError: the log-probabilities do not have the form of the API.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not content:
        return []
    try:
        top = content[0].get("top_logprobs") or [content[0]]
        return [(str(item["token"]), float(item["logprob"])) for item in top]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"logprobs have an unknown form: {str(content)[:200]}") from error
