"""Choice of the engine that runs the tasks of stages, by the section `execution`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from data_pipeline.config import Config
from data_pipeline.config.execution import ExecutionConfig
from data_pipeline.errors import ConfigError
from data_pipeline.execution.local_engine import LocalEngine
from data_pipeline.stages.base import (
    Advance,
    Executor,
    Stage,
    Task,
    TaskResult,
    WorkerPlace,
    run_in_order,
    run_timestamp,
    workers_of,
)
from data_pipeline.utils.system import usable_cores
from data_pipeline.working_copy.opened import Publisher, published

P = ParamSpec("P")
R = TypeVar("R")


def with_engine(function: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """Give a function that takes a config and an argument `execute` the engine of the config, unless it is given one.

    What the function makes is published, if the data folder of the config is at a URL.

    Raises:
        ConfigError: see `engine_of`.
        DataPipelineError: see `working_copy.opened.published`.
    """

    @wraps(function)
    def run_by_engine(config: Config, *arguments: P.args, **named: P.kwargs) -> R:
        if "execute" in named:
            return function(config, *arguments, **named)
        with published(config) as publisher, engine_of(config) as (own, execute):
            named["execute"] = publishing(execute, publisher)
            return function(own, *arguments, **named)

    return cast(Callable[Concatenate[Config, P], R], run_by_engine)


def publishing(execute: Executor, publisher: Publisher | None) -> Executor:
    """Return an executor that publishes what is finished before each stage, where there is a publisher."""
    return execute if publisher is None else _Publishing(execute, publisher)


class _Publishing:
    def __init__(self, execute: Executor, publisher: Publisher) -> None:
        self._execute, self._publisher = execute, publisher
        self.workers = workers_of(execute)

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Publish what is finished, and run all tasks."""
        self._publisher.publish()
        return self._execute(stage, tasks, advance)


@contextmanager
def engine_of(config: Config) -> Iterator[tuple[Config, Executor]]:
    """Open the engine that a config names.

    Yields:
        The config of this process, which is the first worker, and the engine.

    Raises:
        ConfigError: there are no such devices, or not as many as workers.
    """
    with open_engine(config.execution, config.crews_dir / new_crew()) as (place, execute):
        yield (config if place is None else _config_of(config, place)), execute


def new_crew() -> str:
    """Return a name for the folder of the workers of a run, which no other run has."""
    return f"{run_timestamp()}-{os.getpid()}"


@contextmanager
def open_engine(settings: ExecutionConfig, folder: Path) -> Iterator[tuple[WorkerPlace | None, Executor]]:
    """Open an engine.

    Args:
        settings: the engine.
        folder: new folder of the workers that run together.

    Yields:
        Where this process runs as the first worker, None if it runs no tasks; and the engine.

    Raises:
        ConfigError: there are no such devices, or not as many as workers.
    """
    if settings.engine == "slurm":
        raise ConfigError(
            "execution.engine is slurm, which elm run and elm embed submit jobs for. Use one of those, or another "
            "engine here (--execution.engine local)"
        )
    if settings.engine == "ray":
        from data_pipeline.execution.ray_engine import RayEngine  # needs ray

        with RayEngine(settings.ray, settings.workers, folder) as cluster:
            yield None, cluster
        return
    places = worker_places(settings)
    if settings.engine == "inline" or (settings.engine == "auto" and len(places) == 1):
        yield places[0], run_in_order
        return
    with LocalEngine(places, folder) as engine:
        yield places[0], engine


def worker_places(settings: ExecutionConfig) -> list[WorkerPlace]:
    """Return where the workers run, one place for each.

    Raises:
        ConfigError: there are no such devices, or not as many as workers.
    """
    devices = _devices(settings)
    count = settings.workers or len(devices) or 1
    if devices and len(devices) != count:
        raise ConfigError(
            f"execution.workers is {count}, execution.devices names {len(devices)}: there is one worker for each "
            "device. Leave execution.workers out"
        )
    if settings.engine == "inline" and count > 1:
        raise ConfigError(f"execution.engine is inline, which is one process, and there are {count} workers. Set local")
    threads = max(1, usable_cores() // count)
    return [WorkerPlace(f"worker-{n}", devices[n] if devices else None, threads) for n in range(count)]


def _devices(settings: ExecutionConfig) -> tuple[str, ...]:
    """Names of the devices; `all` is every GPU."""
    if settings.devices != ("all",):
        return settings.devices
    import torch  # which takes a second, and not every run needs

    count = torch.cuda.device_count()
    if not count:
        raise ConfigError("execution.devices is all, which means every GPU, and torch finds none. Leave it out")
    return tuple(f"cuda:{number}" for number in range(count))


def _config_of(config: Config, place: WorkerPlace) -> Config:
    """Return the config with the device and the threads of a worker."""
    changes: dict[str, object] = {}
    if place.device is not None:
        changes["device"] = place.device
    if config.execution.workers is not None and config.embedding.threads is None:
        changes["threads"] = place.threads
    if not changes:
        return config
    return config.model_copy(update={"embedding": config.embedding.model_copy(update=changes)})
