"""Scripted judge, for tests of this package and of your own code."""

import asyncio
from collections.abc import Callable

from data_pipeline.judge.base import CallFailed, JudgeIdentity, Judgement

Script = Callable[[str, str], int | Judgement | Exception]


class ScriptedJudge:
    """Judge whose grades a function gives. See `base.Judge`.

        judge = ScriptedJudge(lambda query, passage: 3 if query in passage else 0)

    Args:
        script: (query, passage) -> a grade; or a whole judgement; or an error to raise, such as `CallFailed` for a
            call that may be tried again and `JudgeError` for the end of the run.
        delay_s: how long each call takes, in seconds.
        version: part of the identity; another one is another judge, whose answers are not found again.
    """

    name = "scripted judge"

    def __init__(self, script: Script, delay_s: float = 0.0, version: str = "1") -> None:
        self._script, self._delay_s = script, delay_s
        self._identity = JudgeIdentity("scripted", "scripted", version)
        self.calls: list[tuple[str, str]] = []
        """Query and passage of every call, in order."""
        self.most_at_once = 0
        """Calls that were in flight at the same time, at most."""
        self._now = 0

    @property
    def identity(self) -> JudgeIdentity:
        """Identity of the judge, with its version."""
        return self._identity

    async def open(self) -> None:
        """Do nothing; there is no connection."""

    async def close(self) -> None:
        """Do nothing; there is no connection."""

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        self.calls.append((query, passage))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(self._delay_s)
            found = self._script(query, passage)
        finally:
            self._now -= 1
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Judgement):
            return found
        return Judgement("ok", grade=found, answer=str(found), passage_chars=len(passage), shown_chars=len(passage))


def failing(reason: str = "scripted failure", times: int | None = None, then: Script | None = None) -> Script:
    """Make a script whose first `times` calls fail, or all of them.

    Args:
        reason: of each failure.
        times: how many calls fail; None for all.
        then: what the others say; without it, grade 0.
    """
    left = times

    def script(query: str, passage: str) -> int | Judgement | Exception:
        nonlocal left
        if left is None or left > 0:
            left = None if left is None else left - 1
            return CallFailed(reason)
        return then(query, passage) if then else 0

    return script
