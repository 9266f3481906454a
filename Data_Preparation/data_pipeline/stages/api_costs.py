"""Cost of embedding behind an API: estimated before the first call, and counted afterwards."""

import logging
from collections.abc import Iterable

from data_pipeline.embeddings.base import Remote, Usage
from data_pipeline.errors import BudgetSpentError
from data_pipeline.store import ParagraphShard
from data_pipeline.types import IntArray

logger = logging.getLogger(__name__)


def cost_of(remote: Remote | None, tokens: int) -> str:
    """Price of tokens as the end of a line for the log; empty without a price."""
    if remote is None or remote.price_per_million_tokens is None:
        return ""
    return f", about {_price(remote, tokens):.4g} in cost"


def check_cost(remote: Remote, shards: Iterable[tuple[ParagraphShard, IntArray]], activity: str) -> None:
    """Log what the vectors of some shards will cost.

    Args:
        remote: server, its price and its budget.
        shards: shards, and their rows whose vectors are to be computed; the recorded token counts are added up.
        activity: what is done, for the log.

    Raises:
        BudgetSpentError: they would cost more than the run may.
    """
    if remote.price_per_million_tokens is None:
        return
    tokens = sum(int(shard.numbers("token_count")[rows].sum()) for shard, rows in shards)
    cost = _price(remote, tokens)
    logger.info("%s: about %s tokens, %.4g in cost", activity, f"{tokens:,}", cost)
    if remote.max_cost is not None and remote.usage.cost + cost > remote.max_cost:
        spent = f", after {remote.usage.cost:.4g} that this run has spent" if remote.usage.cost else ""
        raise BudgetSpentError(
            f"embedding.api.max_cost: {activity} is estimated to cost {cost:.4g}{spent}, expected at most "
            f"{remote.max_cost:g}. No text was sent. Raise the limit, or embed fewer texts."
        )


def usage_since(before: Usage | None, remote: Remote | None, activity: str) -> Usage:
    """Calls that were made since an earlier count, which are logged.

    Args:
        before: the earlier count; None without a server.
        remote: server.
        activity: what was done, for the log.
    """
    if before is None or remote is None:
        return Usage()
    now = remote.usage
    usage = Usage(
        now.calls - before.calls, now.failed_calls - before.failed_calls, now.tokens - before.tokens,
        now.busy_s - before.busy_s, now.cost - before.cost,
    )  # fmt: skip
    cost = f", {usage.cost:.4g} in cost" if remote.price_per_million_tokens is not None else ""
    logger.info(
        "%s: %s calls, %s of them failed, %s tokens%s",
        activity, f"{usage.calls:,}", f"{usage.failed_calls:,}", f"{usage.tokens:,}", cost,
    )  # fmt: skip
    return usage


def _price(remote: Remote, tokens: int) -> float:
    return tokens * (remote.price_per_million_tokens or 0.0) / 1e6
