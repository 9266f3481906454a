"""Versions of a dataset: opened, compared, rolled back and removed."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.forks import ENVIRONMENT

from data_pipeline import verify
from data_pipeline.cli import main
from data_pipeline.config.load import load_config
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import NotFoundError, SourceError, StoreError
from data_pipeline.stages.pipeline import embed, prepare_paragraphs, run
from data_pipeline.stages.versions import compare_versions, describe_versions, remove_garbage, roll_back
from data_pipeline.store.versions import list_versions
from data_pipeline.types import SPLITS


def changed(config, section, **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


@pytest.fixture
def two(config):
    """Two versions: with another seed and another filter."""
    run(config)
    run(changed(changed(config, "split", seed=7), "preprocess", min_tokens=100), overwrite=True)
    return config


def content(config, version=None):
    return {
        split: [
            (row["text"], row["embedding"].tolist()) for row in ELMDataset(split=split, config=config, version=version)
        ]
        for split in SPLITS
    }


def test_a_version_is_opened_by_its_number(config):
    run(config)
    first = content(config)
    run(changed(config, "split", seed=7), overwrite=True)
    second = content(config)
    assert content(config, 1) == first != second == content(config, 2)
    assert ELMDataset(config=config).version == 2
    assert ELMDataset(config=config, version=1).version == 1
    assert ELMDataset(config.data_dir, version=1).version == 1
    for number in (0, 3):
        with pytest.raises(NotFoundError, match=rf"has version 2 and keeps these earlier ones: 1; not {number}"):
            ELMDataset(config=config, version=number)
    with pytest.raises(StoreError, match="local folders only"):
        ELMDataset("memory://somewhere", version=1)
    # A version that was never embedded has texts.
    prepare_paragraphs(changed(config, "split", seed=8), overwrite=True)
    run(changed(config, "split", seed=9), overwrite=True)
    assert len(ELMDataset(config=config, version=3, load_embeddings=False))
    with pytest.raises(StoreError, match="embeddings"):
        ELMDataset(config=config, version=3)


def test_a_loader_names_the_version_it_read(config):
    run(config)
    loader = ELMDataset(config=config).get_dataloader(4)
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    run(changed(config, "split", seed=7), overwrite=True)
    now = ELMDataset(config=config).get_dataloader(4)
    with pytest.raises(
        ValueError, match=r"saved with version 1 of it, now it is version 2: open .*version=1.*elm diff 1 2"
    ):
        now.load_state_dict(state)
    ELMDataset(config=config, version=1).get_dataloader(4).load_state_dict(state)


def test_two_versions_are_compared(two):
    found = compare_versions(two, 1, 2)
    texts = [{split: {row[0] for row in rows} for split, rows in content(two, number).items()} for number in (1, 2)]
    for split in SPLITS:
        before, after = (one[split] for one in texts)
        assert found.rows[split] == {"added": len(after - before), "removed": len(before - after), "changed": 0}
    assert found.settings == ["preprocess.min_tokens was 60, now 100", "split.seed was 42, now 7"]
    assert found.vectors == []
    assert None not in found.leakage
    assert compare_versions(two, 2, 2).rows["train"] == {"added": 0, "removed": 0, "changed": 0}
    embed(changed(two, "embedding", dim=64), SPLITS, overwrite=True)
    assert "train.dim was '256', now '64'" in compare_versions(two, 1, 2).vectors


def test_a_changed_text_is_told_from_a_new_one(config, tmp_path):
    texts = [f"word{row} " * 70 + str(row) for row in range(40)]
    path = tmp_path / "mine.jsonl"
    source = {"source": "jsonl", "name": "mine", "path": (str(path),), "id_field": "id"}
    config = changed(config, "corpus", **source)
    for change in ({}, {3: "another " * 70, 5: None}):
        records = [{"id": f"d{row}", "text": change.get(row, text)} for row, text in enumerate(texts)]
        path.write_text("".join(json.dumps(one) + "\n" for one in records if one["text"] is not None))
        prepare_paragraphs(changed(config, "split", train_ratio=1, val_ratio=0, test_ratio=0), overwrite=True)
    assert compare_versions(config, 1, 2).rows["train"] == {"added": 0, "removed": 1, "changed": 1}


def test_an_earlier_version_becomes_the_present_one(two):
    first, second = content(two, 1), content(two, 2)
    assert roll_back(two, 1) == 3
    assert content(two) == content(two, 3) == content(two, 1) == first
    assert content(two, 2) == second
    assert verify(two)[1] == []
    # It is the result of the first settings again.
    before = {path.name: path.read_bytes() for path in two.embeddings_dir.iterdir() if path.is_file()}
    report = run(two)
    assert report.preprocess_skipped
    assert all(result.skipped for result in report.embeddings.values())
    assert {path.name: path.read_bytes() for path in two.embeddings_dir.iterdir() if path.is_file()} == before
    assert roll_back(two, 2) == 4
    assert content(two) == second
    with pytest.raises(SourceError, match="version 4 of .* is the present one"):
        roll_back(two, 4)
    with pytest.raises(NotFoundError, match="not 9"):
        roll_back(two, 9)


def test_what_is_removed_is_said_first(two, capsys):
    here = ["--preset", "offline", "--output-dir", str(two.data_dir)]
    assert main(["versions", *here]) == 0
    said = capsys.readouterr().out
    assert "vectors of hashing" in said
    assert "(the present one)" in said
    assert main(["gc", *here]) == 0
    said = capsys.readouterr().out
    assert ".versions/0001" in said
    assert "add --yes to do it" in said
    assert list_versions(two.processed_dir) == [1]
    earlier = content(two, 1)
    assert main(["gc", *here, "--keep", "1"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert content(two, 1) == earlier
    present = content(two)
    own = describe_versions(two)[0].own_bytes
    assert own > 0
    assert remove_garbage(two, 0) == own
    assert list_versions(two.processed_dir) == list_versions(two.embeddings_dir) == []
    assert content(two) == present
    assert main(["gc", *here, "--keep", "-1"]) == 2


def test_the_commands_say_what_differs_and_go_back(two, capsys):
    here = ["--preset", "offline", "--output-dir", str(two.data_dir)]
    assert main(["diff", "1", "2", *here]) == 0
    said = capsys.readouterr().out
    assert "rows added" in said
    assert "split.seed was 42, now 7" in said
    assert main(["rollback", "1", *here]) == 0
    assert "version 3 is version 1 again; version 2 is kept" in capsys.readouterr().out
    assert main(["diff", "1", "7", *here]) == 2
    assert "keeps these earlier ones: 1, 2; not 7" in capsys.readouterr().err
    assert main(["rollback", "7", *here]) == 2
    assert main(["versions", "--output-dir", str(two.data_dir / "nothing")]) == 2


def test_links_cost_no_space_and_copies_serve_where_there_are_none(config, monkeypatch):
    run(config)
    inode = (config.processed_dir / "train.parquet").stat().st_ino
    run(changed(config, "split", seed=7), overwrite=True)
    assert (config.processed_dir / ".versions" / "0001" / "train.parquet").stat().st_ino == inode

    def no_links(source, target):
        raise OSError("no links here")

    second = content(config)
    monkeypatch.setattr("os.link", no_links)
    run(changed(config, "split", seed=8), overwrite=True)
    assert content(config, 2) == second


DRIVER = """
import hashlib, json, shutil, signal, sys
from pathlib import Path
from support.forks import answer_of, die_at_step, import_what_is_imported_by
from data_pipeline.config.load import load_config
from data_pipeline.stages.preprocess import is_processed_file
from data_pipeline.stages.versions import remove_garbage, roll_back
from data_pipeline.store import ParagraphStore
from data_pipeline.utils.folders import recover_folder

