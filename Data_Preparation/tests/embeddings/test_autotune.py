import os
import time

import numpy as np
import pytest
import torch

from data_pipeline.embeddings import Cost, Runtime
from data_pipeline.embeddings import autotune as tune
from data_pipeline.embeddings.autotune import Tuned
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.embeddings.tokens import from_rows

FLOPS_PER_TOKEN = 1000.0


class Fake:
    """Texts cost 1,000 operations a token; notes what it is asked to compute, and with how many threads."""

    def __init__(self, **runtime):
        settings = {"batch_tokens": 4096, "tunable_threads": True, "trial_flops": 1e9, **runtime}
        self.runtime = Runtime("none", cost=Cost(linear=FLOPS_PER_TOKEN), **settings)
        self.packs = []

    def forward(self, texts, dtype=None):
        self.packs.append((texts.lengths.tolist(), torch.get_num_threads()))
        return np.zeros((len(texts), 2), dtype=np.float32)


def plan_of(lengths):
    return make_plan(from_rows([[row] * length for row, length in enumerate(lengths)], [False] * len(lengths)))


LONG = plan_of([10] * 10_000)  # 1e8 operations


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Two threads of torch, of as many cores, which nobody has chosen; restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores(monkeypatch, 2)
    yield
    torch.set_num_threads(before)


def cores(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)


def speeds(monkeypatch, table, default=1.0):
    """Pretend that packs of so many tokens, with so many threads, are computed so fast; returns what is asked."""
    asked = []

    def speed(embedder, plan, batch_tokens):
        asked.append((batch_tokens, torch.get_num_threads()))
        return table.get(asked[-1], table.get(batch_tokens, default))

    monkeypatch.setattr(tune, "_measure_speed", speed)
    return asked


def test_a_small_job_is_not_measured():
    # 1e8 operations are fewer than 20 trials of 1e7.
    embedder = Fake(trial_flops=1e7)
    assert tune.tune(embedder, LONG, None, None) == Tuned(4096, None, 0.0)
    assert tune.tune(embedder, LONG, 123, None) == Tuned(123, None, 0.0)
    assert embedder.packs == []
    embedder = Fake(trial_flops=1e8 / 20)
    assert tune.tune(embedder, LONG, None, None).flops_per_s > 0
    assert embedder.packs != []


def test_an_embedder_without_trials_is_not_measured():
    embedder = Fake(trial_flops=0.0)
    assert tune.tune(embedder, LONG, None, None) == Tuned(4096, None, 0.0)
    assert tune.tune(embedder, plan_of([]), None, None) == Tuned(4096, None, 0.0)
    assert embedder.packs == []


def test_repeated_texts_make_no_job_longer():
    plan = make_plan(from_rows([[1] * 10] * 10_000, [False] * 10_000))
    embedder = Fake(trial_flops=1e6)
    assert tune.tune(embedder, plan, None, None).flops_per_s == 0
    assert embedder.packs == []


def test_a_job_of_less_than_a_minute_is_measured_and_not_tuned(monkeypatch):
    asked = speeds(monkeypatch, {}, default=1e8 / 59)
    assert tune.tune(Fake(trial_flops=1.0), LONG, None, None) == Tuned(4096, None, 1e8 / 59)
    assert asked == [(4096, 2)]
    asked = speeds(monkeypatch, {}, default=1e8 / 61)
    tune.tune(Fake(trial_flops=1.0), LONG, None, None)
    assert len(asked) > 1


def test_the_fastest_threads_win_and_then_the_fastest_packs(monkeypatch):
    cores(monkeypatch, 4)
    # One thread (half of two) is faster, four are not; packs of 8,192 are the fastest of all.
    table = {(4096, 2): 10, (4096, 1): 12, (4096, 4): 11, 1024: 11, 2048: 12, 8192: 13}
    asked = speeds(monkeypatch, table)
    assert tune.tune(Fake(trial_flops=1.0), LONG, None, None) == Tuned(8192, 1, 13)
    assert torch.get_num_threads() == 1
    # Packs are tried with the threads that won.
    assert asked == [(4096, 2), (4096, 1), (4096, 4), (1024, 1), (2048, 1), (8192, 1)]


def test_what_is_not_better_changes_nothing(monkeypatch):
    cores(monkeypatch, 4)
    speeds(monkeypatch, {}, default=10)
    assert tune.tune(Fake(trial_flops=1.0), LONG, None, None) == Tuned(4096, None, 10)
    assert torch.get_num_threads() == 2


