"""Judging of pairs: a fixed number of calls in flight over all queries, with results written to disk as they come.

    pairs --(a thread)--> answered before? --no--> queue --> slots: call, try again --> one transaction --> report

Pairs are taken from their iterator only as fast as they are judged, so it may compute candidates while calls are in
flight. Nothing is reported before it is safe, and nothing reported is judged again.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import DataPipelineError, JudgeError
from data_pipeline.judge.base import STATUSES, CallFailed, Judge, Judgement, Pair, judgement_key
from data_pipeline.judge.breaker import Breaker
from data_pipeline.judge.reply import MOST_SHOWN
from data_pipeline.judge.retry import RetryPolicy
from data_pipeline.judge.state import Judged, State
from data_pipeline.utils import progress_bar

_PAIRS_AT_ONCE = 64

Report = Callable[[Sequence[Judged]], None]


@dataclass
class JudgeSummary:
    """Counts of the pairs and calls of one run."""

    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    """Pairs by status, including those with an answer from an earlier call."""
    known: int = 0
    """Pairs with an answer from an earlier call."""
    calls: int = 0
    """Calls for pairs, including retries."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wall_s: float = 0.0
    slot_use: float = 0.0
    """Share of the slots' time, from first call to last, that a call was in flight; 0 to 1."""
    stopped: str = ""
    """Reason why pairs were left over: max_calls, or empty."""

    @property
    def labels(self) -> int:
        """Number of pairs with a grade."""
        return self.statuses["ok"]

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON, for the record of a run."""
        return asdict(self)


def no_label_error(name: str, statuses: Mapping[str, int], example: Judgement | None) -> JudgeError:
    """The error of a run whose judge gave no label at all.

    Args:
        name: name of the judge.
        statuses: pairs by status; none of them is `ok`.
        example: one of the failures.
    """
    failures = ", ".join(f"{statuses[status]:,} {status}" for status in STATUSES if statuses.get(status))
    shown = ""
    if example is not None:
        answer = "" if example.answer is None else f", answer {example.answer[:MOST_SHOWN]!r}"
        shown = f" For example: {example.reason[:MOST_SHOWN]}{answer}."
    return JudgeError(
        f"{name} gave no label at all ({failures}), so no output was written; outputs of an earlier run stay as they "
        f"are.{shown} Check the model and the settings of the judge, then run the same command again: all these pairs "
        "are asked about again."
    )


def run_judge(
    pairs: Iterable[Pair],
    judge: Judge,
    state: State,
    run_id: str,
    config: JudgeConfig,
    *,
    total: int | None = None,
    on_recorded: Report | None = None,
) -> JudgeSummary:
    """Run `judge_pairs` in an event loop of its own."""
    work = judge_pairs(pairs, judge, state, run_id, config, total=total, on_recorded=on_recorded)
    return asyncio.run(work)


async def judge_pairs(
    pairs: Iterable[Pair],
    judge: Judge,
    state: State,
    run_id: str,
    config: JudgeConfig,
    *,
    total: int | None = None,
    on_recorded: Report | None = None,
) -> JudgeSummary:
    """Judge pairs, and keep the judgements.

    Memory does not grow with the number of pairs. Two pairs with the same texts are judged once.

    Args:
        pairs: to be judged; read in a thread, a few at a time. Their candidates are in the state.
        judge: opened and closed here.
        state: open for writing.
        run_id: the run they belong to.
        config: slots, tries, budget, breaker.
        total: how many pairs there are, for the progress bar.
        on_recorded: called with pairs whose judgement is safe on disk, failures included.

    Returns:
        How many pairs ended how. Pairs that failed are tried again by the next run.

    Raises:
        JudgeError: the judge cannot be used, or failed too often; what was judged before is kept.
        StoreError: the state cannot be written.
    """
    policy = RetryPolicy(config.tries, config.backoff_s, config.max_backoff_s, config.max_retry_after_s)
    rng = random.Random(config.seed)
    try:
        await _open(judge, policy, rng)
        state.set_judge(run_id, judge.identity)
        with progress_bar(total, "judging", "pair") as bar:

            def report(judged: Sequence[Judged]) -> None:
                bar.update(len(judged))
                if on_recorded is not None:
                    on_recorded(judged)

            return await _Pool(judge, state, run_id, config, policy, rng, report).run(iter(pairs))
    finally:
        await judge.close()


async def _open(judge: Judge, policy: RetryPolicy, rng: random.Random) -> None:
    for failures in itertools.count(1):
        try:
            return await judge.open()
        except CallFailed as error:
            too_long = (error.retry_after_s or 0) > policy.max_retry_after_s
            if failures >= policy.tries or error.final or too_long:
                raise JudgeError(
                    f"{judge.name} cannot be used: {error.reason} ({failures} tries). "
                    "Check that the server runs, and the settings base_url and model."
                ) from None
            await asyncio.sleep(policy.wait_s(failures, error.retry_after_s, rng))


class _BudgetSpent(Exception):
    """No further call is allowed, and the pair was not tried."""


@dataclass(frozen=True, slots=True)
class _Work:
    key: bytes
    pair: Pair


class _Pool:
    """One run of `judge_pairs`."""

    def __init__(
        self,
        judge: Judge,
        state: State,
        run_id: str,
        config: JudgeConfig,
        policy: RetryPolicy,
        rng: random.Random,
        report: Report,
    ) -> None:
        self._judge, self._state, self._run_id, self._config = judge, state, run_id, config
        self._policy, self._rng, self._report = policy, rng, report
        self._breaker = Breaker(judge.name, config.breaker_window, config.breaker_share)
        self._queue: asyncio.Queue[_Work | None] = asyncio.Queue(2 * config.slots)
        self._waiting: dict[bytes, list[Pair]] = {}
        """Pairs whose judgement is not safe yet, by key."""
        self._unsaved: dict[bytes, Judgement] = {}
        self._known: list[Judged] = []
        self._full = asyncio.Event()
        # Held from looking up to queueing, and while saving: a pair is always known, waiting or new.
        self._books = asyncio.Lock()
        self._not_before = 0.0
        """When the server wants the next call, by the loop's clock."""
        self._busy_s = 0.0
        self._summary = JudgeSummary()

    async def run(self, pairs: Iterator[Pair]) -> JudgeSummary:
        """Judge them all, or as many as the budget allows."""
        started = time.perf_counter()
        # One thread, the same all the time, and none that reads on when this is over.
        puller = ThreadPoolExecutor(1, "pairs")
        try:
            async with asyncio.TaskGroup() as tasks:
                saver = tasks.create_task(self._save_now_and_then())
                async with asyncio.TaskGroup() as workers:
                    workers.create_task(self._feed(pairs, puller))
                    for _ in range(self._config.slots):
                        workers.create_task(self._slot())
                saver.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            # Also after an error or Ctrl-C, and not in a thread: nothing can come between.
            try:
                self._save()
            finally:
                puller.shutdown(cancel_futures=True)
        self._summary.wall_s = time.perf_counter() - started
        self._summary.slot_use = self._busy_s / (self._summary.wall_s * self._config.slots)
        self._state.finish_run(self._run_id, self._summary.to_json())
        return self._summary

    async def _feed(self, pairs: Iterator[Pair], puller: ThreadPoolExecutor) -> None:
        """Look pairs up, and queue those without an answer."""
        loop = asyncio.get_running_loop()

        def pull() -> asyncio.Future[list[Pair]]:
            return loop.run_in_executor(puller, lambda: list(itertools.islice(pairs, _PAIRS_AT_ONCE)))

        coming = pull()
        while not self._summary.stopped and (some := await coming):
            # While these are judged, the next are made.
            coming = pull()
            for work in await self._new(some):
                await self._queue.put(work)
        coming.cancel()
        for _ in range(self._config.slots):
            await self._queue.put(None)

    async def _new(self, pairs: Sequence[Pair]) -> list[_Work]:
        new = []
        identity = self._judge.identity
        keys = [judgement_key(identity, pair.query, pair.passage) for pair in pairs]
        async with self._books:
            found = await asyncio.to_thread(self._state.lookup, keys)
            for key, pair in zip(keys, pairs, strict=True):
                if key in found:
                    self._known.append(Judged(pair.query_id, pair.passage_id, key, found[key]))
                elif key in self._waiting:
                    self._waiting[key].append(pair)
                else:
                    self._waiting[key] = [pair]
                    new.append(_Work(key, pair))
        self._wake_if_full()
        return new

    async def _slot(self) -> None:
        while (work := await self._queue.get()) is not None:
            if self._summary.stopped:
                continue
            try:
                self._unsaved[work.key] = await self._answer(work.pair)
            except _BudgetSpent:
                continue
            self._wake_if_full()

    async def _answer(self, pair: Pair) -> Judgement:
        """Call until there is an answer, or no hope of one."""
        failure = ""
        for tries in itertools.count(1):
            try:
                found = await self._call(pair, tries)
            except CallFailed as error:
                given_up = self._give_up(error, tries)
                if given_up is not None:
                    return given_up
                failure = error.reason
                await self._wait(error, tries)
            except _BudgetSpent:
                self._summary.stopped = "max_calls"
                if not failure:
                    raise
                return Judgement("failed", reason=f"{failure}; max_calls is spent", tries=tries - 1)
            else:
                self._breaker.note(f"not a label: {found.reason}" if found.status == "parse_failed" else "")
                self._summary.prompt_tokens += found.prompt_tokens or 0
                self._summary.completion_tokens += found.completion_tokens or 0
                return found
        raise AssertionError("unreachable")

    async def _wait(self, error: CallFailed, failures: int) -> None:
        if error.retry_after_s is not None:
            # The server means all callers, not the one that happened to be told.
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + error.retry_after_s)
        await asyncio.sleep(self._policy.wait_s(failures, error.retry_after_s, self._rng))

    async def _call(self, pair: Pair, tries: int) -> Judgement:
        loop = asyncio.get_running_loop()
        while (pause_s := self._not_before - loop.time()) > 0:
            await asyncio.sleep(pause_s)
        if self._spent():
            raise _BudgetSpent
        self._summary.calls += 1
        started = time.perf_counter()
        try:
            # Whatever the judge itself may promise: a call that never ends would hold its slot for ever.
            async with asyncio.timeout(self._config.timeout_s):
                found = await self._judge.judge(pair.query, pair.passage)
        except TimeoutError:
            raise CallFailed(f"no answer within {self._config.timeout_s:g} s") from None
        finally:
            self._busy_s += time.perf_counter() - started
        return replace(found, tries=tries)

    def _give_up(self, error: CallFailed, tries: int) -> Judgement | None:
        """The failure to keep, or None where the call shall be tried again."""
        too_long = (error.retry_after_s or 0) > self._policy.max_retry_after_s
        last = error.final or too_long or tries >= self._policy.tries
        # A server that asks to slow down works; it counts only when that did not help.
        if last or not error.limited:
            self._breaker.note(error.reason)
        if not last:
            return None
        asked = f"; the server asks to wait {error.retry_after_s:.0f} s" if too_long else ""
        return Judgement("failed_final" if error.final else "failed", reason=error.reason + asked, tries=tries)

    def _spent(self) -> bool:
        return self._config.max_calls is not None and self._summary.calls >= self._config.max_calls

    def _wake_if_full(self) -> None:
        if len(self._unsaved) + len(self._known) >= self._config.flush_answers:
            self._full.set()

    async def _save_now_and_then(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.flush_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            async with self._books:
                self._save()

    def _save(self) -> None:
        """One transaction, then the report. Not awaited anywhere inside, so that no cancellation can split it."""
        if not self._unsaved and not self._known:
            return
        fresh, known = self._unsaved, self._known
        self._unsaved, self._known = {}, []
        done = [
            Judged(pair.query_id, pair.passage_id, key, judgement)
            for key, judgement in fresh.items()
            for pair in self._waiting[key]
        ]
        self._state.record(self._run_id, [*known, *done], fresh)
        for key in fresh:
            del self._waiting[key]
        for one in (*known, *done):
            self._summary.statuses[one.judgement.status] += 1
        self._summary.known += len(known)
        self._report([*known, *done])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to show: tasks that failed together mostly have the same."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo += error.exceptions
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, DataPipelineError)), flat[0])
