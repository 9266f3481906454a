"""A language model's answer about each text, YES or NO to one question, such as whether the text is clear.

Answers are kept in the state file of the weak labels' judge: a run that was stopped resumes, a text that occurs twice
is asked about once, and a call that failed is no answer. Asking a model to rate single rows: Chen et al., "AlpaGasus"
(2023), arXiv:2307.08701.
"""

import hashlib
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_pipeline.config import Section
from data_pipeline.config.judge import JudgeConfig
from data_pipeline.judge import STATUSES, Judge, Judgement, Pair
from data_pipeline.judge.openai import LLMJudge
from data_pipeline.judge.pool import no_label_error, run_judge
from data_pipeline.judge.prompts import TEXT_PROMPT
from data_pipeline.judge.state import Candidate, Judged, State

logger = logging.getLogger(__name__)

_QUERY_ID = "question"
_BEST_GRADE = 3


class JudgedTextsConfig(Section):
    """The judge, and its question."""

    question: str = Field(
        "Is this text clear and unambiguous? A text that is sarcastic or ironic, garbled, cut off, or that careful "
        "readers would understand in different ways is not.",
        min_length=1,
    )
    """A question that YES or NO answers; YES is the better answer."""
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    """The model and how failures are met; `passage_...` limits are those of the text."""

    @model_validator(mode="after")
    def _answers_questions(self) -> Self:
        if self.judge.judge != "llm" or self.judge.mode != "binary":
            raise ValueError(
                "judge: a question about a text is answered YES or NO by a language model; leave judge at llm and "
                "mode at binary"
            )
        return self


def judged_texts(
    texts: Sequence[str], config: JudgedTextsConfig, state_path: Path, *, judge: Judge | None = None
) -> dict[str, NDArray[np.float64]]:
    """Ask about every text, column `llm_judge`: the probability of YES, or 1 and 0 where the server tells none.

    NaN where there is no answer: the call failed, the model refused or said something else, or max_calls was reached.
    How many these are is logged; the next run with the same state file asks about them again.

    Args:
        texts: N texts.
        config: see `JudgedTextsConfig`.
        state_path: SQLite file with the answers; made where there is none.
        judge: is asked instead of the one that the config names. Its grades are taken as thirds.

    Raises:
        JudgeError: the judge cannot be used, fails too often, or answers about no text at all; what was answered is
            kept.
        StoreError: the state file cannot be used.
        ConfigError, MissingExtra: the judge cannot be had.
    """
    judge = judge or LLMJudge(config.judge, TEXT_PROMPT)
    run = _run_id(config.question, texts)
    values = np.full(len(texts), np.nan)

    failures: list[Judgement] = []

    def note(answers: Sequence[Judged]) -> None:
        for one in answers:
            values[int(one.passage_id)] = _value(one.judgement)
            if one.judgement.status != "ok" and not failures:
                failures.append(one.judgement)

    state_path.parent.mkdir(parents=True, exist_ok=True)
    with State(state_path) as state:
        state.start_run(run, {"question": config.question})
        state.add_queries(run, [(_QUERY_ID, config.question)])
        state.add_candidates(run, _QUERY_ID, [Candidate(_QUERY_ID, str(row)) for row in range(len(texts))])
        pairs = (Pair(_QUERY_ID, str(row), config.question, text) for row, text in enumerate(texts))
        summary = run_judge(pairs, judge, state, run, config.judge, total=len(texts), on_recorded=note)
    if failures and not summary.labels:
        raise no_label_error(judge.name, summary.statuses, failures[0])
    if missing := int(np.isnan(values).sum()):
        reasons: dict[str, int] = {
            name: summary.statuses[name] for name in STATUSES if name != "ok" and summary.statuses[name]
        }
        reasons["not asked"] = missing - sum(reasons.values())
        told = ", ".join(f"{name}: {count:,}" for name, count in reasons.items() if count)
        logger.warning("%s of %s texts have no answer (%s); run it again to ask again", missing, len(texts), told)
    return {"llm_judge": values}


def _run_id(question: str, texts: Sequence[str]) -> str:
    """The same for the same question and texts in the same order: a state has any number of runs."""
    digest = hashlib.sha256()
    for text in chain([question], texts):
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def _value(judgement: Judgement) -> float:
    if judgement.grade is None:
        return np.nan
    return judgement.grade / _BEST_GRADE if judgement.p is None else judgement.p
