"""Killed with SIGKILL at random points and run again: what is lost, what is repeated.

The job embeds the bundled sample, several times over, with the hashing embedder slowed to
50 ms a batch, so that a run lasts seconds and kills land everywhere in it.
"""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Figure, Figures

_BATCH_S = 0.05
_FLUSH_S = 0.2

_DRIVER = f"""
import sys, time
from pathlib import Path
from data_pipeline.embeddings.hashing import HashingEmbedder
real = HashingEmbedder.forward
def slow(self, ids, dtype=None):
    time.sleep({_BATCH_S})
    with open(sys.argv[1], "a") as log:
        log.write(f"{{len(ids)}}\\n")
    return real(self, ids, dtype)
HashingEmbedder.forward = slow
from data_pipeline.cli import main
sys.exit(main(sys.argv[2:]))
"""


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    kills_wanted = 10 if quick else 60
    random_ = random.Random(7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "driver.py").write_text(_DRIVER)
        seconds = _timed(folder, "undisturbed")
        rows = _rows_forwarded(folder, "undisturbed")
        kills = 0
        attempts = 0
        while kills < kills_wanted:
            target = f"killed-{attempts}"
            attempts += 1
            while kills < kills_wanted and _killed(folder, target, random_.uniform(0.2, 1.0) * seconds):
                kills += 1
            _timed(folder, target)
        same = [_digest(folder / f"killed-{number}") == _digest(folder / "undisturbed") for number in range(attempts)]
        forwarded = sum(_rows_forwarded(folder, f"killed-{number}") for number in range(attempts))
        repeated = forwarded - attempts * rows
        batches = repeated / 4 / kills
    return {
        "kills": Figure(kills, "kills", "", f"over {attempts} jobs of {rows} rows"),
        "byte_identical": Figure(sum(same) / attempts, "share of jobs", "1", "parquet, safetensors and manifests"),
        "rows_lost": Figure(0 if all(same) else float("nan"), "rows", "0"),
        "work_repeated_s": Figure(
            batches * _BATCH_S,
            "s a kill",
            f"<= {_FLUSH_S + _BATCH_S}",
            f"flushed every {_FLUSH_S} s here, 5 s by default",
        ),
    }


def _command(folder: Path, target: str) -> list[str]:
    settings = {
        "--output-dir": folder / target, "--logs_dir": folder / "logs", "--preset": "offline",
        "--embedding.model_name": "hashing", "--min-tokens": 20, "--batch-size": 4, "--embedding.flush_s": _FLUSH_S,
    }  # fmt: skip
    flags = [str(word) for pair in settings.items() for word in pair]
    return [sys.executable, str(folder / "driver.py"), str(folder / f"{target}.log"), "run", *flags]


def _run(folder: Path, target: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        _command(folder, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )


def _timed(folder: Path, target: str) -> float:
    started = time.monotonic()
    if _run(folder, target).wait() != 0:
        raise SystemExit(f"the job {target} failed")
    return time.monotonic() - started


def _killed(folder: Path, target: str, after_s: float) -> bool:
    process = _run(folder, target)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _rows_forwarded(folder: Path, target: str) -> int:
    return sum(map(int, (folder / f"{target}.log").read_text().split()))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
