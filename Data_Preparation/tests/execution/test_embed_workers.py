"""Embedding by several processes: the bytes of one, in blocks, after kills, and after another engine began."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from support.slow_model import slow_model

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.load import load_config
from data_pipeline.embeddings.engine import Engine
from data_pipeline.errors import ModelError
from data_pipeline.execution.local_engine import LocalEngine
from data_pipeline.stages import embed as embed_module
from data_pipeline.stages.base import WorkerPlace
from data_pipeline.stages.embed_workers import block_rows, embedding_at
from data_pipeline.stages.pipeline import embed, run
from data_pipeline.types import SPLITS


def places(count):
    return [WorkerPlace(f"worker-{number}", device="cpu") for number in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Records whose rows are in a few shards of several blocks."""
    path = tmp_path_factory.mktemp("corpus") / "in.jsonl"
    words = [f"word{number}" for number in range(300)]
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(words, k=chosen.randint(5, 60))) for _ in range(1500)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def configured(corpus, folder, **settings):
    own = {"corpus.source": "jsonl", "corpus.path": str(corpus), "corpus.id_field": "id", "corpus.name": "x",
           "preprocess.min_tokens": 1, "preprocess.min_chars": 0, "embedding.model_name": "hashing",
           "storage.shard_rows": 700, "data_dir": str(folder), "logs_dir": str(folder / "logs")}  # fmt: skip
    return load_config(None, own | settings)


