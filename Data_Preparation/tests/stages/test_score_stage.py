"""Heads applied to vectors, kept in files, and applied to a corpus; expected scores are computed here, by numpy."""

import dataclasses
import itertools
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from support import forks

from data_pipeline.config import EmbeddingConfig, SplitConfig, StorageConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.embeddings.transformer import linear
from data_pipeline.errors import ConfigError, ModelError, SourceError, StaleStageError, StoreError, WrongEmbedderError
from data_pipeline.heads import apply, identity
from data_pipeline.heads.apply import Scorer, column_names, probabilities
from data_pipeline.heads.files import head_sha256, load_head, save_head
from data_pipeline.heads.identity import FIELDS, EmbedderIdentity, check_identity, identity_settings
from data_pipeline.heads.model import Head, Layer
from data_pipeline.stages.pipeline import run
from data_pipeline.stages.score import annotate
from data_pipeline.types import SPLITS

DIM = 256
IDENTITY = EmbedderIdentity(
    identity_settings(HashingEmbedder(EmbeddingConfig(model_name="hashing")).identity.to_metadata())
)


def layers(*widths, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        Layer(
            (rng.normal(size=(out, into)) / np.sqrt(into)).astype(np.float32), rng.normal(size=out).astype(np.float32)
        )
        for into, out in itertools.pairwise(widths)
    )


def regression(*widths, seed=0, labels=("score",), **more):
    return Head("regression", labels, layers(*(widths or (DIM, 8, len(labels))), seed=seed), IDENTITY, **more)


def heads_of_all_kinds(dim=DIM):
    cuts = np.array([-3, -2, -1.2], np.float32)
    return {
        "edu": regression(dim, 16, 1),
        "traits": regression(dim, 8, 8, 2, seed=1, labels=("clear", "label")),
        "safe": Head("binary", ("no", "yes"), layers(dim, 1, seed=2), IDENTITY, temperature=0.5),
        "topic": Head("multiclass", ("art", "law", "math"), layers(dim, 5, 3, seed=3), IDENTITY, temperature=2.0),
        "level": Head("ordinal", ("0", "1", "2", "5"), layers(dim, 4, 1, seed=4), IDENTITY, cuts, temperature=0.2),
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(name, head, vectors):
    """What the head's columns must hold, in float64."""
    x = vectors.astype(np.float64)
    for number, layer in enumerate(head.layers):
        x = x @ layer.weight.astype(np.float64).T + layer.bias
        if number < len(head.layers) - 1:
            x = np.maximum(x, 0)
    if head.kind == "regression":
        return [x[:, place] for place in range(len(head.labels))]
    if head.kind == "binary":
        return [sigmoid(x[:, 0] / head.temperature)]
    labels = np.array(head.labels)
    if head.kind == "multiclass":
        powers = np.exp(x / head.temperature)
        shares = powers / powers.sum(axis=1, keepdims=True)
        return [shares.max(axis=1), labels[x.argmax(axis=1)], *shares.T]
    more = [sigmoid((x[:, 0] - cut) / head.temperature) for cut in head.cutpoints]
    shares = np.stack([1 - more[0], *(a - b for a, b in itertools.pairwise(more)), more[-1]], axis=1)
    return [shares @ labels.astype(float), labels[shares.argmax(axis=1)]]


def assert_by_hand(found, heads, vectors, atol=2e-5):
    assert list(found) == [column for name, head in heads.items() for column in column_names(name, head)]
    for name, head in heads.items():
        for column, expected in zip(column_names(name, head), by_hand(name, head, vectors), strict=True):
            if expected.dtype.kind == "U":
                assert list(found[column]) == expected.tolist()
            else:
                assert np.asarray(found[column]).dtype == np.float32
                np.testing.assert_allclose(found[column], expected, atol=atol)


def some_vectors(rows=300, dim=DIM, seed=7):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["packed layers", "torch's own layers"])
def packed(request, monkeypatch):
    """Both ways to multiply; this machine would take one of them. Whether it packs layers is what it gives."""
    if not request.param:
        monkeypatch.setattr(apply, "pack_linear_layers", lambda model: False)
    return request.param and linear.unavailable_reason(torch.float32) is None


