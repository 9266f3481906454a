"""Judging of many items: a fixed number of calls in flight, with judgements stored as they come.

    items --(a thread)--> answered before? --no--> queue --> slots: call, try again --> one transaction --> report

Items are taken from their iterator only as fast as they are judged, so it may compute candidates while calls are in
flight. Nothing is reported before it is safe on disk, and nothing reported is judged again.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Generic

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import DataPipelineError, JudgeError
from data_pipeline.judge.base import CallFailedError, Judge, Judgement, judgement_key
from data_pipeline.judge.recorder import ItemT, Judged, Recorder
from data_pipeline.judge.summary import JudgeSummary
from data_pipeline.utils import progress_bar
from data_pipeline.utils.breaker import Breaker
from data_pipeline.utils.retry import wait_s

_ITEMS_AT_ONCE = 64


def run_judge(
    items: Iterable[ItemT],
    judge: Judge,
    recorder: Recorder[ItemT],
    config: JudgeConfig,
    *,
    total: int | None = None,
    on_recorded: Callable[[Sequence[Judged[ItemT]]], None] | None = None,
) -> JudgeSummary:
    """Run `judge_items` in an event loop of its own."""
    return asyncio.run(judge_items(items, judge, recorder, config, total=total, on_recorded=on_recorded))


async def judge_items(
    items: Iterable[ItemT],
    judge: Judge,
    recorder: Recorder[ItemT],
    config: JudgeConfig,
    *,
    total: int | None = None,
    on_recorded: Callable[[Sequence[Judged[ItemT]]], None] | None = None,
) -> JudgeSummary:
    """Judge items, and store the judgements.

    Memory does not grow with the number of items. Two items with the same texts are judged once.

    Args:
        items: to be judged; read in a thread, a few at a time.
        judge: opened and closed here.
        recorder: open for writing; looks up earlier judgements and stores new ones.
        config: slots, tries, budget and breaker.
        total: number of items, for the progress bar.
        on_recorded: called with items whose judgement is safe on disk, failures included.

    Returns:
        Number of items by status. Items that failed are tried again by the next run.

    Raises:
        JudgeError: the judge cannot be used, or failed too often; earlier judgements are stored.
        StoreError: the judgements cannot be stored.
    """
    pool = _Pool(judge, recorder, config)
    try:
        await pool.open_judge()
        recorder.start(judge.identity)
        with progress_bar(total, "judging", "pair") as bar:

            def report(judged: Sequence[Judged[ItemT]]) -> None:
                bar.update(len(judged))
                if on_recorded is not None:
                    on_recorded(judged)

            return await pool.run(iter(items), report)
    finally:
        await judge.close()


class _BudgetSpentError(Exception):
    """No further call is allowed, and the item was not tried."""


class _Pool(Generic[ItemT]):
    """One run of `judge_items`."""

    def __init__(self, judge: Judge, recorder: Recorder[ItemT], config: JudgeConfig) -> None:
        self._judge, self._recorder, self._config = judge, recorder, config
        self._rng = random.Random(config.seed)
        self._breaker = Breaker(config.breaker_window, config.breaker_share, self._to_error)
        self._queue: asyncio.Queue[tuple[bytes, ItemT] | None] = asyncio.Queue(2 * config.slots)
        self._waiting: dict[bytes, list[ItemT]] = {}
        """Items whose judgement is not stored yet, by key."""
        self._unsaved: dict[bytes, Judgement] = {}
        self._answered_before: list[Judged[ItemT]] = []
        self._buffer_full = asyncio.Event()
        # Held while looking up and queueing, and while saving: an item is always stored, waiting or new.
        self._bookkeeping = asyncio.Lock()
        self._not_before = 0.0
        """Earliest time of the next call that the server allows, by the loop's clock."""
        self._busy_s = 0.0
        self._summary = JudgeSummary()

    async def open_judge(self) -> None:
        """Open the judge, and try again as often as the settings allow.

        Raises:
            JudgeError: the judge cannot be used.
        """
        for failures in itertools.count(1):
            try:
                return await self._judge.open()
            except CallFailedError as error:
                if self._is_last(error, failures):
                    raise JudgeError(
                        f"{self._judge.name} cannot be used: {error.reason} ({failures} tries). "
                        "Check that the server runs, and the settings base_url and model."
                    ) from None
                await asyncio.sleep(self._wait_s(error, failures))

    async def run(self, items: Iterator[ItemT], report: Callable[[Sequence[Judged[ItemT]]], None]) -> JudgeSummary:
        """Judge all items, or as many as the budget allows.

        Args:
            items: to be judged.
            report: called with items whose judgement is safe on disk.
        """
        self._report = report
        started = time.perf_counter()
        # A single thread: the iterator is not thread-safe, and must not be read any further when the run has ended.
        reader = ThreadPoolExecutor(1, "pairs")
        try:
            async with asyncio.TaskGroup() as tasks:
                saver = tasks.create_task(self._save_periodically())
                async with asyncio.TaskGroup() as workers:
                    workers.create_task(self._fill_queue(items, reader))
                    for _ in range(self._config.slots):
                        workers.create_task(self._work())
                saver.cancel()
        except BaseExceptionGroup as group:
            raise _most_informative(group) from None
        finally:
            # Also after an error or Ctrl-C, and not in a thread: nothing can interrupt it.
            try:
                self._save()
            finally:
                reader.shutdown(cancel_futures=True)
        self._summary.wall_s = time.perf_counter() - started
        self._summary.slot_use = self._busy_s / (self._summary.wall_s * self._config.slots)
        tokens = self._summary.prompt_tokens, self._summary.completion_tokens
        self._summary.cost = self._config.cost_of(*tokens)
        self._recorder.finish(self._summary.to_json())
        return self._summary

    async def _fill_queue(self, items: Iterator[ItemT], reader: ThreadPoolExecutor) -> None:
        """Look items up, and queue those without an answer."""
        loop = asyncio.get_running_loop()

        def read_next() -> asyncio.Future[list[ItemT]]:
            return loop.run_in_executor(reader, lambda: list(itertools.islice(items, _ITEMS_AT_ONCE)))

        upcoming = read_next()
        while not self._summary.stopped and (batch := await upcoming):
            # Read the next batch while this one is judged.
            upcoming = read_next()
            for key_and_item in await self._without_answer(batch):
                await self._queue.put(key_and_item)
        upcoming.cancel()
        for _ in range(self._config.slots):
            await self._queue.put(None)

    async def _without_answer(self, items: Sequence[ItemT]) -> list[tuple[bytes, ItemT]]:
        new = []
        identity = self._judge.identity
        keys = [judgement_key(identity, item.query, item.passage) for item in items]
        async with self._bookkeeping:
            answers = await asyncio.to_thread(self._recorder.lookup, keys)
            for key, item in zip(keys, items, strict=True):
                if key in answers:
                    self._answered_before.append(Judged(item, key, answers[key]))
                elif key in self._waiting:
                    self._waiting[key].append(item)
                else:
                    self._waiting[key] = [item]
                    new.append((key, item))
        self._wake_saver_if_full()
        return new

    async def _work(self) -> None:
        while (key_and_item := await self._queue.get()) is not None:
            if self._summary.stopped:
                continue
            key, item = key_and_item
            with contextlib.suppress(_BudgetSpentError):
                self._unsaved[key] = await self._judge_item(item)
            self._wake_saver_if_full()

    async def _judge_item(self, item: ItemT) -> Judgement:
        """Call until there is an answer, or further calls are useless."""
        failure = ""
        for tries in itertools.count(1):
            try:
                judgement = await self._call(item, tries)
            except CallFailedError as error:
                final_failure = self._final_failure(error, tries)
                if final_failure is not None:
                    return final_failure
                failure = error.reason
                await self._wait(error, tries)
            except _BudgetSpentError:
                self._summary.stopped = "max_calls"
                if not failure:
                    raise
                return Judgement("failed", reason=f"{failure}; max_calls is spent", tries=tries - 1)
            else:
                self._breaker.count(f"not a label: {judgement.reason}" if judgement.status == "parse_failed" else "")
                self._summary.prompt_tokens += judgement.prompt_tokens or 0
                self._summary.completion_tokens += judgement.completion_tokens or 0
                return judgement
        raise AssertionError("unreachable")

    async def _wait(self, error: CallFailedError, failures: int) -> None:
        if error.retry_after_s is not None:
            # The server means all callers, not only the one that got the reply.
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + error.retry_after_s)
        await asyncio.sleep(self._wait_s(error, failures))

    def _wait_s(self, error: CallFailedError, failures: int) -> float:
        limits = {"backoff_s": self._config.backoff_s, "max_backoff_s": self._config.max_backoff_s}
        return wait_s(failures, error.retry_after_s, self._rng, **limits)

    def _to_error(self, failures: str) -> JudgeError:
        return JudgeError(
            f"{self._judge.name}: {failures} Judgements made so far are stored, and no failure became a label. "
            "Check the server, then run the same command again: it resumes where it stopped."
        )

    async def _call(self, item: ItemT, tries: int) -> Judgement:
        loop = asyncio.get_running_loop()
        while (pause_s := self._not_before - loop.time()) > 0:
            await asyncio.sleep(pause_s)
        if self._config.max_calls is not None and self._summary.calls >= self._config.max_calls:
            raise _BudgetSpentError
        self._summary.calls += 1
        started = time.perf_counter()
        try:
            # Whatever the judge itself promises: a call that never ends would block its slot for ever.
            async with asyncio.timeout(self._config.timeout_s):
                judgement = await self._judge.judge(item.query, item.passage)
        except TimeoutError:
            raise CallFailedError(f"no answer within {self._config.timeout_s:g} s") from None
        finally:
            self._busy_s += time.perf_counter() - started
        return replace(judgement, tries=tries)

    def _final_failure(self, error: CallFailedError, tries: int) -> Judgement | None:
        """Make the failure to be stored; None if the call is to be tried again."""
        is_last = self._is_last(error, tries)
        # A server that asks to slow down works; this counts as a failure only if waiting did not help.
        if is_last or not error.limited:
            self._breaker.count(error.reason)
        if not is_last:
            return None
        note = f"; the server asks to wait {error.retry_after_s:.0f} s" if self._is_wait_too_long(error) else ""
        return Judgement("failed_final" if error.final else "failed", reason=error.reason + note, tries=tries)

    def _is_last(self, error: CallFailedError, tries: int) -> bool:
        return error.final or tries >= self._config.tries or self._is_wait_too_long(error)

    def _is_wait_too_long(self, error: CallFailedError) -> bool:
        return (error.retry_after_s or 0) > self._config.max_retry_after_s

    def _wake_saver_if_full(self) -> None:
        if len(self._unsaved) + len(self._answered_before) >= self._config.flush_answers:
            self._buffer_full.set()

    async def _save_periodically(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.flush_s):
                    await self._buffer_full.wait()
            self._buffer_full.clear()
            async with self._bookkeeping:
                self._save()

    def _save(self) -> None:
        """Store one transaction, then report it. Without `await`, so that no cancellation can split it."""
        if not self._unsaved and not self._answered_before:
            return
        new, answered_before = self._unsaved, self._answered_before
        self._unsaved, self._answered_before = {}, []
        judged = [*answered_before]
        judged += [Judged(item, key, judgement) for key, judgement in new.items() for item in self._waiting[key]]
        self._recorder.record(judged, new)
        for key in new:
            del self._waiting[key]
        for result in judged:
            self._summary.statuses[result.judgement.status] += 1
        self._summary.known += len(answered_before)
        self._report(judged)


def _most_informative(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose the error to show: tasks that failed together mostly have the same one."""
    error: BaseException = group.subgroup(DataPipelineError) or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
