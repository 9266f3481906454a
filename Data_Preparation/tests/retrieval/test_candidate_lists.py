import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import data_pipeline.retrieval as package
from data_pipeline.config import EmbeddingConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings import HashingEmbedder
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.retrieval.candidates import Candidate, CandidateConfig, find_candidates, open_finder
from data_pipeline.retrieval.fusion import Lists, fuse_min_max, fuse_reciprocal_ranks, rerank_by_dense, take_first
from data_pipeline.retrieval.passages import passages_of_lists, passages_of_rows
from data_pipeline.retrieval.ranked_list import RankedList
from data_pipeline.stages.pipeline import run

pytest.importorskip("bm25s", reason="needs the extra weak-labels")

HASHING = EmbeddingConfig(model_name="hashing")
TEXTS = ["a red fox", "the blue whale", "", "red wine and red meat", "whale songs at night", "fox fur"]


def ranked(*pairs):
    return RankedList(
        np.array([row for row, _ in pairs], np.int64), np.array([score for _, score in pairs], np.float32)
    )


def brief(found):
    return [(candidate.row, pytest.approx(candidate.score)) for candidate in found]


BM25 = ranked((4, 8.0), (1, 5.0), (9, 4.0))
DENSE = ranked((9, 0.9), (4, 0.5), (2, 0.4))
BOTH = Lists(BM25, DENSE)
THREE = Lists(BM25, DENSE, ranked((2, 30.0), (4, 20.0), (7, 10.0)))


def test_min_max_by_hand():
    found = fuse_min_max(BOTH, (0.5, 0.5, 0.0), 10)
    assert brief(found) == [(4, 0.5 + 0.1), (9, 0.5), (1, 0.125), (2, 0.0)]
    assert [candidate.rank for candidate in found] == [1, 2, 3, 4]
    assert found[0] == Candidate(4, 1, found[0].score, 8.0, 1, 0.5, 2)
    assert found[2] == Candidate(1, 3, 0.125, 5.0, 2, None, None)
    assert (found[3].bm25_score, found[3].bm25_rank, found[3].dense_rank) == (None, None, 3)
    assert brief(fuse_min_max(BOTH, (0.0, 1.0, 0.0), 2)) == [(9, 1.0), (4, 0.2)]
    assert brief(fuse_min_max(Lists(BM25), (0.5, 0.5, 0.0), 9)) == [(4, 0.5), (1, 0.125), (9, 0.0)]
    assert brief(fuse_min_max(Lists(ranked((3, 2.0), (7, 2.0))), (0.5, 0.5, 0.0), 9)) == [(3, 0.5), (7, 0.5)]
    assert fuse_min_max(Lists(), (0.5, 0.5, 0.0), 9) == []


def test_reciprocal_ranks_by_hand():
    found = fuse_reciprocal_ranks(BOTH, 60, 10)
    assert brief(found) == [(4, 1 / 61 + 1 / 62), (9, 1 / 63 + 1 / 61), (1, 1 / 62), (2, 1 / 63)]
    tied = fuse_reciprocal_ranks(Lists(ranked((8, 3.0)), ranked((5, 0.1))), 60, 10)
    assert [candidate.row for candidate in tied] == [5, 8]  # equal: in passage order


def test_the_older_order_by_hand():
    found = rerank_by_dense(BOTH, 10)
    assert [(candidate.row, candidate.bm25_rank, candidate.dense_rank) for candidate in found] == [
        (9, 3, 1), (4, 1, 2), (1, 2, None),
    ]  # fmt: skip
    assert [candidate.row for candidate in rerank_by_dense(BOTH, 1)] == [9]
    assert rerank_by_dense(Lists(dense=DENSE), 5) == []


def test_one_list_alone():
    assert brief(take_first(BOTH, "bm25", 2)) == [(4, 8.0), (1, 5.0)]
    assert brief(take_first(BOTH, "dense", 2)) == [(9, 0.9), (4, 0.5)]
    assert take_first(BOTH, "bm25", 2)[0].dense_rank is None
    assert take_first(BOTH, "dense", 2)[0].bm25_rank is None


def test_three_lists_by_hand():
    found = fuse_min_max(THREE, (0.25, 0.5, 0.25), 10)
    assert brief(found) == [(9, 0.5), (4, 0.25 + 0.1 + 0.125), (2, 0.25), (1, 0.0625), (7, 0.0)]
    assert found[1] == Candidate(4, 2, found[1].score, 8.0, 1, 0.5, 2, 20.0, 2)
    assert (found[4].bm25_rank, found[4].dense_rank, found[4].sparse_score, found[4].sparse_rank) == (None, None, 10, 3)
    found = fuse_reciprocal_ranks(THREE, 60, 2)
    assert brief(found) == [(4, 1 / 61 + 1 / 62 + 1 / 62), (2, 1 / 63 + 1 / 61)]
    assert brief(take_first(THREE, "sparse", 1)) == [(2, 30.0)]


def small():
    return passages_of_lists([f"p{row}" for row in range(len(TEXTS))], TEXTS)


def found(tmp_path, queries, passages=None, **settings):
    passages = small() if passages is None else passages
    return list(find_candidates(passages, queries, CandidateConfig(embedding=HASHING, **settings), work_dir=tmp_path))


