"""Texts that have vectors are not embedded again, whatever changed around them."""

import hashlib
import json
import logging
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from data_pipeline.config import SplitConfig, StorageConfig
from data_pipeline.config.load import load_config
from data_pipeline.dataset import ELMDataset
from data_pipeline.stages.pipeline import embed, prepare_paragraphs, run
from data_pipeline.store import ParagraphStore, read_manifest, write_manifest
from data_pipeline.store.embeddings import open_embedding_shard
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.store.text_digests import text_digests
from data_pipeline.store.text_index import TextIndex
from data_pipeline.store.versions import list_versions, version_folder
from data_pipeline.types import SPLITS
from data_pipeline.utils import sha256_of_file


@pytest.fixture
def config(config):
    return config.model_copy(update={"storage": StorageConfig(shard_rows=50)})


def changed(config, section, **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def whole_run(config, tmp_path, name="whole"):
    """A run with the same settings in a folder of its own, from nothing."""
    other = config.model_copy(update={"data_dir": tmp_path / name, "logs_dir": tmp_path / name / "logs"})
    run(changed(other, "embedding", reuse=False))
    return other


def files(config):
    """Hashes of the files of paragraphs and embeddings, without the earlier versions."""
    return {
        f"{folder.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (config.processed_dir, config.embeddings_dir)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "manifest.json"
    }


def vectors(config):
    found = {}
    for split in SPLITS:
        dataset = ELMDataset(split=split, config=config)
        for row in range(len(dataset)):
            found[dataset[row]["text"]] = dataset.rows.vector(row)
    return found


def test_another_seed_computes_nothing(config, counted, tmp_path):
    run(config)
    total = counted[0].texts
    reseeded = changed(config, "split", seed=7)
    report = run(reseeded, overwrite=True)
    checked = counted[1].texts
    assert 0 < checked <= 4  # before the folder is trusted
    assert sum(result.tally.reused for result in report.embeddings.values()) == total
    assert sum(result.tally.texts for result in report.embeddings.values()) == 0
    assert files(reseeded) == files(whole_run(reseeded, tmp_path))
    # And back again, from the version before.
    run(config, overwrite=True)
    assert counted[3].texts <= 4
    assert files(config) == files(whole_run(config, tmp_path, "back"))


def test_another_filter_computes_what_is_new(config, counted, tmp_path):
    run(config)
    before = set(vectors(config))
    wider = changed(config, "preprocess", min_tokens=40)
    report = run(wider, overwrite=True)
    after = set(vectors(wider))
    assert len(after - before) > 10
    finished = sum(result.rows for result in report.embeddings.values() if result.skipped)  # a split that is the same
    assert sum(result.tally.reused for result in report.embeddings.values()) + finished == len(after & before)
    assert sum(result.tally.texts for result in report.embeddings.values()) == len(after - before)
    assert files(wider) == files(whole_run(wider, tmp_path))


def test_a_cut_dimension_is_read_from_the_longer_vector(config, counted, tmp_path):
    run(config)
    cut = changed(config, "embedding", dim=64)
    embed(cut, SPLITS, overwrite=True)
    assert counted[1].texts <= 4
    expected, found = vectors(whole_run(cut, tmp_path)), vectors(cut)
    assert found.keys() == expected.keys()
    for text, vector in expected.items():
        np.testing.assert_allclose(found[text], vector, atol=1e-6)
    # The longer one cannot be made of it.
    before = len(counted)
    embed(config, SPLITS, overwrite=True)
    assert counted[before].texts == counted[0].texts


@pytest.mark.parametrize("precision", ["float16", "int8", "ubinary"])
def test_another_precision_is_made_of_float32(config, counted, tmp_path, precision):
    run(config)
    variant = changed(config, "embedding", precision=precision, variant="small")
    embed(variant, SPLITS)
    few = 4 + (2048 if precision == "int8" else 0)  # the calibration embeds a sample of its own
    assert counted[1].texts <= few
    whole = whole_run(variant, tmp_path)
    for split in SPLITS:
        for path in sorted(whole.embeddings_dir.glob(f"{split}_*.safetensors")):
            assert (variant.embeddings_dir / path.name).read_bytes() == path.read_bytes()
    # Coarse vectors serve only where they are wanted as they are.
    same = changed(variant, "embedding", variant="again")
    for path in config.embeddings_dir.iterdir():
        if path.is_file():
            path.unlink()
    before = len(counted)
    embed(same, SPLITS)
    assert counted[before].texts <= few
    before = len(counted)
    embed(config, SPLITS)
    assert counted[before].texts == counted[0].texts


def test_vectors_of_another_folder_are_used_when_it_is_named(config, counted, tmp_path):
    run(config)
    total = counted[0].texts
    other = config.model_copy(update={"data_dir": tmp_path / "other", "logs_dir": tmp_path / "logs"})
    run(other)
    assert counted[1].texts == total
    shutil.rmtree(other.embeddings_dir)
    run(changed(other, "embedding", reuse_from=(config.data_dir,)))
    assert counted[2].texts <= 4
    assert files(other) == files(config)
    shutil.rmtree(other.embeddings_dir)
    run(changed(other, "embedding", reuse_from=(config.data_dir,), reuse=False))
    assert counted[3].texts == total


@pytest.mark.parametrize("change", [{"prompt": "text: "}, {"normalize": False}, {"max_length": 30}])
def test_vectors_that_are_others_are_not_used(config, counted, tmp_path, change):
    run(config)
    other = changed(config, "embedding", **change)
    embed(other, SPLITS, overwrite=True)
    lengths = {len(text.split()) for text in vectors(config)}
    assert min(lengths) > 30
    assert counted[1].texts == counted[0].texts
    assert files(other) == files(whole_run(other, tmp_path))


def test_a_longer_limit_matters_only_to_texts_that_were_cut(config, counted, tmp_path):
    lengths = sorted(len(text.split()) for text in vectors(_run(config)))
    limit = lengths[len(lengths) // 2]
    short = changed(config, "embedding", max_length=limit)
    embed(short, SPLITS, overwrite=True)
    n_cut = sum(length > limit for length in lengths)
    assert counted[1].texts - 4 <= n_cut <= counted[1].texts
    assert files(short) == files(whole_run(short, tmp_path))
    manifests = [
        read_manifest(one.embeddings_dir, EmbeddingManifest) for one in (short, whole_run(short, tmp_path, "2"))
    ]
    assert manifests[0] == manifests[1]
    assert sum(split["truncated"] for split in manifests[0]["splits"].values()) == n_cut


def _run(config):
    run(config)
    return config


def test_a_folder_that_lies_is_not_trusted(config, counted, tmp_path, caplog):
    run(config)
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    for listed in manifest["splits"].values():
        for record in listed["shards"]:
            path = config.embeddings_dir / record["file"]
            shard = open_embedding_shard(path)
            stored = np.memmap(path, shard.coding.dtype, "r+", shard.offset, shard.stored.shape)
            stored[:] = stored[:, ::-1].copy()
            stored.flush()
            record["sha256"] = sha256_of_file(path)
    write_manifest(config.embeddings_dir, manifest)
    with caplog.at_level(logging.WARNING):
        run(changed(config, "split", seed=7), overwrite=True)
    assert "is not reused: it says that its vectors are of this model" in caplog.text
    assert counted[1].texts > counted[0].texts
    reseeded = changed(config, "split", seed=7)
    assert files(reseeded) == files(whole_run(reseeded, tmp_path))


def test_a_damaged_file_is_not_reused_through_its_other_name(config, counted, tmp_path, caplog):
    run(config)
    run(changed(config, "split", seed=7), overwrite=True)
    first = next(config.embeddings_dir.glob(".versions/0001/train_*.safetensors"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    with first.open("r+b") as file:
        file.write(content)
    with caplog.at_level(logging.WARNING):
        run(config, overwrite=True)
    assert files(config) == files(whole_run(config, tmp_path))
    # Those of the version between are whole, and are found first or instead; no damaged vector is copied.
    assert all(
        result.rows == len(ELMDataset(split=split, config=config)) for split, result in run(config).embeddings.items()
    )


def test_damaged_folders_stop_no_run(config, counted, tmp_path):
    run(config)
    other = config.model_copy(update={"data_dir": tmp_path / "other", "logs_dir": tmp_path / "logs"})
    broken = tmp_path / "broken"
    shutil.copytree(config.data_dir, broken)
    (broken / "embeddings" / "manifest.json").write_text("{")
    halved = tmp_path / "halved"
    shutil.copytree(config.data_dir, halved)
    for path in (halved / "embeddings").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    empty = tmp_path / "empty"
    empty.mkdir()
    run(changed(other, "embedding", reuse_from=(broken, halved, empty, tmp_path / "nothing")))
    assert counted[1].texts == counted[0].texts
    assert files(other) == files(config)


def test_earlier_versions_are_kept_and_the_oldest_go(config, counted):
    config = changed(config, "storage", versions=2)
    texts = []
    for seed in range(4):
        one = changed(config, "split", seed=seed)
        run(one, overwrite=True)
        texts.append(ParagraphStore(one.processed_dir).read("train")["text"].to_list())
    assert list_versions(config.processed_dir) == [2, 3]
    assert list_versions(config.embeddings_dir) == [2, 3]
    for number in (2, 3):
        store = ParagraphStore(version_folder(config.processed_dir, number))
        store.check()
        assert store.manifest["version"] == number
        assert store.read("train")["text"].to_list() == texts[number - 1]
        manifest = read_manifest(version_folder(config.embeddings_dir, number), EmbeddingManifest)
        assert [record["ids_sha256"] for record in manifest["splits"]["train"]["shards"]] == [
            shard.ids_sha256 for shard in store.listed("train")
        ]
    # The same again is the same version.
    (config.processed_dir / "train-00000-of-00004.parquet").unlink(missing_ok=True)
    prepare_paragraphs(one, overwrite=True)
    assert ParagraphStore(one.processed_dir).manifest["version"] == 4
    assert list_versions(config.processed_dir) == [2, 3]
    none = changed(changed(config, "storage", versions=0), "split", seed=9)
    run(none, overwrite=True)
    assert list_versions(config.processed_dir) == list_versions(config.embeddings_dir) == []


def test_the_summary_says_what_was_reused(config, capsys, monkeypatch):
    from data_pipeline.cli import main

    here = [
        "--preset",
        "offline",
        "--source",
        "sample",
        "--output-dir",
        str(config.data_dir),
        "--model-name",
        "hashing",
    ]
    assert main(["run", *here]) == 0
    assert "reused" not in capsys.readouterr().out
    assert main(["run", *here, "--split.seed", "7", "--overwrite"]) == 0
    said = capsys.readouterr().out
    rows = sum(ParagraphStore(config.data_dir / "sample_processed").manifest["splits"][s]["rows"] for s in SPLITS)
    assert f"embedded 0 of {rows} rows; {rows} reused" in said


# The index


def test_texts_are_found_in_their_first_source(monkeypatch, tmp_path):
    monkeypatch.setattr("data_pipeline.store.text_index._PARTITION_ROWS", 100)
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (count, 32), dtype=np.uint8) for count in (300, 0, 57, 1)]
    parts[2][5] = parts[0][17]  # a text that two sources have
    parts[3][0] = parts[0][18]
    parts[3][0, 31] ^= 1  # another text with the same first bytes
    known = TextIndex([len(part) for part in parts], parts.__getitem__, tmp_path)
    for source, part in enumerate(parts[:3]):
        sources, rows = known.find(part)
        expected = np.full(len(part), source)
        wanted = np.arange(len(part))
        if source == 2:
            expected[5], wanted[5] = 0, 17
        assert sources.tolist() == expected.tolist()
        assert rows.tolist() == wanted.tolist()
    sources, rows = known.find(rng.integers(0, 256, (9, 32), dtype=np.uint8))
    assert sources.tolist() == rows.tolist() == [-1] * 9
    assert list(tmp_path.iterdir()) == []
    assert TextIndex([], parts.__getitem__, tmp_path).find(parts[0])[0].tolist() == [-1] * 300


def test_digests_are_those_of_the_texts_and_are_cached(config):
    prepare_paragraphs(config)
    store = ParagraphStore(config.processed_dir)
    texts = store.read("train")["text"].to_list()
    cached = sorted((config.processed_dir / ".cache").glob("texts-*.sha256"))
    assert len(cached) == sum(len(store.listed(split)) for split in store.splits)  # written with the shards
    shutil.rmtree(config.processed_dir / ".cache")
    for _ in range(2):
        found = np.concatenate([text_digests(shard) for shard in store.listed("train")])
        assert [bytes(row) for row in found] == [hashlib.sha256(text.encode()).digest() for text in texts]
    cached = sorted((config.processed_dir / ".cache").glob("texts-*.sha256"))
    assert len(cached) == len(store.listed("train"))
    cached[0].write_bytes(b"short")
    assert np.concatenate([text_digests(shard) for shard in store.listed("train")]).tolist() == found.tolist()


def test_digests_of_files_that_other_programs_wrote_are_the_same(config):
    """They may have texts with large offsets, as polars writes them."""
    prepare_paragraphs(config)
    shard = ParagraphStore(config.processed_dir).listed("train")[0]
    expected = text_digests(shard)
    shutil.rmtree(shard.path.parent / ".cache")
    pl.read_parquet(shard.path).write_parquet(shard.path)
    assert next(shard.batches(["text"])).schema.field("text").type == pa.large_string()
    np.testing.assert_array_equal(text_digests(shard), expected)


def test_the_settings_decide_no_bytes():
    plain = load_config(None, {})
    told = load_config(None, {"embedding.reuse": False, "embedding.reuse_from": ["x"], "storage.versions": 9})
    assert json.dumps(plain.embedding.deciding()) == json.dumps(told.embedding.deciding())
    assert plain.storage.deciding() == told.storage.deciding()
    assert SplitConfig() == plain.split
