"""Sparse vectors of a corpus: their files, their faults, and runs that are killed."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.forks import ENVIRONMENT
from support.sparse_models import table_encoder, write_splade

from data_pipeline import verify
from data_pipeline.cli import main
from data_pipeline.config import StorageConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings.sparse import load as loader
from data_pipeline.embeddings.sparse.encoder import encode_sparse
from data_pipeline.errors import ConfigError, CorruptShardError, NotFoundError, ShardMismatchError, StaleStageError
from data_pipeline.stages import sparse as stage
from data_pipeline.stages.pipeline import make_sparse_corpus, prepare_paragraphs
from data_pipeline.store import ParagraphStore, open_sparse_split, read_manifest
from data_pipeline.store.manifest import SparseManifest
from data_pipeline.types import SPLITS


@pytest.fixture
def ready(config, monkeypatch):
    """Paragraphs in several shards, and an encoder without a transformer instead of the one that is named."""
    config = config.model_copy(update={
        "storage": StorageConfig(shard_rows=100),
        "sparse": config.sparse.model_copy(update={"model_name": "table"}),
    })  # fmt: skip
    prepare_paragraphs(config)
    monkeypatch.setattr(loader, "load_sparse_encoder", lambda config: table_encoder())
    monkeypatch.setattr(stage, "BLOCK_ROWS", 16)
    return config


def tree(config):
    return {path.name: path.read_bytes() for path in sorted(config.sparse_dir.iterdir())}


def test_the_vectors_are_those_of_the_texts(ready):
    report = make_sparse_corpus(ready, SPLITS)
    assert report.sparse_model == "table"
    for split in SPLITS:
        dataset = ELMDataset(split=split, load_embeddings=False, config=ready)
        expected = encode_sparse(table_encoder(), [row["text"] for row in dataset])
        found = dataset.rows.sparse_vectors(np.arange(len(dataset)))
        np.testing.assert_array_equal(found.to_dense(), expected.to_dense())
        assert report.sparse[split].rows == len(dataset)
        assert not report.sparse[split].skipped
    backwards = np.arange(len(dataset))[::-1]
    np.testing.assert_array_equal(dataset.rows.sparse_vectors(backwards).to_dense(), expected.to_dense()[backwards])
    train = ELMDataset(load_embeddings=False, config=ready)
    assert len(list(ready.sparse_dir.glob("train_sparse-*.safetensors"))) > 1
    some = train.rows.select(np.array([150, 3]))
    np.testing.assert_array_equal(
        some.sparse_vectors(np.array([1, 0])).to_dense(),
        encode_sparse(table_encoder(), [train[3]["text"], train[150]["text"]]).to_dense(),
    )
    manifest = read_manifest(ready.sparse_dir, SparseManifest)
    assert manifest["splits"]["test"]["dim"] == table_encoder().identity.dim
    before = tree(ready)
    assert all(result.skipped for result in make_sparse_corpus(ready, SPLITS).sparse.values())
    assert tree(ready) == before


def test_other_settings_are_stale_until_overwritten(ready, monkeypatch):
    make_sparse_corpus(ready, ["test"])
    monkeypatch.setattr(loader, "load_sparse_encoder", lambda config: table_encoder("another"))
    with pytest.raises(StaleStageError, match=r"model.*table.*another"):
        make_sparse_corpus(ready, ["test"])
    make_sparse_corpus(ready, ["test"], overwrite=True)
    variant = ready.model_copy(update={"sparse": ready.sparse.model_copy(update={"variant": "other"})})
    make_sparse_corpus(variant, ["test"])
    assert variant.sparse_dir == ready.sparse_dir / "other"
    rows = ELMDataset(split="test", load_embeddings=False, config=ready).rows
    assert len(rows.sparse_vectors(np.arange(4), "other")) == 4
    with pytest.raises(NotFoundError, match="no sparse vectors of test in .*nothing. Make them with: elm sparse"):
        rows.sparse_vectors(np.arange(4), "nothing")


def test_a_damaged_file_is_found_and_made_again(ready):
    make_sparse_corpus(ready, SPLITS)
    good, bad = verify(ready)
    assert bad == []
    assert any(line.endswith("sparse vectors: hashes, alignment and weights") for line in good)
    before = tree(ready)
    path = ready.sparse_dir / "test_sparse.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert any("test_sparse.safetensors: checksum mismatch" in line for line in verify(ready)[1])
    make_sparse_corpus(ready, ["test"], overwrite=True)
    assert tree(ready) == before
    path.write_bytes(content[:-1])
    assert any("its header expects" in line for line in verify(ready)[1])
    path.unlink()
    make_sparse_corpus(ready, ["test"])
    assert tree(ready) == before
    shutil.copy(ready.sparse_dir / "val_sparse.safetensors", path)
    paragraphs = ParagraphStore(ready.processed_dir).listed("test")
    with pytest.raises(ShardMismatchError, match="was not made from"):
        open_sparse_split(ready.sparse_dir, "test", paragraphs)


def test_values_that_no_model_gives_are_faults(ready):
    make_sparse_corpus(ready, ["test"])
    path = ready.sparse_dir / "test_sparse.safetensors"
    manifest = json.loads((ready.sparse_dir / "manifest.json").read_text())
    from data_pipeline.store.sparse import open_sparse_shard
    from data_pipeline.utils import sha256_of_file

    content = path.read_bytes()
    offsets = open_sparse_shard(path).offsets
    for name, value, said in (
        ("values", np.float32("nan"), "negative or not finite"),
        ("values", np.float32(-1), "negative or not finite"),
        ("indices", np.int32(10**6), "not of the vocabulary"),
        ("indices", np.int32(-1), "not of the vocabulary"),
    ):
        place = offsets[name][0]
        path.write_bytes(content[:place] + value.tobytes() + content[place + 4 :])
        manifest["splits"]["test"]["shards"][0]["sha256"] = sha256_of_file(path)
        (ready.sparse_dir / "manifest.json").write_text(json.dumps(manifest))
        assert any(said in line for line in verify(ready)[1])
    manifest["splits"]["test"]["fingerprint"] = "0" * 64
    (ready.sparse_dir / "manifest.json").write_text(json.dumps(manifest))
    assert any("do not match their fingerprint" in line for line in verify(ready)[1])
    (ready.sparse_dir / "manifest.json").write_text("{")
    with pytest.raises(CorruptShardError):
        read_manifest(ready.sparse_dir, SparseManifest)


def test_paragraphs_that_change_meanwhile_are_an_error(ready, monkeypatch):
    paragraphs = ready.processed_dir / "test.parquet"
    real = stage.embed_to_sparse_file

    def changing(file, blocks, encoder, advance):
        shutil.copy(ready.processed_dir / "val.parquet", paragraphs)
        real(file, blocks, encoder, advance)

    monkeypatch.setattr(stage, "embed_to_sparse_file", changing)
    with pytest.raises(ShardMismatchError, match="was changed while it was being encoded"):
        make_sparse_corpus(ready, ["test"])
    assert not (ready.sparse_dir / "test_sparse.safetensors").exists()


def test_the_command(config, tmp_path, capsys):
    prepare_paragraphs(config)
    here = ["--output-dir", str(config.data_dir), "--preset", "offline"]
    assert main(["sparse", *here]) == 2
    assert "name a model that gives sparse vectors: --sparse.model_name BAAI/bge-m3" in capsys.readouterr().err
    model = write_splade(tmp_path / "splade")
    arguments = ["sparse", *here, "--splits", "test", "--sparse.model_name", str(model), "--sparse.device", "cpu"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "rows of 77 words" in said
    assert "finished before" not in said
    assert main(arguments) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(["info", *here]) == 0
    assert "test sparse" in capsys.readouterr().out
    assert main([*arguments, "--sparse.max_active", "3"]) == 2
    assert "Pass --overwrite" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        make_sparse_corpus(config, ["test"])


# Makes the vectors of a split once for every step it takes on the file system, in a fork that kills itself just
# before that step, and again; undisturbed at last.
DRIVER = """
import hashlib, json, shutil, signal, sys
from pathlib import Path
from support.forks import answer_of, die_at_step, import_what_is_imported_by
from support.sparse_models import table_encoder
from data_pipeline.config.load import load_config
from data_pipeline.embeddings.sparse import load as loader
from data_pipeline.stages import sparse as stage
from data_pipeline.stages.pipeline import make_sparse_corpus

