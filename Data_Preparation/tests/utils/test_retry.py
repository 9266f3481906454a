import random
from datetime import UTC, datetime

from data_pipeline.utils.retry import is_retryable, parse_retry_after, wait_s


def test_waits_are_drawn_below_a_limit_that_doubles():
    rng, limits = random.Random(0), {"backoff_s": 1, "max_backoff_s": 5}
    for failures, limit in ((1, 1), (2, 2), (3, 4), (4, 5), (5000, 5)):
        waits = [wait_s(failures, None, rng, **limits) for _ in range(2000)]
        assert 0 <= min(waits) < 0.05 * limit
        assert 0.95 * limit < max(waits) <= limit
    assert all(3 <= wait_s(1, 3, rng, **limits) <= 3.3 for _ in range(100))


def test_retry_after_is_seconds_or_a_date():
    now = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
    assert parse_retry_after("7", now) == 7
    assert parse_retry_after("0.25", now) == 0.25
    assert parse_retry_after("Wed, 01 Jul 2026 12:00:09 GMT", now) == 9
    assert parse_retry_after("Wed, 01 Jul 2026 14:00:09 +0200", now) == 9
    assert parse_retry_after("Wed, 01 Jul 2026 11:00:00 GMT", now) == 0
    assert parse_retry_after("-5", now) == 0
    for bad in (None, "", "soon", "nan", "inf", "Wed, 99 Jul 2026"):
        assert parse_retry_after(bad, now) is None


def test_what_is_tried_again():
    again = {status for status in range(400, 600) if is_retryable(status)}
    assert again == {408, 409, 425, 429, *range(500, 600)}