# Values


def test_scores_are_those_computed_by_hand(packed):
    heads, vectors = heads_of_all_kinds(), some_vectors()
    scorer = Scorer(heads)
    found = scorer.score(vectors)
    assert_by_hand(found, heads, vectors)
    assert set(found["topic_label"]) == {"art", "law", "math"}
    assert len(set(found["level_label"])) > 2
    assert scorer.columns == [
        "edu", "traits_clear", "traits_label", "safe", "topic", "topic_label", "topic_art", "topic_law", "topic_math",
        "level", "level_label",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_probabilities_are_of_every_label_and_sum_to_one(kind):
    head = next(head for head in heads_of_all_kinds().values() if head.kind == kind)
    logits = np.array([[-1e4], [-0.3], [0.4], [1e4]], np.float32) * np.ones(1 if kind == "ordinal" else 3, np.float32)
    found = probabilities(head, logits)
    assert found.shape == (4, len(head.labels))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    if kind == "ordinal":
        assert found[0, 0] == 1
        assert found[3, 3] == 1


def test_an_ordinal_head_s_probabilities_by_hand():
    zero = (Layer(np.zeros((1, 2), np.float32), np.array([1.0], np.float32)),)
    head = Head("ordinal", ("low", "middle", "high"), zero, None, np.array([1.0, 3.0], np.float32), temperature=2.0)
    found = Scorer({"h": head}).score(np.ones((1, 2), np.float32))
    above = 1 / (1 + np.e)  # sigmoid((1 - 3) / 2); that of more than "low" is a half
    np.testing.assert_allclose(probabilities(head, np.array([[1.0]], np.float32)), [[0.5, 0.5 - above, above]])
    np.testing.assert_allclose(found["h"], [0.5 + above])  # grades are 0, 1, 2 where labels are not numbers
    assert found["h_label"] == ["low"]


def test_scores_have_the_same_bits_whatever_is_scored_with_them(packed):
    heads, vectors = heads_of_all_kinds(), some_vectors(2100)
    scorer = Scorer(heads)
    whole = scorer.score(vectors)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(vectors))
    before = torch.get_num_threads()
    try:
        # Without layers packed for it, the machine's product may be summed in another order by other threads.
        for threads in (1, 2, 3) if packed else (before,):
            torch.set_num_threads(threads)
            scorer = Scorer(heads)
            for rows in (np.arange(5), np.array([3]), np.arange(17, 1100), np.array([2099, 2, 2]), order):
                found = scorer.score(vectors[rows])
                for column, values in whole.items():
                    np.testing.assert_array_equal(np.asarray(found[column]), np.asarray(values)[rows])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("depends", [False, True])
def test_rows_are_computed_in_blocks_of_one_size_where_their_bits_depend_on_the_number_of_rows(depends, monkeypatch):
    class Products(torch.nn.Linear):
        """Exact whatever the rows, or with the rounding of another kernel for few rows."""

        def forward(self, x):
            exact = torch.nn.functional.linear(x.double(), self.weight.double(), self.bias.double()).float()
            return exact * (1 + 1e-6) if depends and len(x) < 512 else exact

    def replaced(networks):
        for layer in networks.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.__class__ = Products
        return True

    monkeypatch.setattr(apply, "pack_linear_layers", replaced)
    scorer = Scorer(heads_of_all_kinds())
    vectors = some_vectors(20)
    whole = scorer.outputs(vectors)
    for one, every in zip(scorer.outputs(vectors[:3]), whole, strict=True):
        np.testing.assert_array_equal(one, every[:3])
    assert scorer._fixed_blocks is depends


