"""300 kills at random moments of `elm run`, by all engines: every time the job ends with the bytes of one process.

What is killed: the one process (inline); the process that leads or a worker (local); the tasks of a job array (slurm);
the workers of a cluster of this machine (ray). A job whose last process was killed is begun again by the same command.
Where there is no Slurm with a partition `main`, its kills go to the engine local.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

_KILLS = {"inline": 80, "local": 120, "slurm": 50, "ray": 50}
_LIMIT_S = 300
_BAD_INPUT = 2
_TASK = "launch_pickled_pipeline"  # what datatrove runs on a node

# Every process imports it, so that kills come while vectors are computed too.
_SLOW = """
import time
import data_pipeline.embeddings.hashing as hashing

real = hashing.HashingEmbedder.forward


def slow(self, *arguments, **named):
    time.sleep(0.02)
    return real(self, *arguments, **named)


hashing.HashingEmbedder.forward = slow
"""


def measure_kills(quick: bool) -> dict[str, Any]:
    """Number of kills by engine, and of the jobs that ended with other bytes."""
    wanted = dict.fromkeys(_KILLS, 3) if quick else dict(_KILLS)
    if not _has_slurm():
        wanted["local"] += wanted.pop("slurm")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_corpus(folder / "in.jsonl")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_SLOW)
        engines = {"inline": _Inline(folder), "local": _Local(folder), "slurm": _Slurm(folder), "ray": _Ray(folder)}
        engines["inline"].finish(random.Random(0), 0)
        expected, chance, wrong = engines["inline"].tree(), random.Random(0), 0
        for engine, count in wanted.items():
            job = engines[engine]
            while job.kills < count:
                job.begin()
                job.finish(chance, count)
                wrong += job.tree() != expected
                print(engine, job.kills, job.jobs, wrong, file=sys.stderr, flush=True)
        return {
            "kills": {engine: engines[engine].kills for engine in wanted},
            "jobs": sum(engines[engine].jobs for engine in wanted) - 1,  # without the undisturbed one
            "wrong": wrong,
        }


@dataclass
class _Inline:
    """A job that is run and killed until it is through."""

    folder: Path
    kills: int = 0
    jobs: int = 0
    took: float = 6.0
    """Time that a job takes, in seconds."""
    execution: dict[str, Any] = field(default_factory=lambda: {"engine": "inline"})

    def begin(self) -> None:
        """Begin with nothing."""
        shutil.rmtree(self.data, ignore_errors=True)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / self.execution["engine"]

    @property
    def log(self) -> Path:
        """What the commands said."""
        return self.folder / f"{self.execution['engine']}.log"

    def finish(self, chance: random.Random, count: int) -> None:
        """Run the job until it is through, with kills as long as fewer than `count` were made."""
        self.jobs += 1
        while True:
            started = time.monotonic()
            process = self.start()
            while process.poll() is None and self.kills < count:
                self.wait(process, chance.uniform(0, self.took))
                if process.poll() is None and (victims := self.victims(process)):
                    self.kills += _kill(chance.choice(victims))
            code = process.wait(_LIMIT_S)
            if code == _BAD_INPUT:
                raise SystemExit(self.log.read_text())
            if code == 0 and self.is_through():
                self.took = time.monotonic() - started if count == 0 else self.took
                return

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the command."""
        settings = {
            "corpus": {"source": "jsonl", "path": str(self.folder / "in.jsonl"), "id_field": "id", "name": "x"},
            "preprocess": {"min_tokens": 1, "min_chars": 0, "near_dedup": True},
            "embedding": {"model_name": "hashing", "batch_size": 8, "flush_s": 0.1},
            "storage": {"shard_rows": 200}, "execution": self.execution,
            "data_dir": str(self.data), "logs_dir": str(self.folder / "logs"),
        }  # fmt: skip
        file = self.folder / f"{self.execution['engine']}.yaml"
        file.write_text(yaml.safe_dump(settings))
        path = os.pathsep.join(filter(None, [str(self.folder / "site"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-m", "data_pipeline.cli", "run", "--config", str(file)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Wait until the next kill, or the end of the command."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def victims(self, process: "subprocess.Popen[bytes]") -> list[int]:
        """Processes of which one is to be killed."""
        return [process.pid]

    def is_through(self) -> bool:
        """Whether the job is through, after the command was."""
        return True

    def tree(self) -> dict[str, str]:
        """SHA-256 of all output files by name."""
        return {
            str(path.relative_to(self.data)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.data.rglob("*")
            if path.is_file() and path.suffix != ".lock" and not {".cache", ".crews"} & set(path.parts)
        }


@dataclass
class _Local(_Inline):
    execution: dict[str, Any] = field(default_factory=lambda: {"engine": "local", "workers": 2})

    def victims(self, process: "subprocess.Popen[bytes]") -> list[int]:
        followers = [
            other for other in _descendants(process.pid) if "data_pipeline.execution.follower" in _title(other)
        ]
        return [process.pid, *(other.pid for other in followers)]


@dataclass
class _Ray(_Inline):
    took: float = 15.0
    execution: dict[str, Any] = field(default_factory=lambda: {"engine": "ray", "workers": 2})

    def victims(self, process: "subprocess.Popen[bytes]") -> list[int]:
        workers = [other for other in _descendants(process.pid) if _title(other).startswith("ray::")]
        busy = [other.pid for other in workers if not _title(other).startswith("ray::IDLE")]
        return busy or [other.pid for other in workers]


@dataclass
class _Slurm(_Inline):
    took: float = 8.0
    execution: dict[str, Any] = field(default_factory=lambda: {"engine": "slurm", "slurm": {
        "tasks": 2, "time": "00:05:00", "partition": "main", "cpus_per_task": 1, "mem_per_cpu_gb": 1,
        "run_on_dependency_fail": True,
    }})  # fmt: skip

    def finish(self, chance: random.Random, count: int) -> None:
        """Submit the job until it is through."""
        self.jobs += 1
        while not self.is_through():
            process = self.start()
            if process.wait(_LIMIT_S):
                raise SystemExit(self.log.read_text())
            jobs = re.findall(r"job (\d+), logs in", self.log.read_text())[-2:]
            while _queued(jobs):
                time.sleep(chance.uniform(0.2, self.took) if self.kills < count else 0.5)
                tasks = [other.pid for other in psutil.process_iter() if self._is_task(other)]
                if self.kills < count and tasks:
                    self.kills += _kill(chance.choice(tasks))

    def _is_task(self, process: psutil.Process) -> bool:
        title = _title(process)
        return f"{_TASK} {self.folder}" in title and "python" in title.split()[0]

    def is_through(self) -> bool:
        """Whether the last manifest is there."""
        try:
            manifest = json.loads((self.data / "embeddings" / "manifest.json").read_bytes())
        except FileNotFoundError:
            return False
        return len(manifest["splits"]) == 3


def _write_corpus(path: Path) -> None:
    chance = random.Random(0)
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join(chance.choices(words, k=chance.randint(5, 60))) for _ in range(900)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    """Command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(pid: int) -> bool:
    """Kill a process; returns whether it was there."""
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _has_slurm() -> bool:
    return shutil.which("sinfo") is not None and "main" in _said("sinfo", "-h", "-o", "%P")


def _queued(jobs: list[str]) -> bool:
    return bool(_said("squeue", "-h", "-j", ",".join(jobs)).strip())


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    done: Callable[[bool], dict[str, Any]] = measure_kills
    print(json.dumps(done(sys.argv[1] == "quick")))
