"""What the crews of a data folder are doing; see `crew`."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import Config
from data_pipeline.execution.crew import CrewFolder, StageAbout
from data_pipeline.execution.leases import Holder, Leases
from data_pipeline.execution.worker import SharedWork
from data_pipeline.utils import human_bytes, human_time

_SHOWN_WORKERS = 8


@dataclass(frozen=True)
class StageStatus:
    """State of one stage of a crew."""

    about: StageAbout
    done: Counter[str]
    """Number of tasks that each worker has done."""
    rows: int
    """Rows that are finished, those of running tasks included."""
    running: dict[str, Holder]
    """Workers by the names of their tasks."""
    failure: str | None
    """Message of the task that failed."""

    def seconds_left(self, now: float) -> float | None:
        """Return the expected time until its end, at the rate so far; None if that is not known."""
        share = self.rows / self.about.rows if self.about.rows else self.done.total() / max(1, self.about.tasks)
        elapsed = now - self.about.started
        return elapsed * (1 - share) / share if 0 < share <= 1 else None


@dataclass(frozen=True)
class CrewStatus:
    """State of one crew."""

    name: str
    is_over: bool
    failure: str | None
    """Message of the error that it ended with."""
    leader: Holder | None
    """Worker that leads; None if none does, or did in the last minute."""
    stages: list[StageStatus]
    """Stages so far; the last one is the present one."""


def crews_of(config: Config) -> list[CrewStatus]:
    """Return the crews of a data folder, the oldest first."""
    return [_status(folder) for folder in sorted(config.crews_dir.glob("*")) if folder.is_dir()]


def _status(folder: Path) -> CrewStatus:
    crew = CrewFolder(folder)
    leader = Leases(folder / "leader").holders().get("leader")
    if leader is not None and leader.is_gone:
        leader = None
    return CrewStatus(folder.name, crew.is_over, crew.failure, leader, list(_stages(crew)))


def _stages(crew: CrewFolder) -> Iterator[StageStatus]:
    for folder in crew.stages:
        try:
            about = StageAbout(**json.loads((folder / "about.json").read_bytes()))
        except FileNotFoundError:
            continue  # it has just begun
        shared = SharedWork([], folder)
        done = shared.receipts.all()
        holders = {name: holder for name, holder in shared.leases.holders().items() if name not in done}
        workers = Counter(receipt.worker for receipt in done.values())
        yield StageStatus(about, workers, shared.progress(), holders, shared.receipts.failure())


def _counted(number: int, unit: str) -> str:
    return human_bytes(number) if unit == "B" else f"{number:,} {unit}{'' if number == 1 else 's'}"


def _by_worker(done: Counter[str]) -> str:
    shown = ", ".join(f"{worker} {count:,}" for worker, count in sorted(done.items())[:_SHOWN_WORKERS])
    more = f" and {len(done) - _SHOWN_WORKERS:,} more workers" if len(done) > _SHOWN_WORKERS else ""
    return f" ({shown}{more})" if done else ""


def crew_to_json(crew: CrewStatus) -> dict[str, Any]:
    """Return a crew as JSON values; `state` is `running`, `waiting`, `over` or `failed`."""
    now = time.time()
    return {
        "name": crew.name,
        "state": "failed" if crew.failure else "over" if crew.is_over else "running" if crew.leader else "waiting",
        "failure": crew.failure,
        "leader": {"machine": crew.leader.machine, "process": crew.leader.process} if crew.leader else None,
        "stages": [
            {
                "name": stage.about.name,
                "tasks": stage.about.tasks,
                "tasks_done": stage.done.total(),
                "tasks_running": len(stage.running),
                "unit": stage.about.unit,
                "rows": stage.about.rows,
                "rows_done": stage.rows,
                "tasks_by_worker": dict(stage.done),
                "seconds_left": stage.seconds_left(now),
                "failure": stage.failure,
            }
            for stage in crew.stages
        ],
    }


def lines_of(crew: CrewStatus) -> list[tuple[str, str]]:
    """Describe a crew in rows of a table."""
    state = "over" if crew.is_over else "running" if crew.leader else "waiting for a worker to lead"
    where = f", led by process {crew.leader.process} on {crew.leader.machine}" if crew.leader else ""
    state = f"FAILED: {crew.failure}" if crew.failure else state
    lines = [(crew.name, state + where)]
    for number, stage in enumerate(crew.stages):
        about, is_last = stage.about, number == len(crew.stages) - 1
        text = f"{stage.done.total():,} of {about.tasks:,} tasks done"
        if about.rows:
            text += f", {_counted(stage.rows, about.unit)} of {_counted(about.rows, about.unit)}"
        if is_last and not crew.is_over:
            text += _by_worker(stage.done) + f", {len(stage.running)} running"
            left = stage.seconds_left(time.time())
            text += f", about {human_time(left)} left" if left is not None else ""
        if stage.failure:
            text += f"; FAILED: {stage.failure}"
        lines.append((about.name, text))
    return lines
