"""Grades from answers and log-probabilities; an answer that is not clearly a grade is none."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.judge.base import RELEVANT

MOST_OUTSIDE = 0.5
"""Probability of other answers above which an answer does not count as a label."""

# Spaces as SentencePiece and byte-level tokenizers write them, where a server hands out raw tokens.
_SPACES = "\u2581\u0120\u010a"
_AROUND = " \t\r\n.,;:!*_`'\"()[]{}<>\u201c\u201d\u2018\u2019\u3002" + _SPACES


@dataclass(frozen=True, slots=True)
class Reading:
    """Grade and probabilities from the log-probabilities of a first token."""

    grade: int
    p: float
    """Probability of the relevant grades, among the labels."""
    confidence: float
    """Probability of the grade, among the labels."""
    outside: float
    """Probability of all tokens that are no labels."""


def parse_answer(answer: str, labels: Mapping[str, int]) -> int | None:
    """The grade that an answer consists of; None if it is anything else, or holds more.

    The whole answer must be one label, white space and punctuation around it aside. An answer that says more cannot be
    read by its first word, nor by the words in it: "No. YES would be wrong" holds both.

    Args:
        answer: as the server gave it.
        labels: answer in lower case -> grade.
    """
    return labels.get(answer.strip(_AROUND).casefold())


def read_logprobs(top: Sequence[tuple[str, float]], labels: Mapping[str, int]) -> Reading | None:
    """Probabilities of the grades from those of the first token.

    Spellings of one label (" YES", "Yes", "yes") are added up. Among the labels this is the softmax over their logits;
    what is left over, tokens the server did not list included, is the mass outside.

    Args:
        top: (token, natural logarithm of its probability), the likeliest tokens.
        labels: answer in lower case -> grade.

    Returns:
        None where no label has any probability.

    Raises:
        ValueError: these are no logarithms of probabilities.
    """
    mass = dict.fromkeys(sorted(set(labels.values())), 0.0)
    for token, logprob in top:
        # Rounded numbers may end up a little above 0.
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
    """The likeliest first tokens of a choice; empty if the server gives none.

    Raises:
        ValueError: there are some, but not in the form of the API.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not content:
        return []
    try:
        top = content[0].get("top_logprobs") or [content[0]]
        return [(str(item["token"]), float(item["logprob"])) for item in top]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"logprobs of an unknown form: {str(content)[:200]}") from error
