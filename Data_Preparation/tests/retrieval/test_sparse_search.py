"""Sparse search: exact, over the vectors of a dataset or over those made once, and fused with the other lists."""

import logging
import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from support.sparse_models import table_encoder, write_splade

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings.sparse import load as loader
from data_pipeline.embeddings.sparse.encoder import encode_sparse
from data_pipeline.errors import ConfigError, CorruptShardError
from data_pipeline.retrieval.candidates import find_candidates, open_finder
from data_pipeline.retrieval.passages import passages_of_lists, passages_of_rows
from data_pipeline.retrieval.sparse import SparseIndex, open_sparse_index
from data_pipeline.stages.pipeline import make_sparse_corpus, run

pytest.importorskip("scipy.sparse", reason='needs the extra "weak-labels"')

TEXTS = ["a red fox", "the blue whale", "", "red wine and red meat", "whale songs at night", "fox fur", "   "]
QUERIES = ["red fox", "whale", "zzz", "q"]
SPARSE = {"sparse": {"model_name": "table"}}


@pytest.fixture
def encoder(monkeypatch):
    """An encoder without a transformer, which is loaded instead of the one that a config names."""
    found = table_encoder()
    monkeypatch.setattr(loader, "load_sparse_encoder", lambda config: found)
    return found


def passages(texts=TEXTS):
    return passages_of_lists([f"p{row}" for row in range(len(texts))], texts)


def brute_force(encoder, texts, query, k):
    vectors = encode_sparse(encoder, texts).to_dense().astype(np.float64)
    scores = vectors @ encode_sparse(encoder, [query], query=True).to_dense()[0].astype(np.float64)
    order = [row for row in np.argsort(-scores, kind="stable").tolist() if scores[row] > 0 and texts[row].strip()]
    return order[:k], scores


@pytest.mark.parametrize("passage_rows", [1, 3, 1000])
def test_it_is_brute_force(encoder, tmp_path, passage_rows):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefghij"), rng.integers(0, 6))) for _ in range(60)]
    config = CandidateConfig(fusion="sparse", passage_rows=passage_rows, **SPARSE)
    index = open_sparse_index(passages(texts), tmp_path, config)
    for k in (1, 5, 200):
        for query, found in zip(QUERIES, index.search(QUERIES, k), strict=True):
            rows, scores = brute_force(encoder, texts, query, k)
            assert found.rows.tolist() == rows
            np.testing.assert_allclose(found.scores, scores[rows], rtol=1e-6)
    with pytest.raises(ValueError, match="k must be 1 or more"):
        index.search(QUERIES, 0)


def test_the_vectors_are_made_once(encoder, tmp_path, monkeypatch):
    config = CandidateConfig(fusion="sparse", **SPARSE)
    first = open_sparse_index(passages(), tmp_path, config).search(QUERIES, 9)
    (path,) = tmp_path.glob("sparse-*.safetensors")
    monkeypatch.setattr("data_pipeline.retrieval.sparse.embed_to_sparse_file", None)  # it is not called again
    again = open_sparse_index(passages(), tmp_path, config).search(QUERIES, 9)
    assert [found.rows.tolist() for found in first] == [found.rows.tolist() for found in again]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptShardError, match="Delete it; it is made again"):
        open_sparse_index(passages(), tmp_path, config)


def test_it_is_a_third_list(encoder, tmp_path):
    pytest.importorskip("bm25s", reason="needs the extra weak-labels")
    hashing = EmbeddingConfig(model_name="hashing")
    for fusion in ("minmax", "rrf", "sparse"):
        config = CandidateConfig(fusion=fusion, embedding=hashing, **SPARSE)
        for query, found in zip(QUERIES, find_candidates(passages(), QUERIES, config, work_dir=tmp_path), strict=True):
            rows, scores = brute_force(encoder, TEXTS, query, 9)
            in_sparse = {one.row: (one.sparse_rank, one.sparse_score) for one in found if one.sparse_rank}
            assert in_sparse == {row: (rank, pytest.approx(scores[row])) for rank, row in enumerate(rows, start=1)}
            assert any(one.dense_rank for one in found) is (fusion != "sparse")
            if fusion == "sparse":
                assert [one.row for one in found] == rows
    # Words that BM25 does not search for, sparse search does.
    finder = open_finder(passages(), CandidateConfig(embedding=hashing, **SPARSE), work_dir=tmp_path)
    assert finder.reason_for_none("the") == "no_passage_matches"


def test_the_vectors_of_a_dataset_are_used(config, encoder, tmp_path, monkeypatch, caplog):
    run(config)
    sparse = config.sparse.model_copy(update={"model_name": "table"})
    make_sparse_corpus(config.model_copy(update={"sparse": sparse}), ["train"])
    dataset = ELMDataset(config=config)
    rows = dataset.rows.select(np.array([7, 3, 30, 5]))
    settings = CandidateConfig(fusion="sparse", **SPARSE)
    stored = open_sparse_index(passages_of_rows(rows), tmp_path, settings)
    assert not list(tmp_path.glob("sparse-*"))
    own = SparseIndex(lambda index: encode_sparse(encoder, [dataset[[7, 3, 30, 5][row]]["text"] for row in index]),
                      np.zeros(4, bool), encoder)  # fmt: skip
    for left, right in zip(stored.search(QUERIES, 9), own.search(QUERIES, 9), strict=True):
        assert left.rows.tolist() == right.rows.tolist()
        np.testing.assert_allclose(left.scores, right.scores)
    # Those of another model are not.
    monkeypatch.setattr(loader, "load_sparse_encoder", lambda config: table_encoder("another"))
    with caplog.at_level(logging.INFO):
        open_sparse_index(passages_of_rows(rows), tmp_path, settings)
    assert "have model table, the model has another" in caplog.text
    assert list(tmp_path.glob("sparse-*"))
    # Files that belong to other paragraphs are an error.
    monkeypatch.setattr(loader, "load_sparse_encoder", lambda config: encoder)
    shutil.copy(config.data_dir / "sparse" / "train_sparse.safetensors", tmp_path / "kept")
    (config.data_dir / "sparse" / "train_sparse.safetensors").unlink()
    with pytest.raises(Exception, match=r"no such file: .*train_sparse"):
        open_sparse_index(passages_of_rows(ELMDataset(config=config).rows), tmp_path, settings)


def test_a_real_model_is_loaded(tmp_path):
    model = write_splade(tmp_path / "splade")
    config = CandidateConfig(fusion="sparse", sparse={"model_name": str(model), "device": "cpu"})
    (found,) = find_candidates(passages(), ["red fox"], config, work_dir=tmp_path)
    assert found
    assert {2, 6}.isdisjoint(one.row for one in found)  # the empty ones


@pytest.mark.parametrize(("settings", "said"), [
    ({"fusion": "sparse"}, "fusion: sparse needs sparse.model_name"),
    ({"sparse": {}}, "sparse needs a model_name"),
    ({"fusion": "bm25", **SPARSE}, "fusion: bm25 does not use sparse"),
    ({"fusion": "bm25_then_dense", **SPARSE}, "fusion: bm25_then_dense does not use sparse"),
    ({"dense_weight": 0.9, **SPARSE}, r"dense_weight \(0.9\) and sparse_weight \(0.25\) are more than 1 together"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        CandidateConfig(**settings)


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not set"):
        open_sparse_index(passages(), tmp_path, CandidateConfig())


def test_settings_without_sparse_have_the_old_fingerprint():
    assert not {"sparse", "sparse_k", "sparse_weight"} & set(CandidateConfig().deciding())
