import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from data_pipeline.config import EmbeddingConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.errors import ConfigError, CorruptShardError, ShardMismatchError
from data_pipeline.retrieval.dense import DenseIndex
from data_pipeline.retrieval.passage_vectors import PassageVectors, vectors_of
from data_pipeline.retrieval.passages import passages_of_lists, passages_of_rows
from data_pipeline.stages.pipeline import run

HASHING = EmbeddingConfig(model_name="hashing")


class CountingEmbedder(HashingEmbedder):
    """Counts the texts it computes, and fails when it has been given enough."""

    def __init__(self, config=HASHING, enough=10**9):
        super().__init__(config)
        self.enough, self.texts = enough, 0

    def forward(self, texts, dtype=None):
        if self.texts + len(texts) > self.enough:
            raise KeyboardInterrupt
        self.texts += len(texts)
        return super().forward(texts, dtype)


def index_of(vectors, is_empty=None, **settings):
    stored = PassageVectors(*vectors.shape, "test", lambda rows: vectors[rows], HashingEmbedder(HASHING))
    return DenseIndex(stored, np.zeros(len(vectors), bool) if is_empty is None else is_empty, **settings)


def brute_force(vectors, query, k, measure="cosine", is_empty=()):
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    scores = (vectors * query).sum(axis=1)
    if measure == "cosine":
        lengths = np.sqrt((vectors * vectors).sum(axis=1)) * np.linalg.norm(query)
        scores = scores / np.where(lengths > 0, lengths, 1)
    order = sorted((row for row in range(len(vectors)) if row not in is_empty), key=lambda row: (-scores[row], row))
    return order[:k], scores[order[:k]]


@pytest.mark.parametrize("measure", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_is_brute_force(measure, dtype):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 24)) * rng.uniform(0.1, 9, (500, 1))).astype(dtype)
    queries = rng.normal(size=(7, 24)).astype(np.float32)
    for rows in (7, 64, 16_384):
        for k in (1, 10, 499, 500, 9000):
            lists = index_of(vectors, measure=measure, passage_rows=rows).search(queries, k)
            for query, found in zip(queries, lists, strict=True):
                expected, scores = brute_force(vectors, query, k, measure)
                assert found.rows.tolist() == expected
                np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 13, 100, 1000])
def test_equal_vectors_come_in_passage_order_wherever_they_lie(rows):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 384)).astype(np.float32)[rng.integers(0, 40, 2000)]
    queries = rng.normal(size=(3, 384)).astype(np.float32)
    for k in (1, 25, 60, 777):
        for query, found in zip(queries, index_of(vectors, passage_rows=rows).search(queries, k), strict=True):
            assert found.rows.tolist() == brute_force(vectors, query, k)[0]


def test_what_float32_gets_wrong_is_put_right():
    """In float32, 1e8 + 13 is 1e8 + 16, so a product's terms cancel to another number in another order."""
    rng = np.random.default_rng(3)
    vectors = np.array([rng.permutation([x, 1e8, -1e8]) for x in rng.uniform(0, 60, 400)], np.float32)
    query = np.ones((1, 3), np.float32)
    for k in (1, 5, 50):
        for rows in (9, 1000):
            found = index_of(vectors, measure="dot", passage_rows=rows).search(query, k)[0]
            assert found.rows.tolist() == brute_force(vectors, query[0], k, "dot")[0]


