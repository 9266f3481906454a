"""Circuit breaker: stops a run whose server no longer works, since further calls would fail too."""

from collections import Counter, deque
from collections.abc import Callable


class Breaker:
    """Circuit breaker over the most recent calls; opens when too many of them failed.

    Args:
        window: number of recent calls that are counted; the breaker stays closed until that many were made.
        share: share of failures that opens the breaker, above 0 and at most 1.
        to_error: makes the error to raise from two sentences about the failures.
    """

    def __init__(self, window: int, share: float, to_error: Callable[[str], Exception]) -> None:
        self._share, self._to_error = share, to_error
        self._recent: deque[str] = deque(maxlen=window)
        """Reason of each failed call; empty for calls that did not fail."""

    def count(self, failure: str = "") -> None:
        """Count a call; `failure` is the reason if it failed.

        Raises:
            Exception: that of `to_error`, if too many of the recent calls failed.
        """
        self._recent.append(failure)
        failures = [reason for reason in self._recent if reason]
        window = len(self._recent)
        if window < (self._recent.maxlen or 0) or len(failures) < self._share * window:
            return
        common = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(failures).most_common(3))
        raise self._to_error(
            f"{len(failures)} of the last {window} calls failed, so the run was stopped. "
            f"Most frequent reasons: {common}."
        )
