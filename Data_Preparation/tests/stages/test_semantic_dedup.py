"""Semantic deduplication of a data folder: what is dropped, what is copied, and that the result is a whole dataset."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.builders import files, made, make, stored_rows, stored_vectors
from support.forks import ENVIRONMENT

from data_pipeline import ELMDataset
from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.errors import ConfigError, NotFoundError, SourceError, StaleStageError
from data_pipeline.stages.pipeline import embed, run
from data_pipeline.stages.semantic_dedup import semantic_dedup
from data_pipeline.stages.verify import verify
from data_pipeline.store import ParagraphStore, open_embedding_shard
from data_pipeline.types import SPLITS

EXACT = {"clusters": 1, "keep": "first"}


def tree(folder):
    """SHA-256 of every file but locks, logs and caches."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and not {".cache", "logs"} & set(path.parts)
    }


def target_of(config, folder):
    return config.model_copy(update={"data_dir": folder})


def ledger(folder):
    table = pl.read_parquet(folder / "sample_processed" / "dropped.parquet")
    return table.filter(pl.col("stage") == "semantic_dedup")


def plain(vectors, threshold):
    """One row at a time: {dropped row: (most similar retained row, cosine)}."""
    vectors = vectors.astype(np.float64)
    retained, dropped = [], {}
    for row in range(len(vectors)):
        cosines = vectors[retained] @ vectors[row] if retained else np.zeros(0)
        if len(cosines) and cosines.max() > threshold:
            dropped[row] = (retained[int(cosines.argmax())], cosines.max())
        else:
            retained.append(row)
    return dropped


def between(cosines, share):
    """A threshold that a share of the values are above, between two of them."""
    return float(np.mean(np.quantile(cosines, [1 - share - 0.02, 1 - share + 0.02])))


def middling(vectors, share=0.2):
    """A threshold above which about a share of the rows have a more similar row before them."""
    exact = vectors.astype(np.float64)
    cosines = np.tril(exact @ exact.T, -1)
    return between(cosines.max(axis=1)[1:], share)


@pytest.fixture(scope="module")
def threshold(source):
    return middling(stored_vectors(source.data_dir))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return made(tmp_path_factory.mktemp("source"), shard_rows=50)


def test_the_rows_that_brute_force_finds_are_dropped_and_the_rest_is_copied(source, threshold, tmp_path):
    before = tree(source.data_dir)
    vectors, rows = stored_vectors(source.data_dir), stored_rows(source.data_dir)
    expected = plain(vectors, threshold)
    assert 5 < len(expected) < len(rows) - 5
    result = semantic_dedup(source, SemanticDedupConfig(threshold=threshold, **EXACT), tmp_path / "to")
    assert not result.skipped
    assert tree(source.data_dir) == before
    assert not list(source.data_dir.rglob(".cache/*.arrow"))
    dropped = ledger(tmp_path / "to")
    ids = rows["text_id"]
    assert dropped.select("text_id", "document_id", "reason", "duplicate_of").rows() == [
        (ids[row], rows["document_id"][row], "semantic_duplicate", ids[other]) for row, (other, _) in expected.items()
    ]
    assert dropped["overlap"].to_list() == pytest.approx([cosine for _, cosine in expected.values()], abs=1e-5)
    kept = [row for row in range(len(rows)) if row not in expected]
    assert stored_rows(tmp_path / "to").equals(rows[kept])
    assert np.array_equal(stored_vectors(tmp_path / "to"), vectors[kept])
    assert len(files(tmp_path / "to", "embeddings")) == -(-len(kept) // 50)
    for split in ("val", "test"):
        assert stored_rows(tmp_path / "to", split).equals(stored_rows(source.data_dir, split))
        assert np.array_equal(stored_vectors(tmp_path / "to", split), stored_vectors(source.data_dir, split))
    counts = result.manifest["counts"]
    assert counts["dropped"]["semantic_duplicate"] == len(expected)
    assert counts["paragraphs"] == counts["kept"] + sum(counts["dropped"].values())


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "float8", "ubinary"])
def test_vectors_of_every_precision_are_copied_bit_by_bit_and_the_result_verifies(precision, tmp_path):
    config = made(tmp_path, shard_rows=50, precision=precision)
    threshold = middling(ELMDataset(config.data_dir).to_numpy(), 0.4)
    result = semantic_dedup(config, SemanticDedupConfig(threshold=threshold, cluster_rows=60), tmp_path / "to")
    to = target_of(config, tmp_path / "to")
    dropped = set(ledger(tmp_path / "to")["text_id"])
    assert dropped
    kept = [row for row, name in enumerate(stored_rows(config.data_dir)["text_id"]) if name not in dropped]

    def stored(folder):
        shards = [open_embedding_shard(path).stored for path in files(folder, "embeddings")]
        return np.concatenate([shard.view(np.uint8) for shard in shards])

    assert np.array_equal(stored(tmp_path / "to"), stored(config.data_dir)[kept])
    for level in ("size", "hash", "reembed"):
        assert verify(to, level)[1] == []
    dataset = ELMDataset(tmp_path / "to")
    assert len(dataset) == len(kept) == result.rows["train"]
    source = ELMDataset(config.data_dir)
    assert np.array_equal(dataset[3]["embedding"], source[kept[3]]["embedding"])
    report = embed(to, SPLITS)
    assert all(split.skipped for split in report.embeddings.values())


