"""Real processes, really killed: whatever moment it is, a rerun ends in the same bytes."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from data_pipeline.errors import StoreError
from data_pipeline.pipeline import embed
from data_pipeline.settings import load_config
from data_pipeline.types import SPLITS

BATCH, PAUSE_S, FLUSH_S = 4, 0.02, 0.05
# A flush comes after the first batch that ends later than flush_s; a kill costs at most
# the batches up to it, and the one in flight.
BATCHES_AT_RISK = 3 + 1

# Prints "ready" when everything is imported, then does the job with a slowed model that
# writes down how many texts it is given.
DRIVER = """
import json, sys, time
from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.pipeline import run
from data_pipeline.settings import load_config

flags, counter, pause, overwrite, through_cli = json.loads(sys.argv[1])
real = HashingEmbedder.forward

def slow(self, ids, dtype=None):
    with open(counter, "a") as file:
        file.write(f"{len(ids)}\\n")
    time.sleep(pause)
    return real(self, ids, dtype)

HashingEmbedder.forward = slow
if through_cli:
    from data_pipeline import machine  # so that the kill does not come while torch is imported
    from data_pipeline.cli import main
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    print("ready", flush=True)
    sys.exit(main(["run", "--preset", "offline", "--no-preprocess.near_dedup", *arguments]))
print("ready", flush=True)
run(load_config(None, flags), overwrite=overwrite)
"""

# Does the job once for every step it takes on the file system, in a fork that kills itself
# just before that step; then looks at the folder, runs the job again and looks once more.
STEPS_DRIVER = """
import hashlib, json, os, shutil, signal, sys, traceback
from pathlib import Path
from data_pipeline.errors import StoreError
from data_pipeline.pipeline import run
from data_pipeline.settings import load_config
from data_pipeline.store import ParagraphStore

old, new, folder = json.loads(sys.argv[1])

def in_fork(work):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(answer) if answer else None

def job(flags):
    run(load_config(None, flags), overwrite=True)

def dying_at(step):
    steps = 0
    def wrap(owner, name):
        real = getattr(owner, name)
        def step_of(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(owner, name, step_of)
    for name in ("replace", "rename", "fsync", "unlink", "rmdir"):
        wrap(os, name)
    job(new)

def state():
    try:
        return ParagraphStore(Path(folder) / "data" / "sample_processed").manifest["fingerprint"]
    except StoreError as error:
        return str(error)

def tree():
    root = Path(folder) / "data"
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".lock"}

def fresh():
    shutil.rmtree(folder, ignore_errors=True)

fresh()
in_fork(lambda: job(new))
wanted = [in_fork(state)[1], in_fork(tree)[1]]
fresh()
in_fork(lambda: job(old))
shutil.move(folder, folder + "-old")
before = None
results = []
step = 0
while True:
    step += 1
    fresh()
    shutil.copytree(folder + "-old", folder)
    before = before or in_fork(state)[1]
    code, _ = in_fork(lambda: dying_at(step))
    seen = in_fork(state)[1]
    rerun, _ = in_fork(lambda: job(new))
    results.append([step, code, seen, rerun, in_fork(tree)[1]])
    if code != -signal.SIGKILL:
        break
