"""Calls to a server: a fixed number of slots for all threads, retries, the budget and the circuit breaker.

A slot is held while a call is under way, not while it waits for its next try, so that other requests use it meanwhile.
"""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from data_pipeline.config.api import ApiConfig
from data_pipeline.embeddings.api.client import CallFailedError
from data_pipeline.embeddings.base import Usage
from data_pipeline.errors import ApiError, BudgetSpentError
from data_pipeline.utils.breaker import Breaker
from data_pipeline.utils.retry import wait_s

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 0.5
_ADVICE = (
    "Vectors computed so far are stored, and no failure became a vector. Check the server, then run the same command "
    "again: it resumes where it stopped."
)


class Calls:
    """Makes calls in any number of threads; see `embeddings.base.Remote`.

    Args:
        config: limits of the calls.
        name: address and model, for messages.
    """

    def __init__(self, config: ApiConfig, name: str) -> None:
        self._config, self._name = config, name
        self.usage = Usage()
        self.slots = config.slots
        self.price_per_million_tokens = config.price_per_million_tokens
        self.max_cost = config.max_cost
        self._lock = threading.Lock()
        self._free = threading.Semaphore(config.slots)
        self._rng = random.Random(0)
        self._runs = 0
        self._budgeted_calls = 0
        self._reserved_tokens = 0
        """Tokens of the calls under way."""
        self._not_before = 0.0
        """Earliest time of the next call that the server allows, by `time.monotonic`."""
        self._stop = threading.Event()
        self._reason = ""
        self._error: ApiError | None = None
        """First error of a call, which ends the others."""
        self._breaker = self._new_breaker()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count a run; see `Remote.run`. The first one after an interruption starts over."""
        with self._lock:
            if not self._runs:
                self._start_over()
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1

    def interrupt(self, reason: str) -> None:
        """End all calls as soon as they can; see `Remote.interrupt`. The first reason is the one that is reported."""
        self._reason = self._reason or reason
        self._stop.set()

    def make(self, attempt: Callable[[], T], tokens: int, *, is_budgeted: bool = True) -> T:
        """Make a call, and make it again after a failure.

        Args:
            attempt: makes the call.
            tokens: number of tokens of the request, or an estimate.
            is_budgeted: whether the call counts for the budget.

        Raises:
            ApiError: the call failed as often as it may, too many calls failed, or the calls were interrupted.
            BudgetSpentError: the budget allows no further call.
            RequestRefusedError: see `Client.post`.
        """
        try:
            return self._try_until_done(attempt, tokens, is_budgeted)
        except ApiError as error:
            # At once: every further call would be in vain.
            self._error = self._error or error
            self.interrupt(str(error))
            raise

    def _try_until_done(self, attempt: Callable[[], T], tokens: int, is_budgeted: bool) -> T:
        for failures in itertools.count(1):
            try:
                with self._slot(tokens, is_budgeted):
                    result = attempt()
            except CallFailedError as error:
                self._handle(error, failures)
            else:
                self._count("")
                return result
        raise AssertionError("unreachable")

    def bill(self, tokens: int) -> None:
        """Count the tokens of a reply, usable or not."""
        with self._lock:
            self.usage.tokens += tokens
            self.usage.cost = self._price(self.usage.tokens)

    @contextmanager
    def _slot(self, tokens: int, is_budgeted: bool) -> Iterator[None]:
        while not self._free.acquire(timeout=_POLL_S):
            self._check_running()
        try:
            while (pause_s := self._not_before - time.monotonic()) > 0:
                self._check_running()
                self._stop.wait(pause_s)
            self._check_running()
            with self._lock:
                if is_budgeted:
                    self._check_budget(tokens)
                    self._budgeted_calls += 1
                self.usage.calls += 1
                self._reserved_tokens += tokens
            started = time.perf_counter()
            failed = 1
            try:
                yield
                failed = 0
            finally:
                with self._lock:
                    self.usage.busy_s += time.perf_counter() - started
                    self.usage.failed_calls += failed
                    self._reserved_tokens -= tokens
        finally:
            self._free.release()

    def _check_running(self) -> None:
        if self._error is not None:
            raise type(self._error)(str(self._error))
        if self._stop.is_set():
            raise ApiError(f"{self._name}: the calls were interrupted: {self._reason}")

    def _check_budget(self, tokens: int) -> None:
        """Check that the budget allows a further call.

        Raises:
            BudgetSpentError: it does not.
        """
        config = self._config
        advice = "Vectors computed so far are stored. Raise the limit, or run the same command again: it resumes."
        if config.max_calls is not None and self._budgeted_calls >= config.max_calls:
            raise BudgetSpentError(f"embedding.api.max_calls: {config.max_calls} calls were made. {advice}")
        if config.max_cost is None:
            return
        cost = self._price(self.usage.tokens + self._reserved_tokens + tokens)
        if cost > config.max_cost:
            raise BudgetSpentError(
                f"embedding.api.max_cost: the next call would bring the cost to {cost:.4g}, expected at most "
                f"{config.max_cost:g}. {advice}"
            )

    def _price(self, tokens: int) -> float:
        return tokens * (self.price_per_million_tokens or 0.0) / 1e6

    def _handle(self, error: CallFailedError, failures: int) -> None:
        """Wait until the next try.

        Raises:
            ApiError: there is no next try.
        """
        retry_after_s = error.retry_after_s or 0.0
        is_too_long = retry_after_s > self._config.max_retry_after_s
        is_last = failures >= self._config.tries or is_too_long
        # A server that asks to slow down works; this counts as a failure only if waiting did not help.
        if is_last or not error.is_limited:
            self._count(error.reason)
        if is_last:
            note = f"; the server asks to wait {retry_after_s:.0f} s" if is_too_long else ""
            raise ApiError(f"{self._name}: {error.reason}{note} ({failures} tries). {_ADVICE}")
        logger.debug("%s: %s; try %d failed", self._name, error.reason, failures)
        with self._lock:
            if error.retry_after_s is not None:
                # The server means all callers, not only the one that got the reply.
                self._not_before = max(self._not_before, time.monotonic() + retry_after_s)
            limits = {"backoff_s": self._config.backoff_s, "max_backoff_s": self._config.max_backoff_s}
            seconds = wait_s(failures, error.retry_after_s, self._rng, **limits)
        self._stop.wait(seconds)
        self._check_running()

    def _count(self, failure: str) -> None:
        with self._lock:
            self._breaker.count(failure)

    def _start_over(self) -> None:
        self._stop.clear()
        self._reason, self._error = "", None
        self._breaker = self._new_breaker()

    def _new_breaker(self) -> Breaker:
        return Breaker(self._config.breaker_window, self._config.breaker_share, self._to_error)

    def _to_error(self, failures: str) -> ApiError:
        return ApiError(f"{self._name}: {failures} {_ADVICE}")
