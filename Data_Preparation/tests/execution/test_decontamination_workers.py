"""Decontamination by several workers, items and rows in several parts: the bytes of one process with one part."""

import json
import random

import pytest

from data_pipeline.config.load import load_config
from data_pipeline.execution.local_engine import LocalEngine
from data_pipeline.preprocess import decontamination
from data_pipeline.stages import decontamination_steps
from data_pipeline.stages.base import WorkerPlace
from data_pipeline.stages.pipeline import run

WORDS = [f"word{number}" for number in range(400)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Documents, some of which repeat an earlier one or an item; and evaluation items."""
    folder, chosen = tmp_path_factory.mktemp("inputs"), random.Random(0)
    texts = [chosen.choices(WORDS, k=40) for _ in range(400)]
    texts += [[*text[:20], "other", *text[21:]] for text in texts[:60]]
    texts += [[*chosen.choices(WORDS, k=5), *text[:35]] for text in texts[60:100]]
    items = [texts[number] for number in range(0, 100, 4)]
    for name, rows in (("in", texts), ("items", items)):
        lines = [json.dumps({"id": f"{name}{number}", "text": " ".join(text)}) for number, text in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def configured(inputs, folder, **settings):
    own = {
        "corpus.source": "jsonl", "corpus.path": str(inputs / "in.jsonl"), "corpus.id_field": "id",
        "preprocess.min_tokens": 1, "preprocess.near_threshold": 0.7, "embedding.model_name": "hashing",
        "decontamination.paths": [str(inputs / "items.jsonl")], "decontamination.own_splits": True,
        "decontamination.ngram_words": 30, "data_dir": str(folder),
        "split.test_ratio": 0.2, "split.val_ratio": 0.1, "split.train_ratio": 0.7,
    }  # fmt: skip
    return load_config(None, own | settings)


def tree(config):
    return {
        path.relative_to(config.processed_dir).as_posix(): path.read_bytes()
        for path in config.processed_dir.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


@pytest.mark.parametrize("remove_from", ["train", "all"])
def test_several_workers_and_parts_give_the_bytes_of_one(tmp_path, inputs, monkeypatch, remove_from):
    settings = {"decontamination.remove_from": remove_from}
    inline = configured(inputs, tmp_path / "inline", **settings)
    report = run(inline, skip_embeddings=True)
    dropped = report.manifest["counts"]["dropped"]
    assert {"contaminated_ngram", "contaminated_near", "leaked_ngram"} <= dropped.keys()
    monkeypatch.setattr(decontamination, "_PART_TEXTS", 7)  # this process lists the items for all
    local = configured(inputs, tmp_path / "local", **settings)
    with LocalEngine([WorkerPlace("worker-0"), WorkerPlace("worker-1")], tmp_path / "crew") as engine:
        run(local, skip_embeddings=True, execute=engine)
    assert tree(local) == tree(inline)


def test_spans_of_rows_change_no_byte(tmp_path, inputs, monkeypatch):
    one = configured(inputs, tmp_path / "one")
    run(one, skip_embeddings=True)
    monkeypatch.setattr(decontamination_steps, "_SPAN_ROWS", 37)
    many = configured(inputs, tmp_path / "many")
    run(many, skip_embeddings=True)
    assert tree(many) == tree(one)