def test_thousands_of_equal_vectors_do_not_pile_up():
    vectors = np.ones((60_000, 8), np.float32)
    vectors[50_000] = [1, 1, 1, 1, 1, 1, 1, 2]
    queries = np.tile(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.float32), (20, 1))
    tracemalloc.start()
    lists = index_of(vectors, passage_rows=1000).search(queries, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(found.rows.tolist() == [50_000, 0, 1, 2, 3] for found in lists)
    assert peak < 5e6  # all of them would be 14 MB


def test_memory_does_not_grow_with_the_passages():
    peaks = []
    for rows in (20_000, 80_000):
        vectors = np.random.default_rng(0).normal(size=(rows, 32)).astype(np.float32)
        tracemalloc.start()
        index_of(vectors, passage_rows=4096).search(np.eye(32, dtype=np.float32), 20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_empty_passages_are_never_found():
    vectors = np.eye(4, dtype=np.float32)
    empty = np.array([True, False, False, True])
    index = index_of(vectors, empty)
    assert index.search(vectors[:1], 9)[0].rows.tolist() == [1, 2]
    assert index.score(vectors[0], np.array([3, 2, 0])).rows.tolist() == [2]
    assert index.score(vectors[0], np.array([0], np.int64)).rows.tolist() == []
    assert index_of(vectors, np.ones(4, bool)).search(vectors[:1], 9)[0].rows.tolist() == []


def test_some_passages_alone_have_the_same_scores():
    vectors = np.random.default_rng(2).normal(size=(50, 16)).astype(np.float32)
    whole = index_of(vectors).search(vectors[:1], 50)[0]
    some = index_of(vectors).score(vectors[0], np.array([40, 3, 17]))
    scores = dict(zip(whole.rows.tolist(), whole.scores.tolist(), strict=True))
    assert [scores[row] for row in some.rows.tolist()] == some.scores.tolist()
    assert some.scores.tolist() == sorted(some.scores.tolist(), reverse=True)


def test_what_is_no_vector_is_named():
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match=r"shape \(queries, 4\), got \(1, 3\)"):
        index_of(vectors).search(np.ones((1, 3)), 2)
    for bad in (np.nan, 0):
        with pytest.raises(ValueError, match="query 1 has no direction"):
            index_of(vectors).search(np.array([[1, 1, 1, 1], [bad] * 4]), 2)
    with pytest.raises(ValueError, match="k must be 1 or more"):
        index_of(vectors).search(vectors, 0)
    vectors[2, 1] = np.nan
    with pytest.raises(CorruptShardError, match="row 2 is not finite"):
        index_of(vectors, passage_rows=2).search(np.ones((1, 4)), 2)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "float8", "ubinary"])
def test_stores_of_every_precision(config, precision):
    config = config.model_copy(update={"embedding": config.embedding.model_copy(update={"precision": precision})})
    run(config)
    dataset = ELMDataset(config=config)
    passages = passages_of_rows(dataset.rows)
    embedder = CountingEmbedder()
    vectors = vectors_of(passages, config.data_dir / "work", embedder=embedder)
    index = DenseIndex(vectors, passages.is_empty, passage_rows=50)
    queries = encode(HashingEmbedder(HASHING), ["the war in the north", "a song"], query=True)
    for query, found in zip(queries, index.search(index.encode(["the war in the north", "a song"]), 30), strict=True):
        assert found.rows.tolist() == brute_force(dataset.to_numpy(), query, 30)[0]
    assert embedder.texts == 2  # the queries: the passages' vectors are the store's
    assert not (config.data_dir / "work").exists()


def test_a_view_of_a_store_has_its_rows(config):
    run(config)
    dataset = ELMDataset(config=config).select([9, 4, 60, 2])
    passages = passages_of_rows(dataset.rows)
    vectors = vectors_of(passages, config.data_dir)
    query = dataset.to_numpy()[2:3]
    assert DenseIndex(vectors, passages.is_empty).search(query, 1)[0].rows.tolist() == [2]
    assert vectors.embedder.identity.model == "hashing"  # the store's own, loaded by its name


def test_another_embedder_than_the_stores_is_refused(config):
    run(config)
    passages = passages_of_rows(ELMDataset(config=config).rows)
    with pytest.raises(ShardMismatchError, match="were made with dim '256', the embedder for the queries has '64'"):
        vectors_of(passages, config.data_dir, EmbeddingConfig(model_name="hashing", dim=64))