def test_duplicates_are_searched_for_in_the_splits_that_are_named(source, threshold, tmp_path):
    settings = SemanticDedupConfig(threshold=threshold, dedup_splits=["val", "test"], **EXACT)
    semantic_dedup(source, settings, tmp_path / "to")
    expected = []
    for split in ("val", "test"):
        ids = stored_rows(source.data_dir, split)["text_id"]
        expected += [ids[row] for row in plain(stored_vectors(source.data_dir, split), threshold)]
    assert ledger(tmp_path / "to")["text_id"].to_list() == expected != []


def test_rows_near_val_and_test_leave_train(source, tmp_path):
    train = stored_vectors(source.data_dir)
    held_out = np.concatenate([stored_vectors(source.data_dir, split) for split in ("val", "test")])
    threshold = between((train @ held_out.T).max(axis=1), 0.2)
    config = source.model_copy(update={"decontamination": DecontaminationConfig(own_splits=True)})
    settings = SemanticDedupConfig(threshold=None, evaluation_threshold=threshold)
    semantic_dedup(config, settings, tmp_path / "to")
    near = {
        split: (train @ stored_vectors(source.data_dir, split).T).max(axis=1) >= threshold for split in ("val", "test")
    }
    rows = np.flatnonzero(near["val"] | near["test"])
    dropped = ledger(tmp_path / "to")
    assert dropped["text_id"].to_list() == stored_rows(source.data_dir)["text_id"][rows].to_list() != []
    assert set(dropped["reason"]) == {"leaked_embedding"}
    others = {split: set(stored_rows(source.data_dir, split)["text_id"]) for split in ("val", "test")}
    for row, name in zip(rows, dropped["duplicate_of"], strict=True):
        assert name in others["val" if near["val"][row] else "test"]
    assert (stored_vectors(tmp_path / "to") @ held_out.T).max() < threshold


@pytest.mark.parametrize("remove_from", ["train", "all"])
def test_evaluation_items_are_embedded_alike_and_named(source, tmp_path, remove_from):
    train, val = stored_rows(source.data_dir), stored_rows(source.data_dir, "val")
    records = [{"id": "a", "text": train["text"][7]}, {"id": "b", "text": val["text"][2]}]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    decontamination = DecontaminationConfig(paths=[str(path)], remove_from=remove_from)
    config = source.model_copy(update={"decontamination": decontamination})
    settings = SemanticDedupConfig(threshold=None, evaluation_threshold=0.999)
    semantic_dedup(config, settings, tmp_path / "to")
    expected = [(train["text_id"][7], "contaminated_embedding", "items.jsonl:a", 1.0)]
    expected += [(val["text_id"][2], "contaminated_embedding", "items.jsonl:b", 1.0)] if remove_from == "all" else []
    assert ledger(tmp_path / "to").select("text_id", "reason", "duplicate_of", "overlap").rows() == expected
    path.write_text('{"text": ""}\n')
    with pytest.raises(StaleStageError, match=r"semantic_dedup\.decontamination\.sets was"):
        semantic_dedup(config, settings, tmp_path / "to")
    with pytest.raises(SourceError, match="has no texts"):
        semantic_dedup(config, settings, tmp_path / "other")


def test_a_ledger_of_decontaminated_paragraphs_is_continued(tmp_path):
    config = made(tmp_path)
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"text": stored_rows(config.data_dir)["text"][0]}))
    config = config.model_copy(update={"decontamination": DecontaminationConfig(paths=[str(path)])})
    run(config, skip_embeddings=True, overwrite=True)
    before = pl.read_parquet(config.processed_dir / "dropped.parquet")
    embed(config, SPLITS, overwrite=True)
    threshold = middling(stored_vectors(config.data_dir))
    semantic_dedup(config, SemanticDedupConfig(threshold=threshold), tmp_path / "to")
    after = pl.read_parquet(tmp_path / "to" / "sample_processed" / "dropped.parquet")
    assert after[: len(before)].equals(before)
    assert len(after) > len(before)
    texts = dict(stored_rows(config.data_dir).select("text_id", "text").rows())
    examples = pl.read_parquet(tmp_path / "to" / "sample_processed" / "dropped_examples.parquet")
    assert set(examples["reason"]) == set(after["reason"])
    semantic = examples.filter(pl.col("stage") == "semantic_dedup")
    assert semantic["text"].to_list() == [texts[name][:2000] for name in semantic["text_id"]] != []
    assert verify(target_of(config, tmp_path / "to"))[1] == []


