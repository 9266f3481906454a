"""The two file pipelines, really killed: whatever moment it is, a rerun ends in the same bytes."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support import forks
from support.file_jobs import save_pt_head, texts, tree, write_lines

pytestmark = pytest.mark.posix

BATCH, ROWS = 4, 60
FEW_ROWS = 24  # three batches a file: a first one, one between, a last one; every further one takes the same steps
# Two packs are handed over at once, and one may be on its way to the disk.
ROWS_AT_RISK = 3 * BATCH

# Does jobs in forks, which cost no imports, and kills them: at random moments, or just before each step they
# take on the file system. Threads are only ever started in a fork.
DRIVER = """
import json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path
import h5py
from support import forks
from support.forks import import_what_is_imported_by
from data_pipeline.integrations.ml_filter import annotate, embed, run_annotation_pipeline, run_embedding_pipeline
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob
from data_pipeline.heads.apply import Scorer
from data_pipeline.embeddings import HashingEmbedder

stage, mode, root, head, other = json.loads(sys.argv[1])
root = Path(root)
annotate._SAFE_EVERY_S = 0.0  # what is finished is made safe after every batch
PAUSE_S = 0.03

def job(out, head=head, overwrite=False):
    params = {"output_dir": str(out), "batch_size": 4}
    if stage == "embedding":
        params |= {"input_dir": str(root / "in"), "glob_pattern": "*.jsonl", "keys_to_index": ["text"],
                   "embedding_dir": "embeddings", "embedding_model": "hashing", "save_labels": True,
                   "writer_batch_size": 1}
        return run_embedding_pipeline, EmbeddingJob(params=params, overwrite=overwrite)
    params |= {"embeddings_directory": str(root / "vectors" / "embeddings"), "output_keys": ["document_id", "text"],
               "regression_head_checkpoints": {"q": head}}
    return run_annotation_pipeline, AnnotationJob(params=params, overwrite=overwrite)

def fork(work):
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def working(out, counter=None, **how):
    def work():
        if counter is not None:
            count_and_slow(counter)
        run, what = job(out, **how)
        run(what)
    return work

def count_and_slow(counter):
    owner, name = (HashingEmbedder, "forward") if stage == "embedding" else (Scorer, "score")
    real = getattr(owner, name)
    def slow(self, some, *rest):
        with open(counter, "a") as file:
            file.write(f"{len(some)}\\n")
        time.sleep(PAUSE_S)
        return real(self, some, *rest)
    setattr(owner, name, slow)

def at_step(number, work):
    def dying():
        forks.die_at_step(
            number, "replace", "fsync", "unlink", "ftruncate", "pwrite", (h5py.Dataset, "__setitem__")
        )
        work()
    return dying

import_what_is_imported_by(working(root / "imports"))
if mode == "random":
    generator = random.Random(7)
    left, kills = set(), 0
    for attempt in range(40):
        child = fork(working(root / "killed", root / "counter"))
        time.sleep(generator.uniform(0.02, 0.15) * 1.05 ** attempt)
        os.kill(child, signal.SIGKILL)
        code = end(child)
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        kills += 1
        left |= {p.name for p in (root / "killed").rglob("*") if p.is_file()}
    assert end(fork(working(root / "killed", root / "counter"))) == 0
    print(json.dumps({"kills": kills, "left": sorted(left)}))
