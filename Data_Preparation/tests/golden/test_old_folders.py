"""Data folders that earlier versions wrote open, verify, and are taken for finished work.

Each folder has the config file that it was made with, and the commands in it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from digests import DISTANCES

from data_pipeline import ELMDataset, load_config, verify
from data_pipeline.cli import main

FOLDERS = sorted(path for path in Path(__file__).with_name("folders").iterdir() if path.is_dir())
ROWS = {"train": 8, "val": 4, "test": 4}
PACKAGE_VERSION = re.compile(rb',\s*"package_version": "[^"]*"')
"""In manifests of later versions."""


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request, tmp_path, monkeypatch):
    """A copy, which is the current folder: the config file's paths are relative."""
    copy = tmp_path / request.param.name
    shutil.copytree(request.param, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    for name in [name for name in os.environ if name.startswith("ELM_") and name != "ELM_SHARED_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ELM_REPORT", "false")  # a page is no data
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(autouse=True)
def _clean_logging():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)


def state(folder):
    """Bytes and time of every file that a stage writes."""
    return {
        path.relative_to(folder).as_posix(): (_sha256(path), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts and not any(part.startswith(".") for part in path.parts)
    }


def _sha256(path):
    content = path.read_bytes()
    if path.match("selections/*/manifest.json"):  # which is written again
        content = PACKAGE_VERSION.sub(b"", DISTANCES.sub(rb'"\1": 0', content))
    return hashlib.sha256(content).hexdigest()


def records(folder):
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


@pytest.mark.parametrize("split", ROWS)
def test_texts_vectors_and_scores_are_read(folder, split):
    dataset = ELMDataset("data", split)
    expected = records(folder)
    assert len(dataset) == ROWS[split]
    assert dataset.dim == 64
    for row in dataset:
        record = expected[row["metadata"]["document_id"]]
        assert row["text"] == record["body"]
        assert row["metadata"]["title"] == record["title"]
        assert row["metadata"]["year"] == record["year"]
        vector = np.asarray(row["embedding"])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert row["metadata"]["third"] == pytest.approx(vector[3], abs=1e-6)
    coded = ELMDataset("data", split, variant="int8")
    vectors, stored = dataset.to_numpy(), coded.to_numpy()
    cosines = (vectors * stored).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(stored, axis=1)
    assert (cosines > (0.9999 if split == "train" else 0.99)).all()  # the calibration has seen train alone


def test_a_selection_is_opened_by_name(folder):
    whole, part = ELMDataset("data", "train"), ELMDataset("data", "train", subset="kcenter_n4_seed0")
    assert len(part) == 4
    assert set(part.metadata["text_id"].to_list()) < set(whole.metadata["text_id"].to_list())
    assert len(ELMDataset("data", "train", where="third >= -1 and year < 1995")) == 3


@pytest.mark.parametrize("flags", [{}, {"embedding.variant": "int8", "embedding.precision": "int8"}])
def test_it_verifies(folder, flags):
    good, bad = verify(load_config(Path("job.yaml"), flags))
    assert not bad
    assert good
    assert main(["verify", "--config", "job.yaml", *(f"--{name}={value}" for name, value in flags.items())]) == 0


def test_the_same_commands_find_finished_work(folder):
    before = state(folder)
    commands = [line.split()[1:] for line in (folder / "job.yaml").read_text().splitlines() if line.startswith("#   e")]
    assert [command[1] for command in commands] == ["run", "embed", "annotate", "select"]
    for command in commands[:3]:
        assert main(command[1:]) == 0, command
    assert state(folder) == before
    # A selection is computed again, and has to be the same one.
    assert main(commands[3][1:]) == 0
    assert {name: content for name, (content, _) in state(folder).items()} == {
        name: content for name, (content, _) in before.items()
    }