def test_finished_work_is_skipped_and_other_settings_are_stale(source, threshold, tmp_path):
    to = tmp_path / "to"
    semantic_dedup(source, SemanticDedupConfig(threshold=threshold), to)
    before = tree(to)
    assert semantic_dedup(source, SemanticDedupConfig(threshold=threshold, device="cpu"), to).skipped
    assert tree(to) == before
    with pytest.raises(StaleStageError, match=r"semantic_dedup\.threshold was .*, now 0.9999"):
        semantic_dedup(source, SemanticDedupConfig(threshold=0.9999), to)
    assert not semantic_dedup(source, SemanticDedupConfig(threshold=0.9999), to, overwrite=True).skipped
    assert verify(target_of(source, to))[1] == []
    assert not semantic_dedup(source, SemanticDedupConfig(threshold=threshold), to, overwrite=True).skipped
    assert tree(to) == before
    # A lost file is made again, from the ids alone.
    files(to, "embeddings")[0].unlink()
    semantic_dedup(source, SemanticDedupConfig(threshold=threshold), to)
    assert tree(to) == before


def test_another_calibration_replaces_that_of_the_result(tmp_path):
    config = made(tmp_path, precision="int8")
    semantic_dedup(config, SemanticDedupConfig(threshold=0.85), tmp_path / "to")
    other = made(tmp_path / "second", precision="int8", normalize=False)
    semantic_dedup(other, SemanticDedupConfig(threshold=0.85), tmp_path / "to", overwrite=True)
    assert verify(target_of(other, tmp_path / "to"))[1] == []


def test_a_source_that_cannot_be_used_is_an_error(source, tmp_path):
    with pytest.raises(ConfigError, match="to_dir is the folder of the source"):
        semantic_dedup(source, SemanticDedupConfig(), source.data_dir)
    copy = tmp_path / "copy"
    shutil.copytree(source.processed_dir, copy / "sample_processed")
    with pytest.raises(NotFoundError, match="there are no embeddings for train"):
        semantic_dedup(target_of(source, copy), SemanticDedupConfig(), tmp_path / "to")
    config = made(tmp_path / "some")
    manifest = config.embeddings_dir / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["splits"]["val"]
    manifest.write_text(json.dumps(content))
    (config.embeddings_dir / "val_embeddings.safetensors").unlink()
    with pytest.raises(NotFoundError, match="dedup_splits: there are no embeddings for val"):
        semantic_dedup(config, SemanticDedupConfig(dedup_splits=["val"]), tmp_path / "to")
    result = semantic_dedup(config, SemanticDedupConfig(threshold=0.85), tmp_path / "to")
    assert set(result.rows) == {"train", "test"}
    copied = ParagraphStore(tmp_path / "to" / "sample_processed").read("val")
    assert copied.equals(stored_rows(config.data_dir, "val"))


KILLS = """
import json, shutil, signal, sys
from pathlib import Path
from support.forks import answer_of as in_fork, die_at_step, import_what_is_imported_by
from test_semantic_dedup import source_of_kills, tree
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.stages import copied_embeddings, semantic_dedup as module
from data_pipeline.store.embeddings import EmbeddingWriter

root = Path(sys.argv[1])
copied_embeddings._COPIED_ROWS, copied_embeddings._FLUSHED_BLOCKS = 60, 1

def job(to):
    module.semantic_dedup(source_of_kills(root), SemanticDedupConfig(threshold=float(sys.argv[2])), Path(to))

def dying_at(step, to):
    die_at_step(step, "replace", "rename", "fsync", "unlink", "rmdir", (EmbeddingWriter, "write_stored"))
    job(to)

import_what_is_imported_by(lambda: job(root / "imports"))
in_fork(lambda: job(root / "whole"))
wanted, results, step = tree(root / "whole"), [], 0
while True:
    step += 1
    to = root / "to"
    shutil.rmtree(to, ignore_errors=True)
    code, _ = in_fork(lambda: dying_at(step, to))
    rerun, _ = in_fork(lambda: job(to))
    results.append([step, code, rerun, tree(to) == wanted])
    if code != -signal.SIGKILL:
        break
print(json.dumps({"files": len(wanted), "results": results}))
"""


def source_of_kills(root):
    """Config of the source that the driver works on."""
    return Config(
        data_dir=root / "data", corpus=CorpusConfig(name="sample"), embedding=EmbeddingConfig(model_name="hashing")
    )


@pytest.mark.posix
@pytest.mark.slow
def test_a_kill_at_every_step_ends_in_the_same_bytes(tmp_path):
    make(tmp_path, shard_rows=100)
    threshold = str(middling(stored_vectors(tmp_path / "data")))
    environment = ENVIRONMENT | {"PYTHONPATH": f"{Path(__file__).parent}:{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), threshold],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    *killed, (_, last, rerun, same) = answer["results"]
    assert (last, rerun, same) == (0, 0, True)
    assert len(killed) > 30
    assert [result[1:] for result in killed] == [[-9, 0, True]] * len(killed)