def test_a_head_alone_gives_the_bits_it_gives_beside_others(packed):
    heads, vectors = heads_of_all_kinds(), some_vectors(50)
    together = Scorer(heads).outputs(vectors)
    for (name, head), outputs in zip(heads.items(), together, strict=True):
        np.testing.assert_array_equal(Scorer({name: head}).outputs(vectors)[0], outputs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_vectors_of_other_precision_are_computed_with_in_float32(dtype):
    import ml_dtypes

    heads = heads_of_all_kinds()
    vectors = some_vectors(20).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    found, expected = Scorer(heads).score(vectors), Scorer(heads).score(vectors.astype(np.float32))
    for column, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[column]), np.asarray(values))


def test_vectors_may_be_mapped_unwritable_and_of_any_layout(tmp_path):
    scorer, vectors = Scorer(heads_of_all_kinds()), some_vectors(40)
    np.save(tmp_path / "v.npy", vectors)
    frozen = vectors.copy()
    frozen.flags.writeable = False
    for same in (np.load(tmp_path / "v.npy", mmap_mode="r"), frozen, np.asfortranarray(vectors), vectors[::-1]):
        found, expected = scorer.score(same), scorer.score(np.array(same, order="C"))
        for column, values in expected.items():
            np.testing.assert_array_equal(np.asarray(found[column]), np.asarray(values))
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)


def test_no_vectors_have_no_scores():
    found = Scorer(heads_of_all_kinds()).score(np.zeros((0, DIM), np.float32))
    assert {len(values) for values in found.values()} == {0}


def test_a_vector_that_is_not_finite_is_named():
    vectors = some_vectors(1500)
    vectors[1234, 7] = np.nan
    with pytest.raises(ModelError, match="the head edu gives no finite score for vector 1234"):
        Scorer(heads_of_all_kinds()).score(vectors)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_vector_has_no_score_though_relu_makes_0_of_minus_infinity(value):
    weights = Layer(-np.ones((4, 3), np.float32), np.zeros(4, np.float32))
    head = Head("regression", ("score",), (weights, *layers(4, 1)))
    with pytest.raises(ModelError, match="the head h gives no finite score for vector 1"):
        Scorer({"h": head}).score(np.array([[0, 0, 0], [value, 0, 0]], np.float32))


@pytest.mark.parametrize("shape", [(3, DIM - 1), (DIM,), (3, DIM, 1)])
def test_vectors_of_another_width_are_refused(shape):
    with pytest.raises(ModelError, match=rf"of shape \(N, {DIM}\), found \({shape[0]},"):
        Scorer(heads_of_all_kinds()).score(np.zeros(shape, np.float32))


def test_heads_of_two_widths_are_not_applied_together():
    with pytest.raises(ConfigError, match="of the same width; found {'a': 4, 'b': 5}"):
        Scorer({"a": regression(4, 1), "b": regression(5, 1)})
    with pytest.raises(ConfigError, match="found no heads"):
        Scorer({})


# Whose vectors


KNOWN = dict(IDENTITY.settings) | {"task": "separation", "modules": "Normalize"}


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "dim"])
def test_a_head_of_another_embedder_is_refused_and_both_values_are_named(field):
    found = KNOWN | {field: "other"}
    with pytest.raises(WrongEmbedderError, match=f"{field}: .*trained on '{KNOWN[field]}', these vectors have 'other'"):
        check_identity("edu", EmbedderIdentity(KNOWN), DIM, found, "here")


def test_a_head_of_another_width_is_refused():
    with pytest.raises(WrongEmbedderError, match="the head edu takes vectors of 8 dimensions, here has dim '256'"):
        check_identity("edu", EmbedderIdentity(KNOWN), 8, KNOWN, "here")


def test_a_head_that_does_not_say_whose_it_is_warns_once(caplog):
    identity._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            check_identity("stray", None, DIM, KNOWN, "here")
    assert caplog.text.count("the head stray does not say which embedder it belongs to") == 1


# Files of a head