flags, what = json.loads(sys.argv[1])
config = load_config(None, flags)
root = config.data_dir
start = root.with_name("start")

def job(step=0):
    die_at_step(step, "replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "link")
    if what == "gc":
        remove_garbage(config, 0)
    elif ParagraphStore(config.processed_dir).manifest.get("parent") != 1:
        roll_back(config, 1)
    else:  # it was finished but for the removal of the old folder, which the next command does
        recover_folder(config.processed_dir, is_processed_file)

def tree():
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and not {".cache", "logs"} & set(path.parts)}

def fresh():
    shutil.rmtree(root)
    shutil.copytree(start, root)

shutil.copytree(root, start)
assert answer_of(job)[0] == 0
wanted = tree()
results = []
step = 0
while True:
    step += 1
    fresh()
    code, _ = answer_of(lambda: job(step))
    readable = ParagraphStore(config.processed_dir).check() is None
    rerun, _ = answer_of(job)
    results.append([step, code, readable, rerun, tree() == wanted])
    if code != -signal.SIGKILL:
        break
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("what", ["rollback", "gc"])
def test_a_kill_at_any_step_leaves_one_of_the_two(two, what):
    flags = {
        "data_dir": str(two.data_dir), "logs_dir": str(two.logs_dir), "corpus.source": "sample",
        "corpus.name": "sample", "embedding.model_name": "hashing",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps([flags, what])], capture_output=True, text=True, timeout=300,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *killed, last = json.loads(done.stdout.splitlines()[-1])
    assert len(killed) > (30 if what == "rollback" else 8)
    assert all(code == -signal.SIGKILL for _, code, *_ in killed)
    assert [row for row in [*killed, last] if row[2:] != [True, 0, True]] == []
    assert last[1] == 0


def test_versions_without_vectors_are_versions_too(two):
    shutil.rmtree(two.embeddings_dir)
    assert [version.model for version in describe_versions(two)] == ["", ""]
    assert roll_back(two, 1) == 3
    assert np.array_equal(list_versions(two.processed_dir), [1, 2])


def test_gc_removes_what_interrupted_runs_left(tmp_path, capsys):
    config = load_config(None, {"corpus.source": "sample", "corpus.name": "sample", "data_dir": str(tmp_path),
                                "embedding.model_name": "hashing", "preprocess.min_tokens": 5})  # fmt: skip
    run(config, skip_embeddings=True)
    work, old, new = tmp_path / ".sample_processed.work", config.crews_dir / "old", config.crews_dir / "new"
    for folder in (work, old, new):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 1000)
    os.utime(old / "file", (1_000_000_000, 1_000_000_000))
    assert main(["gc", "--output-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert str(work) in shown
    assert str(old) in shown
    assert str(new) not in shown
    assert "this would free 2.0 kB" in shown
    assert main(["gc", "--output-dir", str(tmp_path), "--yes"]) == 0
    assert [folder.exists() for folder in (work, old, new)] == [False, False, True]
