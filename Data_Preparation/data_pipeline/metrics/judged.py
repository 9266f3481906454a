"""A language model's answer about each text, YES or NO to one question, such as whether the text is clear.

Answers are stored in a cache of judgements: a run that was stopped resumes, a text that occurs twice is asked about
once, and a call that failed is no answer. Asking a model to rate single rows: Chen et al., "AlpaGasus" (2023),
arXiv:2307.08701.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_pipeline.config import Section
from data_pipeline.config.judge import JudgeConfig
from data_pipeline.judge import STATUSES, Judge, Judgement
from data_pipeline.judge.cache import JudgementCache
from data_pipeline.judge.openai import LLMJudge
from data_pipeline.judge.pool import run_judge
from data_pipeline.judge.prompts import TEXT_PROMPT
from data_pipeline.judge.recorder import Judged
from data_pipeline.judge.summary import JudgeSummary, no_label_error

logger = logging.getLogger(__name__)

_BEST_GRADE = 3


class JudgedTextsConfig(Section):
    """Question about each text, and the judge that answers it."""

    question: str = Field(
        "Is this text clear and unambiguous? A text that is sarcastic or ironic, garbled, cut off, or that careful "
        "readers would understand in different ways is not.",
        min_length=1,
    )
    """Question that is answered YES or NO; YES is the better answer."""
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    """Model, retries and limits; the `passage_...` limits apply to the text."""

    @model_validator(mode="after")
    def _answers_questions(self) -> Self:
        if self.judge.judge != "llm" or self.judge.mode != "binary":
            raise ValueError(
                "judge: a question about a text is answered YES or NO by a language model; leave judge at llm and "
                "mode at binary"
            )
        return self


@dataclass(frozen=True, slots=True)
class _TextItem:
    """A text and the question about it; see `judge.Judgeable`."""

    row: int
    query: str
    passage: str


def judged_texts(
    texts: Sequence[str], config: JudgedTextsConfig, cache_path: Path, *, judge: Judge | None = None
) -> dict[str, NDArray[np.float64]]:
    """Ask about every text, column `llm_judge`: the probability of YES, or 1 and 0 if the server reports none.

    The value is NaN where there is no answer: the call failed, the model refused or answered something else, or
    max_calls was reached. Their number is logged; the next run with the same cache asks about them again.

    Args:
        texts: N texts.
        config: see `JudgedTextsConfig`.
        cache_path: SQLite file with the answers; it is made if it does not exist.
        judge: used instead of the one that the config names. Its grades, 0 to 3, become 0, 1/3, 2/3 and 1.

    Raises:
        JudgeError: the judge cannot be used, fails too often, or gives no answer at all; earlier answers are stored.
        StoreError: the cache cannot be used.
        ConfigError, MissingExtraError: the judge cannot be loaded.
    """
    judge = judge or LLMJudge(config.judge, TEXT_PROMPT)
    values = np.full(len(texts), np.nan)
    failures: list[Judgement] = []

    def collect(judged: Sequence[Judged[_TextItem]]) -> None:
        for result in judged:
            values[result.item.row] = _to_value(result.judgement)
            if result.judgement.status != "ok" and not failures:
                failures.append(result.judgement)

    cache_path.parent.mkdir(parents=True, exist_ok=True)
    items = (_TextItem(row, config.question, text) for row, text in enumerate(texts))
    with JudgementCache(cache_path) as cache:
        summary = run_judge(items, judge, cache, config.judge, total=len(texts), on_recorded=collect)
    if failures and not summary.labels:
        raise no_label_error(judge.name, summary.statuses, failures[0])
    if missing := int(np.isnan(values).sum()):
        _warn_of_missing(missing, len(texts), summary)
    return {"llm_judge": values}


def _warn_of_missing(missing: int, texts: int, summary: JudgeSummary) -> None:
    counts: dict[str, int] = {status: summary.statuses[status] for status in STATUSES if status != "ok"}
    counts["not asked"] = missing - sum(counts.values())
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items() if count)
    logger.warning("%s of %s texts have no answer (%s); run the same command to ask again", missing, texts, reasons)


def _to_value(judgement: Judgement) -> float:
    if judgement.grade is None:
        return np.nan
    return judgement.grade / _BEST_GRADE if judgement.p is None else judgement.p