@pytest.mark.parametrize("name", list(heads_of_all_kinds()))
def test_a_head_comes_back_from_its_files_as_it_was(tmp_path, name):
    head = heads_of_all_kinds()[name]
    probes = some_vectors(3)
    head = dataclasses.replace(head, embedder=EmbedderIdentity(KNOWN, probes), about={"trained_on": "nothing"})
    save_head(head, tmp_path / "a")
    again = load_head(tmp_path / "a")
    save_head(again, tmp_path / "b")
    for file in ("head.json", "head.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (again.kind, again.labels, again.temperature) == (head.kind, head.labels, head.temperature)
    assert again.about == head.about
    assert again.embedder.settings == KNOWN
    np.testing.assert_array_equal(again.embedder.probes, probes)
    assert head_sha256(again) == head_sha256(head)
    assert head_sha256(dataclasses.replace(head, about={})) == head_sha256(head)
    assert head_sha256(dataclasses.replace(head, temperature=3.0)) != head_sha256(head)


def test_altered_weights_are_refused(tmp_path):
    save_head(regression(), tmp_path)
    weights = load_file(tmp_path / "head.safetensors")
    weights["layers.0.bias"][0] += 1
    save_file(weights, tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match=r"checksum mismatch: .*head\.safetensors is not the file that .*head\.json"):
        load_head(tmp_path)


def test_another_head_is_replaced_only_if_that_is_allowed(tmp_path):
    save_head(regression(), tmp_path)
    save_head(regression(), tmp_path)
    with pytest.raises(StaleStageError, match="holds another head"):
        save_head(regression(seed=1), tmp_path)
    assert head_sha256(load_head(tmp_path)) == head_sha256(regression())
    save_head(regression(seed=1), tmp_path, overwrite=True)
    assert head_sha256(load_head(tmp_path)) == head_sha256(regression(seed=1))


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_kill_while_a_head_is_replaced_leaves_one_of_both_or_none(tmp_path, monkeypatch, steps):
    """Any step on the file system may be the last one."""
    save_head(regression(), tmp_path)
    done = []

    def dying(real):
        def step(*args, **kwargs):
            done.append(1)
            if len(done) >= steps:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "unlink"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            save_head(regression(seed=1), tmp_path, overwrite=True)
    try:
        found = head_sha256(load_head(tmp_path))
    except (ModelError, SourceError):
        found = None
    assert found in {None, head_sha256(regression()), head_sha256(regression(seed=1))}
    save_head(regression(seed=1), tmp_path, overwrite=True)
    assert head_sha256(load_head(tmp_path)) == head_sha256(regression(seed=1))


# A corpus


def with_shards(config, rows=40, **embedding):
    changes = {"storage": StorageConfig(shard_rows=rows)}
    return config.model_copy(update=changes | {"embedding": config.embedding.model_copy(update=embedding)})


def columns_of(config, name, split="train"):
    """Of all files, in the order of the manifest."""
    folder = config.scores_dir / name
    manifest = json.loads((folder / "manifest.json").read_text())
    tables = [pq.read_table(folder / shard["file"]) for shard in manifest["splits"][split]["shards"]]
    return {
        column: [value for table in tables for value in table[column].to_pylist()] for column in tables[0].column_names
    }


def tree(config):
    return {
        str(path.relative_to(config.scores_dir)): path.read_bytes()
        for path in sorted(config.scores_dir.rglob("*"))
        if path.is_file() and path.parent.name != ".cache"  # copies for reading, made by who reads
    }


@pytest.mark.parametrize("precision", ["auto", "float16", "int8", "ubinary"])
def test_a_corpus_is_scored_row_by_row(config, precision):
    config = with_shards(config, precision=precision)
    run(config)
    heads = heads_of_all_kinds()
    found = annotate(config, heads)
    assert {split: done.rows for split, done in found.items()} == {"train": 165, "val": 43, "test": 14}
    for split in SPLITS:
        dataset = ELMDataset(config=config, split=split, scores=[])
        vectors = np.concatenate(list(dataset.iter_embeddings()))
        ids = dataset.metadata["text_id"].to_list()
        scores = {}
        for name in heads:
            columns = columns_of(config, name, split)
            assert columns.pop("text_id") == ids
            scores |= columns
        scores = {c: v if isinstance(v[0], str) else np.array(v, np.float32) for c, v in scores.items()}
        assert_by_hand(scores, heads, vectors, atol=1e-4)
        whole = Scorer(heads).score(vectors)
        for column, values in scores.items():
            np.testing.assert_array_equal(np.asarray(values), np.asarray(whole[column]))


def test_a_corpus_with_empty_splits_is_scored(config):
    config = config.model_copy(update={"split": SplitConfig(train_ratio=1, val_ratio=0, test_ratio=0)})
    run(config)
    assert {split: done.rows for split, done in annotate(config, heads_of_all_kinds()).items()} == {
        "train": 222, "val": 0, "test": 0,
    }  # fmt: skip
    empty = ELMDataset(config=config, split="val")
    assert len(empty.filter("edu > 0 and topic_label = 'law'")) == 0
    assert empty.to_hf().num_rows == 0
    assert {"edu", "level_label"} < set(empty.metadata.columns)


def test_finished_work_is_not_done_again(config):
    run(with_shards(config))
    first = annotate(config, {"edu": regression()})
    assert not any(done.skipped for done in first.values())
    before = {path: path.stat().st_mtime_ns for path in config.scores_dir.rglob("*")}
    for overwrite in (False, True):
        again = annotate(config, {"edu": regression()}, overwrite=overwrite)
        assert all(done.skipped for done in again.values())
    assert {path: path.stat().st_mtime_ns for path in config.scores_dir.rglob("*")} == before


def test_a_head_that_is_added_leaves_the_others_files_alone(config):
    run(config)
    annotate(config, {"edu": regression()})
    before = tree(config)
    annotate(config, {"edu": regression(), "more": regression(seed=1)})
    after = tree(config)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)


