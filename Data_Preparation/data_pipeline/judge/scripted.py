"""Scripted judge, for tests of this package and of users' code."""

import asyncio
from collections.abc import Callable

from data_pipeline.judge.base import CallFailedError, JudgeIdentity, Judgement, OfflineJudge

Script = Callable[[str, str], int | Judgement | Exception]


class ScriptedJudge(OfflineJudge):
    """Judge whose grades come from a function. See `base.Judge`.

        judge = ScriptedJudge(lambda query, passage: 3 if query in passage else 0)

    Args:
        script: (query, passage) -> a grade, a whole judgement, or an error to raise: `CallFailedError` for a call that
            may be tried again, `JudgeError` for one that ends the run.
        delay_s: duration of each call in seconds.
        version: part of the identity; a judge of another version does not reuse stored answers.
    """

    name = "scripted judge"

    def __init__(self, script: Script, delay_s: float = 0.0, version: str = "1") -> None:
        super().__init__(JudgeIdentity("scripted", "scripted", version))
        self._script, self._delay_s = script, delay_s
        self.calls: list[tuple[str, str]] = []
        """Query and passage of every call, in order."""
        self.most_at_once = 0
        """Highest number of calls in flight at the same time."""
        self._in_flight = 0

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        self.calls.append((query, passage))
        self._in_flight += 1
        self.most_at_once = max(self.most_at_once, self._in_flight)
        try:
            await asyncio.sleep(self._delay_s)
            result = self._script(query, passage)
        finally:
            self._in_flight -= 1
        if isinstance(result, Exception):
            raise result
        if isinstance(result, Judgement):
            return result
        return Judgement("ok", grade=result, answer=str(result), passage_chars=len(passage), shown_chars=len(passage))


def failing(reason: str = "scripted failure", times: int | None = None, then: Script | None = None) -> Script:
    """Make a script whose first `times` calls fail, or all of them.

    Args:
        reason: reason of each failure.
        times: number of calls that fail; None for all.
        then: script for the other calls; None for grade 0.
    """
    remaining = times

    def script(query: str, passage: str) -> int | Judgement | Exception:
        nonlocal remaining
        if remaining is None or remaining > 0:
            remaining = None if remaining is None else remaining - 1
            return CallFailedError(reason)
        return then(query, passage) if then else 0

    return script