config = load_config(None, json.loads(sys.argv[1]))
stage.BLOCK_ROWS = 16
loader.load_sparse_encoder = lambda config: table_encoder()

def job(step=0):
    die_at_step(step, "replace", "rename", "fsync", "unlink", "rmdir", "mkdir")
    make_sparse_corpus(config, ["test"])

def tree():
    return {str(path.relative_to(config.sparse_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(config.sparse_dir.rglob("*")) if path.is_file()}

assert answer_of(job)[0] == 0
wanted = tree()
results = []
step = 0
while True:
    step += 1
    shutil.rmtree(config.sparse_dir)
    code, _ = answer_of(lambda: job(step))
    rerun, _ = answer_of(job)
    results.append([step, code, rerun, tree() == wanted])
    if code != -signal.SIGKILL:
        break
print(json.dumps({"files": sorted(wanted), "results": results}))
"""


@pytest.mark.posix
def test_a_kill_at_any_step_leaves_the_same_bytes(config):
    prepare_paragraphs(config)
    flags = {
        "data_dir": str(config.data_dir), "logs_dir": str(config.logs_dir), "corpus.source": "sample",
        "corpus.name": "sample", "sparse.model_name": "table",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(flags)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["files"] == ["manifest.json", "test_sparse.safetensors"]
    *killed, last = found["results"]
    assert len(killed) > 12
    assert all(code == -signal.SIGKILL for _, code, _, _ in killed)
    assert all(rerun == 0 and same for _, _, rerun, same in [*killed, last])
    assert last[1] == 0
