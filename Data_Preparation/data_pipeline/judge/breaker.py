"""Circuit breaker: stops a run whose judge no longer works, since further calls would only fail."""

from collections import Counter, deque

from data_pipeline.errors import JudgeError


class Breaker:
    """Circuit breaker over the last calls; opens when too many of them failed.

    Args:
        endpoint: for the message.
        window: how many calls are looked at; nothing happens before there are that many.
        share: of them that must have failed, above 0, at most 1.
    """

    def __init__(self, endpoint: str, window: int, share: float) -> None:
        self._endpoint, self._share = endpoint, share
        self._last: deque[str] = deque(maxlen=window)
        """Reason of each failure; empty for calls that did not fail."""

    def note(self, failure: str = "") -> None:
        """Count a call; `failure` says why it failed.

        Raises:
            JudgeError: too many of the last calls failed.
        """
        self._last.append(failure)
        failures = [reason for reason in self._last if reason]
        window = len(self._last)
        if window < (self._last.maxlen or 0) or len(failures) < self._share * window:
            return
        common = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(failures).most_common(3))
        raise JudgeError(
            f"{self._endpoint}: {len(failures)} of the last {window} calls failed, so the run was stopped. "
            f"Most often: {common}. Judgements made so far are kept, and no failure became a label. "
            "See what the server says, then run the same command again: it goes on where it stopped."
        )
