"""When a failed call is tried again.

Waits are drawn at random below a limit that doubles ("full jitter": M. Brooker, Exponential Backoff And Jitter, AWS
Architecture Blog 2015), so that callers that failed together do not come back together.
"""

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRYABLE = frozenset({408, 409, 425, 429})
"""HTTP statuses, besides all from 500 on, that another try may cure."""
FORBIDDEN = frozenset({401, 402, 403})
"""HTTP statuses about the key and its budget, which every further call would get too."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after what waits."""

    tries: int = 6
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    max_retry_after_s: float = 300.0

    def wait_s(self, failures: int, retry_after_s: float | None, rng: random.Random) -> float:
        """Seconds until the next try; never less than the server asked for.

        Args:
            failures: so far, 1 or more.
            retry_after_s: what the server asked for.
            rng: where the wait is drawn from.
        """
        # The exponent is bounded so that no number of tries overflows.
        limit = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(failures - 1, 60))
        drawn = rng.uniform(0, limit)
        # The draw is added: callers that got the same Retry-After would else come back at the same moment.
        return drawn if retry_after_s is None else retry_after_s + min(drawn, 0.1 * retry_after_s)


def is_retryable(status: int) -> bool:
    """Whether a call that ended with this HTTP status may be tried again."""
    return status in RETRYABLE or status >= 500


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which has seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        value: of the header.
        now: with a time zone; None for this moment.

    Returns:
        None where there is no header, or none that can be understood.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        seconds = (when - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