def tree(folder):
    return {
        path.name: path.read_bytes()
        for path in (folder / "embeddings").rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


OTHER_MODEL = """
from dataclasses import replace

begin = hashing.HashingEmbedder.__init__


def other(self, config):
    begin(self, config)
    self.identity = replace(self.identity, revision="another")


hashing.HashingEmbedder.__init__ = other
"""


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """A model so slow that all workers have something to do; gives the function that returns their processes."""
    monkeypatch.setattr(embed_module, "block_rows", lambda rows, workers, row_bytes: 100)
    calls = slow_model(tmp_path, monkeypatch)
    return lambda: set(calls())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_vectors_have_the_bytes_of_one_process(tmp_path, corpus, request, precision):
    settings = {"embedding.precision": precision, "embedding.batch_size": 16}
    inline = run(configured(corpus, tmp_path / "inline", **settings))
    processes = request.getfixturevalue("processes")
    with LocalEngine(places(3), tmp_path / "crew") as engine:
        local = run(configured(corpus, tmp_path / "local", **settings), execute=engine)
    assert len(processes()) == 3
    assert tree(tmp_path / "local") == tree(tmp_path / "inline")
    tallies = [[report.embeddings[split].tally for split in SPLITS] for report in (inline, local)]
    assert [tally.texts for tally in tallies[1]] == [tally.texts for tally in tallies[0]]
    assert [tally.tokens for tally in tallies[1]] == [tally.tokens for tally in tallies[0]]
    assert local.embeddings["train"].new_rows == inline.embeddings["train"].new_rows > 1000


def test_vectors_that_exist_are_copied_by_every_worker(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(embed_module, "block_rows", lambda rows, workers, row_bytes: 100)
    run(configured(corpus, tmp_path / "local"))
    expected = tree(tmp_path / "local")
    other = configured(corpus, tmp_path / "local", **{"embedding.variant": "again"})
    with LocalEngine(places(2), tmp_path / "crew") as engine:
        report = embed(other, SPLITS, execute=engine)
    assert sum(result.tally.reused for result in report.embeddings.values()) == 1500
    copied = {path.name: path.read_bytes() for path in other.embeddings_dir.glob("*.safetensors")}
    assert copied == {name: content for name, content in expected.items() if name.endswith(".safetensors")}


@pytest.mark.parametrize(("named", "expected"), [(None, 3), (2, 2)])
def test_a_worker_has_its_device_and_its_share_of_the_threads_unless_a_number_is_named(named, expected):
    config = EmbeddingConfig(model_name="hashing", threads=named)
    there = embedding_at(config, WorkerPlace("worker-0", "cuda:1", 3))
    assert (there.device, there.threads) == ("cuda:1", expected)
    assert embedding_at(config, WorkerPlace("worker-0")).device == config.device


@pytest.mark.slow
def test_killed_workers_are_replaced_and_the_bytes_are_the_same(tmp_path, corpus, request, monkeypatch):
    settings = {"embedding.flush_s": 0.1, "embedding.batch_size": 4}
    run(configured(corpus, tmp_path / "inline", **settings))
    processes = request.getfixturevalue("processes")
    run(configured(corpus, tmp_path / "local", **settings), skip_embeddings=True)
    monkeypatch.setattr("data_pipeline.execution.local_engine._MAX_DEATHS", 100)
    stop, killed, chosen = threading.Event(), [], random.Random(1)

    def kill(engine):
        """Kill others at random moments of their work."""
        while not stop.wait(0.05) and len(killed) < 4:
            at_work = processes().difference(killed)
            for follower in list(engine._followers):
                if str(follower.process.pid) in at_work and not stop.wait(chosen.uniform(0.0, 0.5)):
                    os.kill(follower.process.pid, signal.SIGKILL)
                    killed.append(str(follower.process.pid))

    with LocalEngine(places(3), tmp_path / "crew") as engine:
        thread = threading.Thread(target=kill, args=(engine,))
        thread.start()
        try:
            embed(configured(corpus, tmp_path / "local", **settings), SPLITS, execute=engine)
        finally:
            stop.set()
            thread.join()
    assert len(killed) >= 3
    assert tree(tmp_path / "local") == tree(tmp_path / "inline")


def test_another_engine_goes_on_where_one_was_killed(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(embed_module, "block_rows", lambda rows, workers, row_bytes: 100)
    run(configured(corpus, tmp_path / "inline"))
    local = configured(corpus, tmp_path / "local", **{"embedding.flush_s": 1e-6, "embedding.batch_size": 8})
    run(local, skip_embeddings=True)

    class StoppedError(Exception):
        pass

    real, calls = Engine.run, []

    def stopping(self, plan, name_of, done=None):
        for number, found in enumerate(real(self, plan, name_of, done)):
            if number == 2 and len(calls) == 1:
                raise StoppedError
            yield found
        calls.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", stopping)
        with pytest.raises(StoppedError):
            embed(local, SPLITS)
    with LocalEngine(places(2), tmp_path / "crew") as engine:
        embed(local, SPLITS, execute=engine)
    assert tree(tmp_path / "local") == tree(tmp_path / "inline")


def test_a_worker_with_another_model_is_refused(tmp_path, corpus, processes):
    config = configured(corpus, tmp_path / "local", **{"embedding.batch_size": 4})
    run(config, skip_embeddings=True)
    with (tmp_path / "site" / "sitecustomize.py").open("a") as file:
        file.write(OTHER_MODEL)
    with (
        LocalEngine(places(2), tmp_path / "crew") as engine,
        pytest.raises(ModelError, match="worker-1 loaded another model"),
    ):
        embed(config, SPLITS, execute=engine)


def test_the_folder_has_no_other_files(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(embed_module, "block_rows", lambda rows, workers, row_bytes: 100)
    with LocalEngine(places(2), tmp_path / "crew") as engine:
        run(configured(corpus, tmp_path / "local"), execute=engine)
    names = {path.name for path in Path(tmp_path / "local" / "embeddings").iterdir()}
    assert all(name == "manifest.json" or (name.endswith(".safetensors") and name[0] != ".") for name in names)


@pytest.mark.parametrize(
    ("rows", "workers", "row_bytes", "expected"),
    [(1600, 2, 1536, 128), (117, 2, 1536, 64), (10**7, 2, 1536, 32_768), (117, 2, 200, 512), (1600, 2, 3, 4096)],
)
def test_blocks_fill_whole_pages_and_there_are_several_for_each_worker(rows, workers, row_bytes, expected):
    size = block_rows(rows, workers, row_bytes)
    assert size == expected
    assert size * row_bytes % 4096 == 0
