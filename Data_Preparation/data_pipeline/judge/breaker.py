"""Circuit breaker: stops a run whose judge no longer works, since further calls would fail too."""

from collections import Counter, deque

from data_pipeline.errors import JudgeError


class Breaker:
    """Circuit breaker over the most recent calls; opens when too many of them failed.

    Args:
        judge_name: name of the judge, for the message.
        window: number of recent calls that are counted; the breaker stays closed until that many were made.
        share: share of failures that opens the breaker, above 0 and at most 1.
    """

    def __init__(self, judge_name: str, window: int, share: float) -> None:
        self._judge_name, self._share = judge_name, share
        self._recent: deque[str] = deque(maxlen=window)
        """Reason of each failed call; empty for calls that did not fail."""

    def count(self, failure: str = "") -> None:
        """Count a call; `failure` is the reason if it failed.

        Raises:
            JudgeError: too many of the recent calls failed.
        """
        self._recent.append(failure)
        failures = [reason for reason in self._recent if reason]
        window = len(self._recent)
        if window < (self._recent.maxlen or 0) or len(failures) < self._share * window:
            return
        common = "; ".join(f"{reason} ({count}x)" for reason, count in Counter(failures).most_common(3))
        raise JudgeError(
            f"{self._judge_name}: {len(failures)} of the last {window} calls failed, so the run was stopped. "
            f"Most frequent reasons: {common}. Judgements made so far are stored, and no failure became a label. "
            "Check the server, then run the same command again: it resumes where it stopped."
        )