else:
    codes, step = [], 0
    while not codes or codes[-1][0] == -signal.SIGKILL:
        step += 1
        out = root / "killed" / str(step)
        if mode == "replace":
            shutil.copytree(root / "older", out)
        overwrite = mode == "replace"
        code = end(fork(at_step(step, working(out, overwrite=overwrite))))
        codes.append([code, end(fork(working(out, overwrite=overwrite)))])
    print(json.dumps({"codes": codes}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Inputs, heads, and what undisturbed runs make of them."""
    return prepare(tmp_path_factory.mktemp("prepared"), ROWS)


@pytest.fixture(scope="module")
def prepared_few(tmp_path_factory):
    """The same of few rows."""
    return prepare(tmp_path_factory.mktemp("prepared-few"), FEW_ROWS)


def prepare(root, rows):
    from data_pipeline.integrations.ml_filter import run_annotation_pipeline, run_embedding_pipeline
    from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob

    heads = [str(save_pt_head(root / f"{seed}.pt", seed=seed)) for seed in (0, 1)]
    for name in "ab":
        records = [{"text": f"row {row} of {name} {text}", "label": row} for row, text in enumerate(texts(rows // 2))]
        write_lines(root / "in" / f"{name}.jsonl", records)
    embedding = {
        "input_dir": root / "in", "glob_pattern": "*.jsonl", "keys_to_index": ["text"], "output_dir": root / "vectors",
        "embedding_dir": "embeddings", "embedding_model": "hashing", "batch_size": BATCH, "save_labels": True,
    }  # fmt: skip
    run_embedding_pipeline(EmbeddingJob(params=embedding))
    for folder, head in zip(("scores", "older"), heads, strict=True):
        annotation = {
            "embeddings_directory": root / "vectors" / "embeddings", "output_keys": ["document_id", "text"],
            "output_dir": root / folder, "regression_head_checkpoints": {"q": head}, "batch_size": BATCH,
        }  # fmt: skip
        run_annotation_pipeline(AnnotationJob(params=annotation))
    return root, heads


def drive(folder, prepared, stage, mode):
    root, heads = prepared
    for name in ("in", "vectors", "older"):
        if not (folder / name).exists():
            os.symlink(root / name, folder / name)
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, driver, json.dumps([stage, mode, str(folder), *heads])],
        capture_output=True, text=True, timeout=120,
        env=forks.ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("stage", ["embedding", "annotation"])
def test_killed_at_random_it_ends_in_the_same_bytes_and_repeats_little(tmp_path, prepared, stage):
    found = drive(tmp_path, prepared, stage, "random")
    assert tree(tmp_path / "killed") == tree(prepared[0] / ("vectors" if stage == "embedding" else "scores"))
    assert found["kills"] >= 3
    computed = sum(map(int, (tmp_path / "counter").read_text().split()))
    assert ROWS <= computed <= ROWS + found["kills"] * ROWS_AT_RISK
    # What a kill leaves is work of this run, and no stray file.
    ending, inner = (".h5", ".vectors") if stage == "embedding" else (".jsonl", "")
    finals = [f"{name}{ending}" for name in "ab"]
    known = {*finals, *(f".{name}.lock" for name in finals), *(f".{name}.tmp" for name in finals)}
    for name in finals:
        work = f".{name}{inner}" if inner else name
        known |= {work, f".{work}.partial", f".{work}.progress", f"..{work}.progress.tmp"}
        known |= {f"{name}.json", f".{name}.json.tmp"}  # the record of a finished file
    reports = (f"{stage}-", f".{stage}-")
    assert {name for name in found["left"] if not name.startswith(reports)} <= known
    assert any(name.endswith(".progress") for name in found["left"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "mode", "expected", "least"),
    [
        ("embedding", "steps", "vectors", 60),
        ("annotation", "steps", "scores", 30),
        ("annotation", "replace", "scores", 30),
    ],
)
def test_killed_before_any_step_on_the_disk_a_rerun_ends_in_the_same_bytes(
    tmp_path, prepared_few, stage, mode, expected, least
):
    """Nothing is left behind either: what a finished file does not need is removed by the next run."""
    found = drive(tmp_path, prepared_few, stage, mode)
    codes = found["codes"]
    assert [code for code, _ in codes] == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert [rerun for _, rerun in codes] == [0] * len(codes)
    assert len(codes) > least
    wanted = tree(prepared_few[0] / expected)
    for step in range(1, len(codes) + 1):
        assert tree(tmp_path / "killed" / str(step)) == wanted, step