def test_another_head_of_the_same_name_needs_overwrite(config):
    run(with_shards(config))
    annotate(config, {"edu": regression()})
    before = tree(config)
    with pytest.raises(StaleStageError, match="was made with other settings:\n  head was"):
        annotate(config, {"edu": regression(seed=1)})
    assert tree(config) == before
    annotate(config, {"edu": regression(seed=1)}, overwrite=True)
    replaced = tree(config)
    assert replaced.keys() == before.keys()
    annotate(config, {"fresh": regression(seed=1)})
    assert columns_of(config, "edu")["edu"] == columns_of(config, "fresh")["fresh"]
    assert columns_of(config, "edu")["edu"] != columns_of(config, "fresh")["text_id"]


def test_vectors_in_another_precision_are_other_work(config):
    config = with_shards(config)
    run(config)
    annotate(config, {"edu": regression()})
    other = with_shards(config, precision="ubinary", variant="bits")
    run(other)
    with pytest.raises(StaleStageError, match="precision was 'float32', now 'ubinary'"):
        annotate(other, {"edu": regression()})


def test_paragraphs_in_other_shards_leave_no_old_files(config):
    run(with_shards(config, 40))
    annotate(config, {"edu": regression()})
    (config.scores_dir / "edu" / ".train-00001-of-00005.parquet.tmp").touch()
    run(with_shards(config, 100), overwrite=True)
    annotate(config, {"edu": regression()}, overwrite=True)
    names = {path.name for path in (config.scores_dir / "edu").iterdir()}
    assert names == {
        "manifest.json", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "val.parquet", "test.parquet",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_scores_are_made_again_by_overwrite(config, damage):
    run(with_shards(config))
    annotate(config, {"edu": regression()})
    before = tree(config)
    path = config.scores_dir / "edu" / "train-00001-of-00005.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-100])
    if damage == "remove":
        path.unlink()
    if damage != "flip":  # which only reading every byte finds
        with pytest.raises(StaleStageError, match="are missing or damaged. Pass --overwrite"):
            annotate(config, {"edu": regression()})
    annotate(config, {"edu": regression()}, overwrite=True)
    assert tree(config) == before


def test_a_head_of_other_vectors_scores_nothing(config):
    run(config)
    settings = dict(IDENTITY.settings) | {"revision": "1"}
    head = dataclasses.replace(regression(), embedder=EmbedderIdentity(settings))
    with pytest.raises(WrongEmbedderError, match="revision: the head was trained on '1', these vectors have '2'"):
        annotate(config, {"edu": head})
    with pytest.raises(WrongEmbedderError, match=r"takes vectors of 8 dimensions, .*embeddings has dim '256'"):
        annotate(config, {"edu": regression(8, 1)})
    assert not (config.scores_dir / "edu").exists()


def test_a_corpus_without_vectors_is_not_scored(config):
    from data_pipeline.stages.pipeline import prepare_paragraphs

    prepare_paragraphs(config)
    with pytest.raises(StoreError, match="there are no embeddings for train"):
        annotate(config, {"edu": regression()})


def test_a_row_without_a_finite_score_is_named_and_leaves_no_file(config, monkeypatch):
    from data_pipeline.stages import score as stores

    run(with_shards(config))
    monkeypatch.setattr(stores, "_BLOCK_ROWS", 16)
    blocks = []
    real = Scorer.score

    def spoilt(self, vectors):
        blocks.append(len(vectors))
        vectors = np.array(vectors)
        if len(blocks) == 5:  # the second of the second shard
            vectors[3] = np.nan
        return real(self, vectors)

    monkeypatch.setattr(Scorer, "score", spoilt)
    with pytest.raises(
        ModelError, match=r"train_embeddings-00001-of-00005.*counted from row 16: .*no finite score for vector 3"
    ):
        annotate(config, {"edu": regression()})
    assert [path.name for path in (config.scores_dir / "edu").iterdir()] == ["train-00000-of-00005.parquet"]


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/x", "a\\b", "a\nb", "../edu"])
def test_a_name_that_is_a_path_is_refused(config, name):
    with pytest.raises(ConfigError, match="names a folder: .*must be a plain folder name"):
        annotate(config, {name: regression()})
    assert not config.data_dir.exists()


def test_heads_whose_names_differ_in_case_only_are_refused(config):
    with pytest.raises(ConfigError, match="the heads edu and Edu would share a folder of scores on macOS and Windows"):
        annotate(config, {"edu": regression(), "Edu": regression()})
    assert not config.data_dir.exists()


@pytest.mark.parametrize("name", ["text", "text_id", "token_count", "subject", "embedding"])
def test_a_name_that_the_paragraphs_have_a_column_of_is_refused(config, name):
    run(config)
    with pytest.raises(ConfigError, match=f"have a column {name} already; rename the head"):
        annotate(config, {name: regression()})
    assert not (config.scores_dir / name).exists()


@pytest.mark.posix
def test_two_heads_never_write_the_same_column(config):
    clear, same = regression(labels=("clear", "x")), regression()
    with pytest.raises(ConfigError, match="the heads a and a_clear would both write the column a_clear"):
        annotate(config, {"a": clear, "a_clear": same})
    label = Head("multiclass", ("label", "other"), layers(DIM, 2))
    with pytest.raises(ConfigError, match="give two columns the name topic_label; rename a head or a label"):
        annotate(config, {"topic": label})
    run(config)
    annotate(config, {"a": clear})
    with pytest.raises(ConfigError, match="scores of another head, have a column a_clear already"):
        annotate(config, {"a_clear": same})


# Real kills, in forks of one process that has imported everything

DRIVER = """
import hashlib, json, os, random, shutil, signal, sys
from pathlib import Path
from support import forks
from support.forks import end
import torch
torch.set_num_threads(1)
from data_pipeline.heads.files import load_head
from data_pipeline.stages.score import annotate
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import StoreError
from data_pipeline.config.load import load_config

flags, how = json.loads(sys.argv[1])
config = load_config(None, flags)
scores = config.scores_dir
# One goes on beside the other, whose scores change.
old = {name: load_head(Path(flags["logs_dir"]) / name) for name in ("edu", "topic")}
new = old | {"edu": load_head(Path(flags["logs_dir"]) / "new")}

def fork(work):
    return forks.fork(lambda write: os.write(write, json.dumps(work()).encode()))

def whole(work):
    code, answer = end(*fork(work))
    assert code == 0
    return answer

def job(heads):
    return dying_at(None, heads)

def dying_at(step, heads):
    def work():
        calls = forks.die_at_step(step, "replace", "rename", "fsync", "unlink")
        annotate(config, heads, overwrite=heads is new)
        return calls()
    return work

def seen():
    try:
        return ELMDataset(config=config, scores=["edu"]).metadata["edu"].to_list()
    except StoreError:
        return None

def tree():
    return {str(p.relative_to(scores)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(scores.rglob("*")) if p.is_file() and p.parent.name != ".cache"}

def fresh():
    shutil.rmtree(scores, ignore_errors=True)

forks.import_what_is_imported_by(lambda: (job(old)(), seen()))
fresh()
results = {}
if how == "random":
    steps = whole(dying_at(None, old))
    results["undisturbed"] = whole(tree)
    results["left"], results["trees"] = [], []
    generator = random.Random(0)
    for attempt in range(4):
        fresh()
        for kill in range(3):  # each starts where the one before died
            code, _ = end(*fork(dying_at(generator.randint(2, steps // 2), old)))
            if code == 0:
                break
            results["left"].append(sorted(whole(tree)))
        whole(job(old))
        results["trees"].append(whole(tree))
else:
    whole(job(old))
    before = whole(seen)
    shutil.copytree(scores, scores.parent / "old")
    whole(job(new))
    results = {"old": before, "new": whole(seen), "tree": whole(tree), "steps": []}
    step = 0
    while True:
        step += 1
        fresh()
        shutil.copytree(scores.parent / "old", scores)
        code, _ = end(*fork(dying_at(step, new)))
        found = whole(seen)
        whole(job(new))
        results["steps"].append([code, found, whole(tree)])
        if code != -signal.SIGKILL:
            break
print(json.dumps(results))
"""


@pytest.fixture
def killed(config):
    """What the driver found, over a corpus in several shards."""

    def drive(how, shard_rows):
        run(with_shards(config, shard_rows))
        for name, head in {**heads_of_all_kinds(), "new": regression(seed=5)}.items():
            if name in {"edu", "topic", "new"}:
                save_head(head, config.logs_dir / name)
        flags = {"data_dir": str(config.data_dir), "logs_dir": str(config.logs_dir), "corpus.name": "sample"}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps([flags, how])],
            capture_output=True, text=True, timeout=300,
            env=forks.ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return drive


@pytest.mark.slow
def test_killed_at_random_it_ends_in_the_same_bytes(killed):
    found = killed("random", 30)
    assert len(found["undisturbed"]) == 2 * (1 + 6 + 2 + 1)
    assert found["trees"] == [found["undisturbed"]] * 4
    assert sum(0 < len(left) < len(found["undisturbed"]) for left in found["left"]) >= 3  # kills in the middle


@pytest.mark.slow
def test_killed_before_any_step_of_an_overwrite_no_scores_of_two_heads_are_seen(killed):
    found = killed("step by step", 90)
    assert found["old"] != found["new"]
    codes, seen, trees = zip(*found["steps"], strict=True)
    assert codes[:-1] == (-9,) * (len(codes) - 1)
    assert codes[-1] == 0
    assert len(codes) > 20
    assert all(scores in (None, found["old"], found["new"]) for scores in seen)
    assert seen[0] == found["old"]
    assert seen[-1] == found["new"]
    assert all(each == found["tree"] for each in trees)
