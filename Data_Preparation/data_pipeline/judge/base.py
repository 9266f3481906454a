"""Judges, the texts they grade, and their judgements.

A judgement is a label only if its status is `ok`. Every other status says why there is no label:

    ok            the judge gave a grade
    parse_failed  the judge answered something that is not a grade
    refused       the judge refused to answer
    failed        no answer this time: time-out, overload, broken reply
    failed_final  the server does not accept this item: too long, malformed

A failure is never read as a label, and is tried again in the next run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Protocol

from data_pipeline.utils import sha256_of_json

Status = Literal["ok", "parse_failed", "refused", "failed", "failed_final"]
STATUSES: tuple[Status, ...] = ("ok", "parse_failed", "refused", "failed", "failed_final")

RELEVANT = 2
"""The lowest grade that counts as relevant."""


class Judgeable(Protocol):
    """An item to be judged: a passage for a query, or a text for a question. Callers' own types add ids to it."""

    @property
    def query(self) -> str:
        """Whole text of the query or question."""

    @property
    def passage(self) -> str:
        """Whole text of the passage; the judge decides how much of it is shown to the model."""


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """Everything about a judge that may change an answer."""

    model: str
    """Model name in the request."""
    served_model: str
    """Model name in the reply."""
    prompt: str
    """Version of the prompt and hash of its text."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Request parameters and passage limit; plain JSON."""

    def to_json(self) -> dict[str, Any]:
        """The identity as JSON, for the record of a run."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole identity."""
        return sha256_of_json(self.to_json())


@dataclass(frozen=True, slots=True)
class Judgement:
    """Grade of one item, or the reason why there is none."""

    status: Status
    grade: int | None = None
    """Grade from 0 to 3, only with status `ok`; YES is 3 and NO is 0."""
    p: float | None = None
    """Probability of a relevant grade (2 or 3) among the labels; None if the server reports no probabilities."""
    confidence: float | None = None
    """Probability of the grade among the labels; None if the server reports no probabilities."""
    outside: float | None = None
    """Probability of all answers that are not labels."""
    answer: str | None = None
    """Text of the reply."""
    reason: str = ""
    """Why there is no grade; empty with status `ok`."""
    tries: int = 1
    """Number of calls, including the last one."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    """Duration of the last call in seconds."""
    passage_chars: int | None = None
    """Length of the passage in characters."""
    shown_chars: int | None = None
    """Characters of the passage that were shown to the model; fewer than `passage_chars` only if a limit is set."""
    reasoning: str = ""
    """Reasoning of the model before its answer; stored separately and never read as an answer."""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.grade is not None):
            raise ValueError(
                f"a judgement has a grade if and only if its status is ok; got {self.status}, grade {self.grade}"
            )
        if self.grade is not None and self.grade not in range(4):
            raise ValueError(f"grade must be 0, 1, 2 or 3; got {self.grade}")


class CallFailedError(Exception):
    """A call to the judge that gave no answer; the pool decides whether to try again.

    Args:
        reason: cause of the failure, as it is stored; must hold no secrets.
        final: whether the same call can never succeed.
        limited: whether the server asked to slow down, which does not count as a failure.
        retry_after_s: wait that the server asked for, in seconds.
    """

    def __init__(
        self, reason: str, *, final: bool = False, limited: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.final, self.limited, self.retry_after_s = reason, final, limited, retry_after_s

    def add_to_reason(self, sentence: str) -> None:
        """Append a sentence to the reason."""
        self.reason = f"{self.reason}. {sentence}"


CallFailed = CallFailedError
"""Former name of `CallFailedError`."""


class Judge(Protocol):
    """Grades passages for queries. A custom judge implements these five names."""

    name: str
    """Name in messages: the address of a server, or a description."""

    @property
    def identity(self) -> JudgeIdentity:
        """Identity of the judge; available after `open`."""

    async def open(self) -> None:
        """Connect, and find out which model answers.

        Raises:
            JudgeError: the judge cannot be used.
        """

    async def judge(self, query: str, passage: str) -> Judgement:
        """Grade one passage; called from several tasks at the same time.

        Raises:
            CallFailedError: the call gave no answer; the caller decides whether to try again.
            JudgeError: no call can give an answer, so the run must stop.
        """

    async def close(self) -> None:
        """Close connections."""


class OfflineJudge:
    """Base of judges that need no connection. See `Judge`.

    Args:
        identity: identity of the judge.
    """

    def __init__(self, identity: JudgeIdentity) -> None:
        self.identity = identity

    async def open(self) -> None:
        """Do nothing; there is no connection."""

    async def close(self) -> None:
        """Do nothing; there is no connection."""


def judgement_key(identity: JudgeIdentity, query: str, passage: str) -> bytes:
    """Key of a cached answer: 32 bytes that change with the judge, its prompt, its parameters and both texts."""
    digest = blake2b(digest_size=32)
    for part in (identity.sha256, query, passage):
        content = part.encode("utf-8", "surrogatepass")
        # Each text follows its length: without it, ("ab", "c") and ("a", "bc") would have the same bytes.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()
