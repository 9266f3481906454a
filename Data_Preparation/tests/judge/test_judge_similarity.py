import asyncio
import itertools
import math

import numpy as np
import pytest
from support.judging import grades, judge_all, make_pairs, quick

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.errors import ConfigError
from data_pipeline.judge import SimilarityJudge, Thresholds, calibrate, load_judge


def brute(cosines, gold, precision):
    """Every cosine tried as a threshold, from the highest down."""
    best, best_f1 = math.inf, -1.0
    for threshold in sorted(set(cosines), reverse=True):
        taken = [yes for cosine, yes in zip(cosines, gold, strict=True) if cosine >= threshold]
        hits = sum(taken)
        if precision is not None:
            if hits / len(taken) >= precision and sum(gold):
                best = threshold
        elif sum(gold) and (f1 := 2 * hits / (len(taken) + sum(gold))) > best_f1:
            best, best_f1 = threshold, f1
    return best


@pytest.mark.parametrize("precision", [None, 0.3, 0.5, 0.8, 1.0])
def test_thresholds_are_those_of_brute_force(precision):
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 25))
        cosines = rng.integers(-5, 6, rows) / 5  # with ties
        gold = rng.integers(0, rng.integers(1, 5), rows)
        raw = [brute(cosines.tolist(), (gold >= grade).tolist(), precision) for grade in (1, 2, 3)]
        expected = list(itertools.accumulate(raw, max))
        found = calibrate(cosines, gold, precision)
        assert [found.one, found.two, found.three] == expected


def test_grades_rise_with_the_cosine():
    found = calibrate([0.9, 0.8, 0.5, 0.4, 0.1, 0.0], [3, 3, 2, 1, 0, 0])
    assert found == Thresholds(0.4, 0.5, 0.8)
    assert [found.grade(cosine) for cosine in (1, 0.8, 0.79, 0.5, 0.4, 0.39, -1)] == [3, 3, 2, 2, 1, 0, 0]
    assert calibrate([0.5, 0.1], [0, 0]) == Thresholds(math.inf, math.inf, math.inf)


@pytest.mark.parametrize(
    ("cosines", "gold", "precision"),
    [
        ([], [], None),
        ([0.1], [1, 2], None),
        ([math.nan], [1], None),
        ([0.1], [4], None),
        ([0.1], [1], 0),
        ([[0.1]], [[1]], 1),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(cosines, gold, precision):
    with pytest.raises(ConfigError):
        calibrate(cosines, gold, precision)
    with pytest.raises(ConfigError, match="must not fall"):
        Thresholds(0.5, 0.4, 0.6)


def test_the_judge_is_the_cosine_and_says_so(tmp_path):
    embedder = HashingEmbedder(EmbeddingConfig(model_name="hashing"))
    pairs = make_pairs(6, 5)
    cosines = [
        float(encode(embedder, [pair.query], query=True)[0].astype(float) @ encode(embedder, [pair.passage])[0])
        for pair in pairs
    ]
    thresholds = Thresholds(*np.quantile(cosines, [0.25, 0.5, 0.75]).tolist())
    config = quick(judge="similarity")
    judge = load_judge(config, embedder, thresholds)
    summary, found = judge_all(tmp_path / "s.db", pairs, judge, config)
    assert list(grades(found).values()) == [thresholds.grade(cosine) for cosine in cosines]
    assert [float(one.judgement.answer) for one in found] == pytest.approx(cosines, abs=1e-5)
    assert {(one.judgement.p, one.judgement.confidence) for one in found} == {(None, None)}
    assert "no LLM" in judge.name
    assert judge.identity.model == "similarity"
    again, _ = judge_all(tmp_path / "s.db", pairs, load_judge(config, embedder, thresholds), config)
    assert (summary.calls, again.calls) == (30, 0)
    other, _ = judge_all(tmp_path / "s.db", pairs, load_judge(config, embedder, Thresholds(0, 0, 0)), config)
    assert other.calls == 30


def test_waiting_pairs_are_embedded_together():
    sizes = []

    def embed(texts):
        sizes.append(len(texts))
        return np.ones((len(texts), 1), np.float32)

    async def run():
        judge = SimilarityJudge(embed, embed, Thresholds(0, 0, 0), "e")
        found = await asyncio.gather(*(judge.judge("q", f"p{i}") for i in range(50)))
        return {one.grade for one in found}

    assert asyncio.run(run()) == {3}
    assert sum(sizes) <= 2 * 1 + 50
    assert len(sizes) <= 4


def test_an_error_of_the_embedder_reaches_all_who_wait():
    def fails(texts):
        raise RuntimeError("no vectors")

    async def run():
        judge = SimilarityJudge(fails, fails, Thresholds(0, 0, 0), "e")
        return await asyncio.wait_for(
            asyncio.gather(*(judge.judge("q", str(i)) for i in range(3)), return_exceptions=True), 5
        )

    assert {str(error) for error in asyncio.run(run())} == {"no vectors"}


def test_it_needs_vectors_of_length_one_and_thresholds():
    embedder = HashingEmbedder(EmbeddingConfig(model_name="hashing", normalize=False))
    with pytest.raises(ConfigError, match="length 1"):
        load_judge(quick(judge="similarity"), embedder, Thresholds(0, 0, 0))
    with pytest.raises(ConfigError, match="needs an embedder"):
        load_judge(quick(judge="similarity"))
