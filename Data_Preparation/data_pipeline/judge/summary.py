"""Summary of the calls to a judge, and the error of a judge that gave no label."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipeline.errors import JudgeError
from data_pipeline.judge.base import STATUSES, Judgement
from data_pipeline.judge.reply import MAX_QUOTED_CHARS


@dataclass
class JudgeSummary:
    """Counts of the items and calls of one run."""

    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """Items by status, including those with an answer from an earlier call."""
    known: int = 0
    """Items with an answer from an earlier call."""
    calls: int = 0
    """Calls for items, including retries."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """Cost of the tokens, in the currency of the prices (`JudgeConfig`); None without prices."""
    wall_s: float = 0.0
    """Duration of the run in seconds."""
    slot_use: float = 0.0
    """Share of the slots' time, from first call to last, that a call was in flight; 0 to 1."""
    stopped: str = ""
    """Reason why items were left out: `max_calls`, or empty."""

    @property
    def labels(self) -> int:
        """Number of items with a grade."""
        return self.statuses["ok"]

    def to_json(self) -> dict[str, Any]:
        """Summary as JSON, for the record of a run."""
        return asdict(self)


def no_label_error(name: str, statuses: Mapping[str, int], example: Judgement | None) -> JudgeError:
    """Make the error of a run whose judge gave no label at all.

    Args:
        name: name of the judge.
        statuses: number of items by status; none of them is `ok`.
        example: one of the failures.
    """
    failures = ", ".join(f"{statuses[status]:,} {status}" for status in STATUSES if statuses.get(status))
    details = ""
    if example is not None:
        answer = "" if example.answer is None else f", answer {example.answer[:MAX_QUOTED_CHARS]!r}"
        details = f" For example: {example.reason[:MAX_QUOTED_CHARS]}{answer}."
    return JudgeError(
        f"{name} gave no label at all ({failures}), so no output was written; outputs of an earlier run are unchanged."
        f"{details} Check the model and the settings of the judge, then run the same command again: all these items "
        "are judged again."
    )