print(json.dumps({"old": before, "new": wanted[0], "tree": wanted[1], "results": results}))
"""


def flags(folder, **more):
    return {
        "data_dir": str(folder / "data"),
        "logs_dir": str(folder / "logs"),
        "corpus.source": "sample",
        "corpus.name": "sample",
        "preprocess.min_tokens": 60,
        "embedding.model_name": "hashing",
        "embedding.batch_size": BATCH,
        "embedding.flush_s": FLUSH_S,
    } | more


def start(folder, settings, *, overwrite=False, through_cli=False, pause=PAUSE_S):
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    argument = json.dumps([settings, str(folder / "forwarded"), pause, overwrite, through_cli])
    process = subprocess.Popen(
        [sys.executable, driver, argument], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def finish(process):
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def run_and_kill(folder, settings, delays, **how):
    """Start, kill, start again, until it ends by itself; returns the number of kills."""
    for kills, delay in enumerate(delays):
        process = start(folder, settings, **how)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
            return kills
    raise AssertionError("it never ended by itself")


def delays(seed, low, high):
    """Random, and slowly growing, so that on a slow machine too a run gets somewhere at last."""
    generator = random.Random(seed)
    return [1.1**kill * generator.uniform(low, high) for kill in range(30)] + [60]


def tree(folder):
    """Content of every file but the locks; a stray temporary file is one too many."""
    root = folder / "data"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def forwarded(folder):
    return sum(map(int, (folder / "forwarded").read_text().split()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, flags(folder), pause=0))
    return folder


def test_the_undisturbed_run_leaves_these_files_and_no_others(undisturbed):
    names = {"manifest.json", "dropped.parquet", "train.parquet", "val.parquet", "test.parquet"}
    vectors = {"manifest.json", *(f"{split}_embeddings.safetensors" for split in SPLITS)}
    assert set(tree(undisturbed)) == {f"sample_processed/{name}" for name in names} | {
        f"embeddings/{name}" for name in vectors
    }
    assert forwarded(undisturbed) == 222


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_while_it_embeds_it_ends_in_the_same_bytes_and_repeats_little(tmp_path, undisturbed, seed):
    shutil.copytree(undisturbed / "data" / "sample_processed", tmp_path / "data" / "sample_processed")
    kills = run_and_kill(tmp_path, flags(tmp_path), delays(seed, 0.1, 0.5))
    assert kills >= 3
    assert tree(tmp_path) == tree(undisturbed)
    assert forwarded(undisturbed) <= forwarded(tmp_path) <= forwarded(undisturbed) + kills * BATCHES_AT_RISK * BATCH


@pytest.mark.slow
def test_killed_at_any_time_of_the_whole_job_it_ends_in_the_same_bytes(tmp_path, undisturbed):
    kills = run_and_kill(tmp_path, flags(tmp_path), delays(3, 0.1, 0.8))
    assert kills >= 3
    assert tree(tmp_path) == tree(undisturbed)


@pytest.mark.slow
def test_killed_at_random_through_the_command_line(tmp_path, undisturbed):
    settings = flags(tmp_path, **{"split.seed": 42})
    kills = run_and_kill(tmp_path, settings, delays(4, 0.8, 1.6), through_cli=True)
    assert kills >= 1
    assert tree(tmp_path) == tree(undisturbed)


@pytest.mark.slow
def test_killed_while_it_replaces_an_older_store(tmp_path, undisturbed):
    older = flags(tmp_path, **{"storage.shard_rows": 30, "preprocess.min_tokens": 80})
    finish(start(tmp_path, older, pause=0))
    kills = run_and_kill(tmp_path, flags(tmp_path), delays(5, 0.05, 0.5), overwrite=True)
    assert kills >= 3
    assert tree(tmp_path) == tree(undisturbed)


@pytest.mark.slow
def test_killed_before_any_step_on_the_disk_the_folder_is_the_old_one_or_the_new_one(tmp_path):
    folder = tmp_path / "at"
    batch = {"embedding.batch_size": 200, "embedding.flush_s": 1e-6, "preprocess.fast_tokens": "off"}
    old = flags(folder, **batch, **{"storage.shard_rows": 100, "preprocess.min_tokens": 120})
    new = flags(folder, **batch, **{"preprocess.min_tokens": 130})
    driver = tmp_path / "steps.py"
    driver.write_text(STEPS_DRIVER)
    done = subprocess.run(
        [sys.executable, driver, json.dumps([old, new, str(folder)])], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    codes = [code for _, code, *_ in found["results"]]
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > 30
    states = [state for _, _, state, *_ in found["results"]]
    changed = states.index(found["new"])
    # Linux exchanges the two folders in one step. Elsewhere there are two renames; between them
    # the folder has no name, and a rerun brings it back.
    between = [state for state in states if "holds no paragraphs" in state]
    assert len(between) <= (0 if sys.platform.startswith("linux") else 1)
    assert states == [found["old"]] * (changed - len(between)) + between + [found["new"]] * (len(states) - changed)
    for step, _, _, rerun, files in found["results"]:
        assert rerun == 0, step
        assert files == found["tree"], step


def test_a_second_process_is_refused_and_the_first_one_is_not_disturbed(tmp_path, undisturbed):
    process = start(tmp_path, flags(tmp_path))
    while not (tmp_path / "forwarded").exists():
        assert process.poll() is None
        time.sleep(0.01)
    config = load_config(None, flags(tmp_path))
    with pytest.raises(StoreError, match=r"another process is writing to .*embeddings; wait for it, or use another"):
        embed(config, SPLITS)
    finish(process)
    assert tree(tmp_path) == tree(undisturbed)


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    process = start(tmp_path, flags(tmp_path))
    while not (tmp_path / "forwarded").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert (tmp_path / "data" / ".embeddings.lock").exists()
    assert sum(result.rows for result in embed(load_config(None, flags(tmp_path)), SPLITS).embeddings.values()) == 222
