"""A crew in which any may lead: after the death of one, or its end, another goes on; errors are told."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from execution.test_local_engine import Counting

from data_pipeline.cli import main
from data_pipeline.errors import SourceError
from data_pipeline.execution.crew import CrewFolder, lead_or_follow
from data_pipeline.stages.base import WorkerPlace, run_stage

MEMBER = """
import sys
from pathlib import Path

from execution.test_local_engine import *
from data_pipeline.execution.crew import CrewFolder, lead_or_follow

folder, name = Path(sys.argv[1]), sys.argv[2]
lead_or_follow(
    CrewFolder(folder / "crew"), WorkerPlace(name), 3,
    lambda leader: (folder / "led").open("a").write(name + chr(10)) and [
        run_stage(Counting(folder / stage, 12, 0.3), execute=leader) for stage in ("first", "second")
    ], 60.0,
)
"""


def start(folder, name):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", MEMBER, str(folder), name], env=environment)


@pytest.mark.slow
def test_another_member_leads_when_the_leader_is_killed(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    members = {name: start(tmp_path, name) for name in ("a", "b", "c")}
    end = time.monotonic() + 60
    while len(list((tmp_path / "first").iterdir())) < 5:
        assert time.monotonic() < end
        time.sleep(0.05)
    leader = (tmp_path / "led").read_text().split()[0]
    os.kill(members[leader].pid, signal.SIGKILL)
    codes = {name: member.wait(120) for name, member in members.items()}
    assert codes.pop(leader) == -signal.SIGKILL
    assert set(codes.values()) == {0}
    led = (tmp_path / "led").read_text().split()
    assert len(led) == 2
    assert led[1] != leader
    for name in ("first", "second"):
        assert len(list((tmp_path / name).iterdir())) == 12


def lead(folder, name, stage):
    lead_or_follow(CrewFolder(folder), WorkerPlace(name), 2, lambda leader: run_stage(stage, execute=leader), 60.0)


def test_an_error_ends_the_crew_and_status_tells_it(tmp_path, capsys):
    (tmp_path / "files").mkdir()
    stage = Counting(tmp_path / "files", 6, 0.0, failing=2)
    crew = tmp_path / "data" / ".crews" / "run"
    with pytest.raises(SourceError, match="this one cannot be read"):
        lead(crew, "a", stage)
    assert CrewFolder(crew).is_over
    lead(crew, "b", stage)  # which comes late, and has nothing to do
    assert main(["status", "--output-dir", str(tmp_path / "data")]) == 0
    shown = capsys.readouterr().out
    assert "FAILED: this one cannot be read" in shown
    assert "Counting" in shown


def test_looking_on_writes_nothing(tmp_path, capsys):
    folder = tmp_path / ".crews" / "run" / "stages" / "000001"
    folder.mkdir(parents=True)
    (folder / "about.json").write_text('{"name": "Reading", "unit": "B", "rows": 5, "tasks": 2, "started": 0.0}')
    before = sorted(tmp_path.rglob("*"))
    assert main(["status", "--output-dir", str(tmp_path)]) == 0
    assert "0 of 2 tasks done, 0 B of 5 B" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


class Interrupted(Counting):
    """The process that runs a task first is told to end, as Slurm tells one whose job is preempted."""

    def run(self, task, advance=lambda rows: None):
        marker = self.folder.with_name("interrupted")
        if not marker.exists():
            marker.touch()
            raise SystemExit(15)
        return super().run(task, advance)


def test_a_leader_that_is_told_to_end_leaves_the_others_to_go_on(tmp_path):
    (tmp_path / "files").mkdir()
    stage = Interrupted(tmp_path / "files", 6)
    with pytest.raises(SystemExit):
        lead(tmp_path / "crew", "a", stage)
    assert not CrewFolder(tmp_path / "crew").is_over
    lead(tmp_path / "crew", "b", Counting(tmp_path / "files", 6))
    assert CrewFolder(tmp_path / "crew").is_over
    assert len(list((tmp_path / "files").iterdir())) == 6


def test_a_member_that_comes_before_the_leader_waits_for_it(tmp_path):
    (tmp_path / "files").mkdir()
    crew = CrewFolder(tmp_path / "crew")
    (crew.path / "leader").mkdir()
    results = []

    def lead_slowly(leader):
        time.sleep(0.5)
        results.append(run_stage(Counting(tmp_path / "files", 8, 0.05), execute=leader))

    first = threading.Thread(target=lead_or_follow, args=(crew, WorkerPlace("a"), 2, lead_slowly, 60.0))
    first.start()
    time.sleep(0.1)
    lead_or_follow(crew, WorkerPlace("b"), 2, lead_slowly, 60.0)
    first.join()
    assert results == [list(range(8))]