def test_queries_get_the_query_prompt():
    embedder = HashingEmbedder(EmbeddingConfig(model_name="hashing", query_prompt="find: ", prompt="text: "))
    passages = passages_of_lists(["a"], ["x"])
    stored = PassageVectors(1, 256, "test", lambda rows: np.ones((1, 256), np.float32), embedder)
    found = DenseIndex(stored, passages.is_empty).encode(["some words"])
    plain = HashingEmbedder(HASHING)
    np.testing.assert_array_equal(found, encode(plain, ["find: some words"]))


def numbered(count):
    return passages_of_lists([f"p{row}" for row in range(count)], [f"text number {row}" for row in range(count)])


def test_vectors_are_made_once_with_the_document_prompt(tmp_path):
    embedder = CountingEmbedder(EmbeddingConfig(model_name="hashing", prompt="text: "))
    passages = passages_of_lists(["a", "b", "c", "d"], ["x", "", "y z", "x"])
    vectors = vectors_of(passages, tmp_path, embedder=embedder)
    assert embedder.texts == 2  # identical texts once, the empty one never
    expected = encode(HashingEmbedder(HASHING), ["text: x", "text: y z", "text: x"])
    found = vectors.read(np.arange(4))
    np.testing.assert_array_equal(found[[0, 2, 3]], expected)
    assert not found[1].any()
    vectors_of(passages, tmp_path, embedder=embedder)
    assert embedder.texts == 2
    vectors_of(passages_of_lists(["a", "b", "c", "e"], ["x", "", "y z", "x"]), tmp_path, embedder=embedder)
    assert embedder.texts == 4  # other passages
    vectors_of(passages, tmp_path, embedder=(other := CountingEmbedder()))
    assert other.texts == 2  # another model
    with pytest.raises(ConfigError, match="no embedder is named"):
        vectors_of(passages, tmp_path)


def test_an_interrupted_run_goes_on(tmp_path):
    passages = numbered(300)
    settings = EmbeddingConfig(model_name="hashing", batch_size=20)
    first = CountingEmbedder(enough=130)
    with pytest.raises(KeyboardInterrupt):
        vectors_of(passages, tmp_path, settings, first)
    second = CountingEmbedder()
    vectors = vectors_of(passages, tmp_path, settings, second)
    assert first.texts + second.texts <= 300 + 2 * 20  # what was in flight
    assert second.texts < 300
    np.testing.assert_array_equal(vectors.read(np.arange(300)), encode(HashingEmbedder(HASHING), passages.texts()))
    assert [path.suffix for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [".safetensors"]


def test_a_damaged_file_of_vectors_is_named(tmp_path):
    passages = numbered(10)
    vectors_of(passages, tmp_path, HASHING)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptShardError, match="Delete it"):
        vectors_of(passages, tmp_path, HASHING)


KILLED = """
import os, signal, sys
from pathlib import Path
from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.retrieval.passage_vectors import vectors_of
from data_pipeline.retrieval.passages import passages_of_lists
real, left = HashingEmbedder.forward, [8]
def forward(self, texts, dtype=None):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, texts, dtype)
HashingEmbedder.forward = forward
passages = passages_of_lists([f"p{row}" for row in range(300)], [f"text number {row}" for row in range(300)])
vectors_of(passages, Path(sys.argv[1]), EmbeddingConfig(model_name="hashing", batch_size=20, flush_s=1e-9))
"""


@pytest.mark.posix
def test_a_killed_run_goes_on(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False, timeout=120
    )
    assert result.returncode == -9, result.stderr
    embedder = CountingEmbedder()
    vectors = vectors_of(numbered(300), tmp_path, EmbeddingConfig(model_name="hashing", batch_size=20), embedder)
    assert embedder.texts <= 300 - 20 * 3
    np.testing.assert_array_equal(vectors.read(np.arange(300)), encode(HashingEmbedder(HASHING), numbered(300).texts()))
