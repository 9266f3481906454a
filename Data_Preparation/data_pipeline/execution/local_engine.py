"""Engine that runs the tasks of a stage in several processes on this machine.

This process leads (see `crew`); the others are started at once, while it reads and loads what it needs, and stay. One
that dies is replaced, and its task is taken over by another one.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataPipelineError
from data_pipeline.execution import follower as follower_module
from data_pipeline.execution.crew import CrewFolder, Leader
from data_pipeline.stages.base import Advance, Stage, Task, TaskResult, WorkerPlace

logger = logging.getLogger(__name__)

_MAX_DEATHS = 10
"""Deaths of each worker in a stage, after which the stage fails; a task has failed after fewer, see `worker`."""
# Libraries read them when they are imported.
_THREAD_SETTINGS = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass
class _Follower:
    place: WorkerPlace
    process: subprocess.Popen[bytes]
    deaths: int = 0
    """Number of processes before this one that died in the present stage."""


class LocalEngine:
    """Executor for `stages.base.run_stage`; use it as a context manager.

    Args:
        places: one place for each worker, this process first.
        folder: folder of the crew, which is removed at the end.
    """

    def __init__(self, places: Sequence[WorkerPlace], folder: Path) -> None:
        self._places, self._folder = places, CrewFolder(folder)
        self._leader = Leader(self._folder, places[0], len(places), self._replace_dead)
        self._followers: list[_Follower] = []

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self._places)

    def __enter__(self) -> "LocalEngine":
        self._start_others()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other processes."""
        self._end_followers()
        self._folder.remove()

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run all tasks; an error of a task is raised."""
        for follower in self._followers:
            follower.deaths = 0
        self._start_others()
        try:
            return self._leader(stage, tasks, advance)
        except BaseException:
            self._end_followers()  # which may be at a task of the stage that failed
            raise

    def _start_others(self) -> None:
        for place in self._places[1 + len(self._followers) :]:
            self._followers.append(self._started(place))

    def _end_followers(self) -> None:
        for follower in self._followers:
            follower.process.kill()
            follower.process.wait()
        self._followers.clear()

    def _started(self, place: WorkerPlace) -> _Follower:
        arguments = [str(self._folder.path), json.dumps(asdict(place)), str(os.getpid())]
        # Not by multiprocessing, which would run the script of a user again that does not expect it.
        process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", follower_module.__name__, *arguments],
            env={
                **os.environ,
                **dict.fromkeys(_THREAD_SETTINGS, str(place.threads)),
                "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path])),
            },
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which ends the others; they may not have begun to ignore it.
            process_group=0,
        )
        return _Follower(place, process)

    def _replace_dead(self) -> None:
        """Start workers again that died."""
        for number, follower in enumerate(self._followers):
            code = follower.process.poll()
            if code is None:
                continue
            if follower.deaths >= _MAX_DEATHS:
                raise DataPipelineError(
                    f"a worker process died {follower.deaths + 1} times, last with exit code {code}. Exit code -9 "
                    "means that it was killed, mostly for memory: set execution.workers to a smaller number"
                )
            logger.warning("a worker process died (exit code %s); another one takes over its work", code)
            self._followers[number] = self._started(follower.place)
            self._followers[number].deaths = follower.deaths + 1
