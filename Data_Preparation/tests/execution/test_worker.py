"""Tasks that workers die at, one after another: they fail, and do not end in an endless row of dead workers."""

import json
import os
from dataclasses import dataclass

import pytest

from data_pipeline.errors import DataPipelineError
from data_pipeline.execution.worker import SharedWork, work
from data_pipeline.stages.base import Task, TaskResult


@dataclass
class Deadly:
    """A stage of two tasks."""

    fails_alone: bool
    name: str = "Reading"

    def run(self, task, advance):
        advance(5)
        return TaskResult(task.name, 5)


def shared_after_deaths(folder, deaths):
    """Work whose first task has a lease of a dead worker."""
    shared = SharedWork([Task("a", 0), Task("b", 1)], folder)
    lease = folder / "leases" / "a.lease"
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"machine": "x", "process": 1, "rows": 3, "token": "t", "attempt": deaths}))
    os.utime(lease, (0, 0))
    return shared


def test_a_task_is_tried_three_times(tmp_path):
    shared = shared_after_deaths(tmp_path, 2)
    work(Deadly(fails_alone=False), shared, "worker-0")
    assert [shared.receipts.read(name).result for name in "ab"] == [TaskResult("a", 5), TaskResult("b", 5)]


def test_then_it_ends_the_stage(tmp_path):
    shared = shared_after_deaths(tmp_path, 3)
    work(Deadly(fails_alone=False), shared, "worker-0")
    with pytest.raises(DataPipelineError, match=r"Reading, a: 3 processes were killed .*one after another.*workers"):
        shared.receipts.check()


def test_or_its_result_names_the_error_where_tasks_fail_alone(tmp_path):
    shared = shared_after_deaths(tmp_path, 3)
    work(Deadly(fails_alone=True), shared, "worker-0")
    shared.receipts.check()
    assert "3 processes were killed" in shared.receipts.read("a").result.error
    assert shared.receipts.read("b").result == TaskResult("b", 5)