@pytest.mark.parametrize("fusion", ["minmax", "rrf", "bm25_then_dense", "bm25", "dense"])
def test_more_is_asked_for_than_there_is(tmp_path, fusion):
    lists = found(tmp_path, ["red fox", "whale", "zebra"], fusion=fusion)
    assert len(lists) == 3
    for one in lists:
        assert [candidate.rank for candidate in one] == list(range(1, len(one) + 1))
        assert [candidate.score for candidate in one] == sorted((candidate.score for candidate in one), reverse=True)
        assert 2 not in [candidate.row for candidate in one]  # the empty passage
    assert lists[0][0].row == 0
    if fusion in ("bm25", "bm25_then_dense"):
        assert {candidate.row for candidate in lists[0]} == {0, 3, 5}
        assert lists[2] == []
    else:
        assert {candidate.row for candidate in lists[2]} == {0, 1, 3, 4, 5}
        assert all(candidate.bm25_rank is None for candidate in lists[2])


def test_dense_search_finds_what_bm25_does_not(tmp_path):
    """The older order intersected the two lists, or ranked BM25's alone."""
    whole = found(tmp_path, ["blue whale"], fusion="minmax")[0]
    assert {candidate.row for candidate in whole} > {candidate.row for candidate in whole if candidate.bm25_rank}


def test_the_number_of_queries_at_a_time_does_not_matter(tmp_path):
    queries = ["red fox", "whale at night", "zebra", "red", "the blue"] * 3
    expected = found(tmp_path, queries)
    for rows in (1, 4, 15):
        assert found(tmp_path, queries, query_rows=rows, passage_rows=2) == expected


def test_no_passage_is_embedded_twice(tmp_path, monkeypatch):
    counts = []
    real = HashingEmbedder.forward
    monkeypatch.setattr(
        HashingEmbedder, "forward", lambda self, texts, dtype=None: counts.append(len(texts)) or real(self, texts)
    )
    found(tmp_path, ["red fox", "whale"], query_rows=1)
    assert sum(counts) == len(TEXTS) - 1 + 2
    found(tmp_path, ["red fox", "whale"])
    assert sum(counts) == len(TEXTS) - 1 + 4
    found(tmp_path, ["red fox"], fusion="bm25")
    assert sum(counts) == len(TEXTS) - 1 + 4


def test_our_own_store_end_to_end(config, tmp_path):
    run(config)
    dataset = ELMDataset(config=config)
    passages = passages_of_rows(dataset.rows)
    work = tmp_path / "work"
    finder = open_finder(passages, CandidateConfig(top_k=5), work_dir=work)
    for row in (0, 40, 100):
        assert next(finder.find([dataset[row]["text"]]))[0].row == row
    assert [path.name for path in work.iterdir() if path.is_dir()] == ["bm25"]
    no_vectors = passages_of_rows(ELMDataset(config=config, load_embeddings=False).rows)
    assert next(find_candidates(no_vectors, ["war"], CandidateConfig(fusion="bm25"), work_dir=work))
    with pytest.raises(ConfigError, match="use fusion: bm25"):
        open_finder(no_vectors, work_dir=work)


def test_half_a_surrogate_pair_stops_nothing(tmp_path):
    broken = passages_of_lists(["a"], ["red \ud800 fox"])
    assert [candidate.row for candidate in found(tmp_path, ["fox \udfff"], broken)[0]] == [0]


def test_the_index_follows_the_passages(tmp_path):
    """The older index was loaded again whatever had become of passages, k1 and b."""
    assert found(tmp_path, ["zebra"], fusion="bm25") == [[]]
    changed = passages_of_lists([f"p{row}" for row in range(len(TEXTS))], [*TEXTS[:-1], "zebra"])
    assert [candidate.row for candidate in found(tmp_path, ["zebra"], changed, fusion="bm25")[0]] == [5]
    weak, strong = (found(tmp_path, ["red"], fusion="bm25", k1=k1)[0] for k1 in (0.1, 3.0))
    assert weak[0].score != strong[0].score


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"query 1 \(counted from 0\) is empty"):
        found(tmp_path, ["red", " \n"])
    with pytest.raises(SourceError, match="no passages"):
        found(tmp_path, ["red"], passages_of_lists([], []))
    for settings in ({"b": 1.5}, {"k1": -1}, {"top_k": 0}, {"fusion": "mean"}, {"dense_weight": 2}, {"topk": 3}):
        with pytest.raises(ValidationError):
            CandidateConfig(**settings)


def test_every_setting_is_read():
    """The older config had ten that nothing read."""
    names = ("candidates", "bm25", "dense", "passage_vectors", "fusion", "tokenizer")
    source = "".join((Path(package.__path__[0]) / f"{name}.py").read_text() for name in names)
    for name in CandidateConfig.model_fields:
        assert f"config.{name}" in source, name


def test_looking_up_many_ids_is_quick():
    """The older agent asked `id in list` and `list.index` for each of 200 candidates."""
    ids = [f"passage-{row}" for row in range(200_000)]
    passages = passages_of_lists(ids, [""] * len(ids))
    rows = np.random.default_rng(0).integers(0, len(ids), 2000)
    started = time.perf_counter()
    assert passages.rows_of(passages.ids(rows)).tolist() == rows.tolist()
    assert time.perf_counter() - started < 1
