"""Measures the speed of this machine on texts of the job, and chooses batch size and threads."""

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

_MIN_TRIALS = 20  # a plan of less work than so many trials takes less time than measuring it
_MIN_TUNED_S = 60.0
_CPU_BATCH_TOKENS = (1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result of tuning."""

    batch_tokens: int
    """Tokens of a pack."""
    threads: int | None
    """Threads of torch; None for torch's own number."""
    flops_per_s: float
    """Measured floating-point operations per second; 0 where the job is too small to be measured."""


def tune(embedder: Embedder, plan: Plan, batch_tokens: int | None, threads: int | None) -> Tuned:
    """Measure the speed of a job that is long enough, and choose its settings; sets torch's number of threads.

    Args:
        embedder: the model.
        plan: the job.
        batch_tokens: tokens of a pack; None to choose.
        threads: threads of torch; None to choose.
    """
    runtime = embedder.runtime
    chosen_tokens = batch_tokens or runtime.batch_tokens
    if runtime.tunable_threads and threads is not None:
        _set_threads(threads)
    total = float(runtime.cost.flops(plan.tokens.lengths[plan.order]).sum())
    if total < _MIN_TRIALS * runtime.trial_flops or not runtime.trial_flops:
        return Tuned(chosen_tokens, threads, 0.0)
    speed = _measure_speed(embedder, plan, chosen_tokens)
    if not runtime.tunable_threads or total / speed < _MIN_TUNED_S:
        return Tuned(chosen_tokens, threads, speed)
    # First the threads, then the tokens of a pack, each with the best choice of the other so far.
    if threads is None:
        for count in _thread_counts():
            previous = _set_threads(count)
            if (trial_speed := _measure_speed(embedder, plan, chosen_tokens)) > speed:
                speed, threads = trial_speed, count
            else:
                _set_threads(previous)
    # Packs of another size give the same vectors only where these do not depend on the pack.
    if batch_tokens is None and not runtime.batch_dependent:
        for tokens in _CPU_BATCH_TOKENS:
            if tokens != chosen_tokens and (trial_speed := _measure_speed(embedder, plan, tokens)) > speed:
                speed, chosen_tokens = trial_speed, tokens
    logger.info("Tuned: packs of %d tokens%s", chosen_tokens, f", {threads} threads" if threads else "")
    return Tuned(chosen_tokens, threads, speed)


def _measure_speed(embedder: Embedder, plan: Plan, batch_tokens: int) -> float:
    """Floating-point operations per second on a pack from the middle of the plan."""
    sample = _take_sample(plan, batch_tokens, embedder)
    embedder.forward(sample)  # the first call with a shape selects kernels, which takes time
    started = time.perf_counter()
    embedder.forward(sample)
    seconds = time.perf_counter() - started
    return float(embedder.runtime.cost.flops(sample.lengths).sum()) / seconds


def _take_sample(plan: Plan, batch_tokens: int, embedder: Embedder) -> Tokens:
    lengths = plan.tokens.lengths[plan.order]
    start = int(np.searchsorted(np.cumsum(lengths), lengths.sum() / 2))
    remaining = lengths[start:]
    flops = np.cumsum(embedder.runtime.cost.flops(remaining))
    count = min(
        int(np.searchsorted(np.cumsum(remaining), batch_tokens, side="right")),
        int(np.searchsorted(flops, embedder.runtime.trial_flops, side="right")),
    )
    return plan.tokens.take(plan.order[start : start + max(1, count)])


def _thread_counts() -> Iterator[int]:
    import torch

    if "OMP_NUM_THREADS" in os.environ:  # the user chose a number
        return
    current = torch.get_num_threads()
    yield from sorted({usable_cores(), max(1, current // 2), current} - {current})


def _set_threads(count: int) -> int:
    """Set torch's number of threads; returns the previous number."""
    import torch

    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    return previous
