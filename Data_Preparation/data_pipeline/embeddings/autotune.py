"""How fast this machine is, and which settings suit it: measured on texts of the job itself."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.plan import Plan
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.utils.system import usable_cores

logger = logging.getLogger(__name__)

_WORTH_A_TRIAL = 20  # a plan of fewer trials' work is done sooner than it is measured
_WORTH_TUNING_S = 60.0
_CPU_BUDGETS = (1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured."""

    batch_tokens: int
    threads: int | None
    """None where torch's own number stays."""
    flops_per_s: float
    """0 where nothing was measured, because the job is too small."""


def tune(embedder: Embedder, plan: Plan, batch_tokens: int | None, threads: int | None) -> Tuned:
    """Measure, where the job is long enough to be worth it; sets torch's number of threads.

    Args:
        plan: the job.
        batch_tokens: the user's choice; None to choose.
        threads: the user's choice; None to choose.
    """
    runtime = embedder.runtime
    budget = batch_tokens or runtime.batch_tokens
    if runtime.tunable_threads and threads is not None:
        _set_threads(threads)
    total = float(runtime.cost.flops(plan.tokens.lengths[plan.order]).sum())
    if total < _WORTH_A_TRIAL * runtime.trial_flops or not runtime.trial_flops:
        return Tuned(budget, threads, 0.0)
    speed = _speed(embedder, plan, budget)
    if not runtime.tunable_threads or total / speed < _WORTH_TUNING_S:
        return Tuned(budget, threads, speed)
    # The threads first, then the budget, each with the best of the other so far.
    if threads is None:
        for count in _thread_counts():
            before = _set_threads(count)
            if (found := _speed(embedder, plan, budget)) > speed:
                speed, threads = found, count
            else:
                _set_threads(before)
    # Another budget gives the same vectors only where they do not depend on their pack.
    if batch_tokens is None and not runtime.mates_matter:
        for tokens in _CPU_BUDGETS:
            if tokens != budget and (found := _speed(embedder, plan, tokens)) > speed:
                speed, budget = found, tokens
    logger.info("measured: packs of %d tokens%s", budget, f", {threads} threads" if threads else "")
    return Tuned(budget, threads, speed)


def _speed(embedder: Embedder, plan: Plan, batch_tokens: int) -> float:
    """Floating-point operations a second on a pack from the middle of the plan."""
    sample = _sample(plan, batch_tokens, embedder)
    embedder.forward(sample)  # the first call of a shape makes kernels ready
    started = time.perf_counter()
    embedder.forward(sample)
    seconds = time.perf_counter() - started
    return float(embedder.runtime.cost.flops(sample.lengths).sum()) / seconds


def _sample(plan: Plan, batch_tokens: int, embedder: Embedder) -> Tokens:
    lengths = plan.tokens.lengths[plan.order]
    start = int(np.searchsorted(np.cumsum(lengths), lengths.sum() / 2))
    rest = lengths[start:]
    flops = np.cumsum(embedder.runtime.cost.flops(rest))
    count = min(
        int(np.searchsorted(np.cumsum(rest), batch_tokens, side="right")),
        int(np.searchsorted(flops, embedder.runtime.trial_flops, side="right")),
    )
    return plan.tokens.take(plan.order[start : start + max(1, count)])


def _thread_counts() -> Iterator[int]:
    import torch

    if "OMP_NUM_THREADS" in os.environ:  # the user has chosen already
        return
    now = torch.get_num_threads()
    yield from sorted({usable_cores(), max(1, now // 2), now} - {now})


def _set_threads(count: int) -> int:
    """Set torch's number of threads; returns what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before
