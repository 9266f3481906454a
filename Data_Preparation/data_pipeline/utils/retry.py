"""Retries of failed calls to a server.

Waits are drawn at random below a limit that doubles ("full jitter": M. Brooker, Exponential Backoff And Jitter, AWS
Architecture Blog 2015), so that callers that failed together do not call again together.
"""
# Not tenacity's waits: they draw from Python's global generator, and the seeded jitter would be lost.

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRYABLE = frozenset({408, 409, 425, 429})
"""HTTP statuses, besides those from 500, after which another try may succeed."""
FORBIDDEN = frozenset({401, 402, 403})
"""HTTP statuses about the key and its budget, which every further call would get."""


def wait_s(
    failures: int, retry_after_s: float | None, rng: random.Random, *, backoff_s: float, max_backoff_s: float
) -> float:
    """Draw the seconds until the next try; never less than the server asked for.

    Args:
        failures: number of failed calls so far, 1 or more.
        retry_after_s: wait that the server asked for, in seconds; None if it asked for none.
        rng: generator that the wait is drawn from.
        backoff_s: maximum wait after the first failure, in seconds; doubled for each further one.
        max_backoff_s: upper limit of that maximum, in seconds.
    """
    # The exponent is bounded, so that no number of tries overflows.
    limit = min(max_backoff_s, backoff_s * 2.0 ** min(failures - 1, 60))
    drawn = rng.uniform(0, limit)
    # The draw is added: callers that got the same Retry-After would otherwise call again at the same moment.
    return drawn if retry_after_s is None else retry_after_s + min(drawn, 0.1 * retry_after_s)


def is_retryable(status: int) -> bool:
    """Whether a call that ended with this HTTP status may be tried again."""
    return status in RETRYABLE or status >= 500


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Read the seconds from a Retry-After header, which holds seconds or an HTTP date (RFC 9110, 10.2.3).

    Args:
        value: value of the header; None if the reply has none.
        now: current time, with a time zone; None for the system's.

    Returns:
        Seconds, 0 or more; None if there is no header or it cannot be read.
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
