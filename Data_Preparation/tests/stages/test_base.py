import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_pipeline.errors import StaleStageError, StoreError
from data_pipeline.stages.base import Task, TaskResult, run_at_once, run_in_order, run_stage, run_stages
from data_pipeline.utils import exclusive


@dataclass
class FakeOutput:
    state: str = "new"

    def is_finished(self, overwrite):
        if self.state == "stale" and not overwrite:
            raise StaleStageError("made with other settings")
        return self.state == "finished"


@dataclass
class FakeStage:
    outputs: list
    name: str = "Counting"
    rows: int = 0
    unit: str = "row"
    done: list = field(default_factory=list)

    def fingerprint(self):
        return "f"

    def tasks(self):
        return [Task(f"part-{index}", index) for index in range(3)]

    def run(self, task, advance=lambda rows: None):
        self.done.append(task.name)
        advance(2)
        return TaskResult(task.name, 2)

    def finish(self, results):
        return sum(result.rows for result in results) if results else "skipped"


def test_a_new_stage_runs_all_its_tasks_in_order():
    stage = FakeStage([FakeOutput()])
    assert run_stage(stage) == 6
    assert stage.done == ["part-0", "part-1", "part-2"]


def test_a_finished_stage_is_skipped_and_a_half_finished_one_is_not():
    stage = FakeStage([FakeOutput("finished"), FakeOutput("finished")])
    assert run_stage(stage) == "skipped"
    assert stage.done == []
    assert run_stage(FakeStage([FakeOutput("finished"), FakeOutput()])) == 6


def test_a_stale_output_stops_the_stage_before_its_first_task():
    stage = FakeStage([FakeOutput(), FakeOutput("stale")])
    with pytest.raises(StaleStageError):
        run_stage(stage)
    assert stage.done == []
    assert run_stage(stage, overwrite=True) == 6


def test_a_stage_whose_parts_know_themselves_what_is_finished_always_runs():
    assert run_stage(FakeStage([])) == 6


def test_an_executor_is_given_names_and_gives_results():
    given = []

    def backwards(stage, tasks, advance):
        given.extend(tasks)
        return run_in_order(stage, list(reversed(tasks)), advance)

    stage = FakeStage([FakeOutput()])
    assert run_stage(stage, execute=backwards) == 6
    assert given == stage.tasks()
    assert stage.done == ["part-2", "part-1", "part-0"]


@dataclass
class MeetingStage(FakeStage):
    """Its first two tasks wait for each other; `fails` ends with an error."""

    fails: str = ""
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=10))
    reported: threading.Event = field(default_factory=threading.Event)

    def run(self, task, advance=lambda rows: None):
        if task.index < 2:
            self.meeting.wait()
        if task.name == self.fails:
            raise StoreError(f"{task.name} failed")
        if self.fails:
            self.reported.wait(10)
        return super().run(task, advance)


def test_several_tasks_run_at_once_and_their_results_are_in_order():
    rows = []
    stage = MeetingStage([FakeOutput()])
    results = run_at_once(2, pytest.fail)(stage, stage.tasks(), rows.append)
    assert [result.name for result in results] == ["part-0", "part-1", "part-2"]
    assert rows == [2, 2, 2]


@pytest.mark.parametrize("fails", ["part-0", "part-1"])
def test_a_failed_task_stops_those_that_run_and_those_that_wait(fails):
    rows, reasons = [], []
    stage = MeetingStage([FakeOutput()], fails=fails)

    def interrupt(reason):
        reasons.append(reason)
        stage.reported.set()

    with pytest.raises(StoreError, match=f"{fails} failed"):
        run_at_once(2, interrupt)(stage, stage.tasks(), rows.append)
    assert reasons == ["another task failed"]
    # The other one was stopped at its first report; the third may have begun, as a thread had become free.
    assert rows == []


def test_rows_are_shown_as_they_are_finished(capsys):
    assert run_stage(FakeStage([FakeOutput()], rows=6)) == 6


def test_stages_of_a_folder_have_it_for_themselves(tmp_path: Path):
    folder = tmp_path / "scores"
    seen = []

    def stages():
        def look():
            try:
                with exclusive(folder):
                    seen.append("open")
            except StoreError:
                seen.append("held")

        for _ in range(2):
            other = threading.Thread(target=look)
            other.start()
            other.join()
            yield FakeStage([FakeOutput()])

    assert run_stages(stages(), folder) == [6, 6]
    assert seen == ["held", "held"]
    with exclusive(folder):
        pass
