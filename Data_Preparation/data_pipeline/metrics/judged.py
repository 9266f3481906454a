"""Answers of a language model to a YES/NO question about each text, such as whether the text is clear.

Answers are stored in a state file as for weak labels: an interrupted run resumes, a duplicate text is asked about once,
and a failed call is no answer. Rating of single rows by a model: Chen et al., "AlpaGasus" (2023), arXiv:2307.08701.
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
    """Settings of the measure `llm_judge`."""

    question: str = Field(
        "Is this text clear and unambiguous? A text that is sarcastic or ironic, garbled, cut off, or that careful "
        "readers would understand in different ways is not.",
        min_length=1,
    )
    """Question to be answered by YES or NO; YES is the better answer."""
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    """Model, and handling of failures; the `passage_...` limits are those of the text."""

    @model_validator(mode="after")
    def _is_binary_llm(self) -> Self:
        if self.judge.judge != "llm" or self.judge.mode != "binary":
            raise ValueError(
                "judge: a question about a text is answered YES or NO by a language model; expected judge llm and "
                f"mode binary, found {self.judge.judge} and {self.judge.mode}"
            )
        return self


def judged_texts(
    texts: Sequence[str], config: JudgedTextsConfig, state_path: Path, *, judge: Judge | None = None
) -> dict[str, NDArray[np.float64]]:
    """Ask about every text, column `llm_judge`: the probability of YES, or 1 and 0 if the server returns none.

    NaN means no answer: the call failed, the model refused or replied something else, or max_calls was reached. Their
    number is logged, and the next run with the same state file asks about them again.

    Args:
        texts: N texts.
        config: Settings.
        state_path: SQLite file with the answers; created if it does not exist.
        judge: Judge to use instead of that of the config; a grade counts as grade / 3.

    Raises:
        JudgeError: The judge cannot be used, fails too often, or gives no answer at all; answers so far are stored.
        StoreError: The state file cannot be used.
        ConfigError, MissingExtra: The judge cannot be created.
    """
    judge = judge or LLMJudge(config.judge, TEXT_PROMPT)
    run = _run_id(config.question, texts)
    values = np.full(len(texts), np.nan)

    failures: list[Judgement] = []

    def collect(answers: Sequence[Judged]) -> None:
        for answer in answers:
            values[int(answer.passage_id)] = _value(answer.judgement)
            if answer.judgement.status != "ok" and not failures:
                failures.append(answer.judgement)

    state_path.parent.mkdir(parents=True, exist_ok=True)
    with State(state_path) as state:
        state.start_run(run, {"question": config.question})
        state.add_queries(run, [(_QUERY_ID, config.question)])
        state.add_candidates(run, _QUERY_ID, [Candidate(_QUERY_ID, str(row)) for row in range(len(texts))])
        pairs = (Pair(_QUERY_ID, str(row), config.question, text) for row, text in enumerate(texts))
        summary = run_judge(pairs, judge, state, run, config.judge, total=len(texts), on_recorded=collect)
    if failures and not summary.labels:
        raise no_label_error(judge.name, summary.statuses, failures[0])
    if missing := int(np.isnan(values).sum()):
        reasons: dict[str, int] = {
            name: summary.statuses[name] for name in STATUSES if name != "ok" and summary.statuses[name]
        }
        reasons["not asked"] = missing - sum(reasons.values())
        counts = ", ".join(f"{name}: {count:,}" for name, count in reasons.items() if count)
        logger.warning("%d of %d texts have no answer (%s). Run again to ask about them", missing, len(texts), counts)
    return {"llm_judge": values}


def _run_id(question: str, texts: Sequence[str]) -> str:
    """Id of a run: SHA-256 of question and texts in order. A state file has any number of runs."""
    digest = hashlib.sha256()
    for text in chain([question], texts):
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def _value(judgement: Judgement) -> float:
    if judgement.grade is None:
        return np.nan
    return judgement.grade / _BEST_GRADE if judgement.p is None else judgement.p
