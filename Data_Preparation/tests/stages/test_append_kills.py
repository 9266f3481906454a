"""Real kills while a dataset grows or is compacted: it is the old or the new one, and the next run ends the same."""

import json
import signal
import subprocess
import sys

import pytest
from support.forks import ENVIRONMENT
from support.growing import settings, write

from data_pipeline.stages.pipeline import append_documents, run

pytestmark = [pytest.mark.slow, pytest.mark.posix]

A = [("a1", [0, 1]), ("a2", [2]), ("a3", [1, 3]), ("a4", [9, 4])]
B = [("b1", [5]), ("b2", [0, 6]), ("b3", [7, 7])]

DRIVER = """
import hashlib, json, random, shutil, signal, sys
from pathlib import Path
from support.forks import answer_of, die_at_step, import_what_is_imported_by
from support.growing import rows, settings
from data_pipeline.stages.compact import compact
from data_pipeline.stages.pipeline import append_documents
from data_pipeline.stages.preprocess import is_processed_file
from data_pipeline.stages.versions import roll_back
from data_pipeline.store import ParagraphStore
from data_pipeline.utils.folders import recover_folder

root, file, what = json.loads(sys.argv[1])
# A job has up to 200 steps, and a kill takes 0.6 s.
step, stride = {"append": (1, 4), "replace": (2, 4), "compact": (3, 4), "rollback": (1, 2)}[what]
root = Path(root)
start = root.with_name("start")
config = settings(root, [file], **{"corpus.on_changed": "replace", "storage.shard_rows": 2})

def job(step=None):
    die_at_step(step, "replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "link")
    if what == "compact":
        compact(config)
    elif what == "rollback" and ParagraphStore(config.processed_dir).version == 2:
        roll_back(config, 1)
    elif what == "rollback":  # it was finished but for the removal of the old folder, which the next command does
        recover_folder(config.processed_dir, is_processed_file)
    else:
        append_documents(config)

def tree():
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and not {".cache", "logs"} & set(path.parts)}

def read():
    return {split: [row for row, _ in found] for split, found in rows(config).items()}

def fresh():
    shutil.rmtree(root)
    shutil.copytree(start, root)

shutil.copytree(root, start)
import_what_is_imported_by(lambda: (read(), job()))
fresh()
_, old = answer_of(read)
assert answer_of(job)[0] == 0
wanted = tree()
_, new = answer_of(read)
results = []
while not results or results[-1][1] == -signal.SIGKILL:
    fresh()
    code, _ = answer_of(lambda: job(step))
    _, found = answer_of(read)
    rerun, _ = answer_of(job)
    left = tree()
    wrong = sorted(name for name in left.keys() | wanted.keys() if left.get(name) != wanted.get(name))
    results.append([step, code, found in (old, new), rerun, wrong])
    step += stride
print(json.dumps([old != new, results]))
"""


@pytest.fixture
def corpus(tmp_path):
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(files[0], A)
    write(files[1], B)
    run(settings(tmp_path / "data", files[:1], **{"storage.shard_rows": 2}))
    return files


@pytest.mark.parametrize("what", ["append", "replace", "compact", "rollback"])
def test_a_kill_at_a_step_leaves_the_old_rows_or_the_new_ones(corpus, tmp_path, what):
    if what != "append":
        append_documents(settings(tmp_path / "data", corpus[1:], **{"storage.shard_rows": 2}))
        write(corpus[0], [("a1", [0, 8]), *A[2:]])
    if what == "compact":
        changes = {"storage.shard_rows": 2, "corpus.on_changed": "replace"}
        append_documents(settings(tmp_path / "data", corpus[:1], **changes))
    file = corpus[1] if what == "append" else corpus[0]
    arguments = json.dumps([str(tmp_path / "data"), str(file), what])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, arguments], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    changes, results = json.loads(done.stdout.splitlines()[-1])
    assert changes or what == "compact"
    *killed, (_, code, *_) = results
    assert len(killed) > 20
    assert code == 0
    assert [row for row in killed if row[1:] != [-signal.SIGKILL, True, 0, []]] == []
