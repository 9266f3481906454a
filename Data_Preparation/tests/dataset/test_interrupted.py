"""Processes really killed: a copy half made, a file half fetched, a training loop in the middle of an epoch."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.builders import make

from data_pipeline import ELMDataset

# Reads the first text, which makes the copy; every few rows take their time.
COPYING = """
import json, sys, time
from data_pipeline import ELMDataset
from data_pipeline.store.access import text_columns as columns

folder, pause = json.loads(sys.argv[1])
columns._READ_ROWS = 4
real = columns.ColumnHash.update
def slow(self, strings):
    time.sleep(pause)
    real(self, strings)
columns.ColumnHash.update = slow
print("ready", flush=True)
ELMDataset(folder)[0]["text"]
"""

# Reads everything of a remote folder; fetching a file takes its time.
FETCHING = """
import json, sys, time
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from data_pipeline import ELMDataset

url, cache, pause = json.loads(sys.argv[1])
def slow(self, remote, local, **kwargs):
    content = Path(remote).read_bytes()
    with open(local, "wb") as file:
        for start in range(0, len(content), 4096):
            time.sleep(pause)
            file.write(content[start:start + 4096])
            file.flush()
LocalFileSystem.get_file = slow
print("ready", flush=True)
ELMDataset(url, cache_dir=cache).get_batch(range(165))
"""

# A training loop that writes down every batch it has worked on, and then its state.
TRAINING = """
import json, os, sys, time
from pathlib import Path
from data_pipeline import ELMDataset

folder, checkpoint, journal, pause = json.loads(sys.argv[1])
loader = ELMDataset(folder).get_dataloader(8, shuffle="full", seed=5)
if Path(checkpoint).exists():
    loader.load_state_dict(json.loads(Path(checkpoint).read_text()))
print("ready", flush=True)
while loader.epoch < 2:
    epoch = loader.epoch
    for batch in loader:
        time.sleep(pause)
        with open(journal, "a") as file:
            file.write(json.dumps([epoch, batch["metadata"].index.tolist()]) + "\\n")
        Path(checkpoint + ".tmp").write_text(json.dumps(loader.state_dict()))
        os.replace(checkpoint + ".tmp", checkpoint)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), 100)


def killed(driver, arguments, after):
    """Run a driver and kill it so many seconds after it is ready; whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-c", driver, json.dumps(arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n", process.stderr.read().decode()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode == -signal.SIGKILL


def files(folder: Path):
    """Name and content of every file but locks, and the digests that are written with the paragraphs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith((".lock", ".sha256"))
    }


@pytest.mark.slow
@pytest.mark.posix
def test_a_copy_of_the_texts_that_was_killed_half_way_is_made_again_and_nothing_is_left_of_it(folder):
    cache = folder / "sample_processed" / ".cache"
    expected = ELMDataset(folder).get_batch(range(165))["text"]
    undisturbed = files(cache)
    assert len(undisturbed) == 2
    at_work = left = 0
    generator = random.Random(0)
    for _ in range(4):
        for path in cache.glob("*.arrow"):
            path.unlink()
        at_work += killed(COPYING, [str(folder), 0.02], generator.uniform(0.05, 0.8))
        left += any(name.endswith(".tmp") for name in files(cache))
        assert ELMDataset(folder).get_batch(range(165))["text"] == expected
        assert files(cache) == undisturbed
    assert at_work >= 3
    assert left >= 2  # the kills came while files were being written


@pytest.mark.slow
@pytest.mark.posix
def test_a_fetch_that_was_killed_half_way_is_begun_again_and_nothing_is_left_of_it(folder, tmp_path):
    url = f"file://{folder}"
    expected = ELMDataset(url, cache_dir=tmp_path / "undisturbed").get_batch(range(165))
    undisturbed = files(tmp_path / "undisturbed")
    cache = tmp_path / "cache"
    generator = random.Random(1)
    at_work = sum(killed(FETCHING, [url, str(cache), 0.03], generator.uniform(0.05, 1.5)) for _ in range(4))
    assert at_work >= 3
    found = ELMDataset(url, cache_dir=cache).get_batch(range(165))
    assert found["text"] == expected["text"]
    assert found["embedding"].equal(expected["embedding"])
    assert files(cache) == undisturbed


@pytest.mark.slow
@pytest.mark.posix
def test_a_training_loop_that_is_killed_again_and_again_works_on_every_row_once(folder, tmp_path):
    journal, checkpoint = tmp_path / "journal", tmp_path / "state.json"
    arguments = [str(folder), str(checkpoint), str(journal), 0.03]
    generator = random.Random(2)
    kills = sum(killed(TRAINING, arguments, generator.uniform(0.1, 0.6)) for _ in range(4))
    assert kills == 4
    subprocess.run([sys.executable, "-c", TRAINING, json.dumps(arguments)], check=True, capture_output=True, timeout=60)
    worked_on = [json.loads(line) for line in journal.read_text().splitlines()]
    # A kill between a batch and its checkpoint repeats that batch, and no other.
    repeated = sum(first == second for first, second in itertools.pairwise(worked_on))
    once = [batch for batch, before in zip(worked_on, [None, *worked_on], strict=False) if batch != before]
    assert repeated <= kills
    loader = ELMDataset(folder).get_dataloader(8, shuffle="full", seed=5)
    expected = [[epoch, batch["metadata"].index.tolist()] for epoch in range(2) for batch in loader]
    assert once == expected
    assert sorted(row for epoch, rows in once if epoch == 0 for row in rows) == list(range(165))
