"""Interface between the pool and the place where judgements are stored: a cache, or a run with items of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from data_pipeline.judge.base import Judgeable, JudgeIdentity, Judgement

ItemT = TypeVar("ItemT", bound=Judgeable)


@dataclass(frozen=True, slots=True)
class Judged(Generic[ItemT]):
    """An item with its judgement."""

    item: ItemT
    key: bytes
    """Key of the judgement; see `judgement_key`."""
    judgement: Judgement


class Recorder(Protocol[ItemT]):
    """Looks up earlier judgements and stores new ones. Methods may be called from any thread."""

    def start(self, judge: JudgeIdentity) -> None:
        """Store which judge gives the judgements that follow."""

    def lookup(self, keys: Sequence[bytes]) -> Mapping[bytes, Judgement]:
        """Stored answers by key; a failure is never among them."""

    def record(self, judged: Sequence[Judged[ItemT]], new: Mapping[bytes, Judgement]) -> None:
        """Store judgements; they are safe on disk when this returns.

        Args:
            judged: items, each with its judgement.
            new: those judgements that `lookup` did not give, by key; a failure never replaces an answer.
        """

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Store the summary of the calls."""