def test_the_last_of_several_improvements_wins(monkeypatch):
    cores(monkeypatch, 4)
    speeds(monkeypatch, {(4096, 2): 10, (4096, 1): 11, (4096, 4): 12, 1024: 13, 2048: 15, 8192: 14})
    assert tune.tune(Fake(trial_flops=1.0), LONG, None, None) == Tuned(2048, 4, 15)
    assert torch.get_num_threads() == 4


def test_threads_of_the_environment_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    asked = speeds(monkeypatch, {(4096, 1): 100}, default=10)
    tuned = tune.tune(Fake(trial_flops=1.0), LONG, None, None)
    assert (tuned.threads, torch.get_num_threads()) == (None, 2)
    assert {count for _, count in asked} == {2}


@pytest.mark.parametrize("trial_flops", [1.0, 1e12])
def test_threads_the_user_asks_for_are_set_also_for_a_small_job(trial_flops, monkeypatch):
    asked = speeds(monkeypatch, {(4096, 2): 100}, default=10)
    assert tune.tune(Fake(trial_flops=trial_flops), LONG, None, 3).threads == 3
    assert torch.get_num_threads() == 3
    assert {count for _, count in asked} <= {3}


def test_packs_the_user_asks_for_are_kept(monkeypatch):
    asked = speeds(monkeypatch, {8192: 100}, default=10)
    assert tune.tune(Fake(trial_flops=1.0), LONG, 3000, None).batch_tokens == 3000
    assert {tokens for tokens, _ in asked} == {3000}


def test_packs_are_not_tuned_where_vectors_depend_on_them(monkeypatch):
    asked = speeds(monkeypatch, {8192: 100, (4096, 1): 20}, default=10)
    tuned = tune.tune(Fake(trial_flops=1.0, batch_dependent=True), LONG, None, None)
    assert tuned == Tuned(4096, 1, 20)
    assert {tokens for tokens, _ in asked} == {4096}


def test_a_gpu_is_measured_for_the_estimate_only(monkeypatch):
    asked = speeds(monkeypatch, {8192: 100, (4096, 1): 20}, default=10)
    tuned = tune.tune(Fake(trial_flops=1.0, tunable_threads=False), LONG, None, 1)
    assert tuned == Tuned(4096, 1, 10)
    assert asked == [(4096, 2)]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("now", "available", "tried"), [(2, 2, [1]), (8, 8, [4]), (4, 8, [2, 8]), (1, 1, []), (1, 2, [2]), (3, 3, [1])]
)
def test_other_numbers_of_threads_are_all_cores_and_half(now, available, tried, monkeypatch):
    cores(monkeypatch, available)
    torch.set_num_threads(now)
    assert list(tune._thread_counts()) == tried


def test_speed_is_operations_of_the_second_call_by_its_seconds(monkeypatch):
    embedder = Fake()
    clock = iter([5.0, 5.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    # 10 texts of 10 tokens in half a second.
    assert tune._measure_speed(embedder, LONG, 100) == 100 * FLOPS_PER_TOKEN / 0.5
    assert [lengths for lengths, _ in embedder.packs] == [[10] * 10] * 2


def test_a_slow_embedder_is_found_slow():
    class Sleepy(Fake):
        def forward(self, texts, dtype=None):
            time.sleep(0.01)
            return super().forward(texts, dtype)

    speed = tune._measure_speed(Sleepy(), LONG, 1000)
    assert 0.1 * 1e8 < speed <= 1e8


def test_the_sample_is_a_pack_from_the_middle_of_the_plan():
    plan = plan_of(range(1, 101))  # 5,050 tokens, the longest first
    embedder = Fake()

    def sample(batch_tokens):
        return tune._take_sample(plan, batch_tokens, embedder).lengths.tolist()

    # 100 + 99 + ... + 72 = 2,494 and with 71 more than half; whole texts within the budget.
    assert sample(250) == [71, 70, 69]
    assert sample(71) == [71]
    assert sample(1) == [71]
    assert sum(sample(10**6)) == sum(range(1, 72))


def test_the_sample_of_an_expensive_model_is_small():
    embedder = Fake(trial_flops=45 * FLOPS_PER_TOKEN)
    assert tune._take_sample(LONG, 4096, embedder).lengths.tolist() == [10] * 4
    assert tune._take_sample(LONG, 20, embedder).lengths.tolist() == [10] * 2
    embedder = Fake(trial_flops=1.0)
    assert tune._take_sample(LONG, 4096, embedder).lengths.tolist() == [10]


def test_what_won_is_said(monkeypatch, caplog):
    caplog.set_level("INFO")
    speeds(monkeypatch, {(4096, 1): 20, 1024: 30}, default=10)
    tune.tune(Fake(trial_flops=1.0), LONG, None, None)
    assert [record.message for record in caplog.records] == ["Tuned: packs of 1024 tokens, 1 threads"]
