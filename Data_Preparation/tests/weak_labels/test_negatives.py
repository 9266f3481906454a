import pytest

from data_pipeline.config.labels import NegativesConfig, PositivesConfig
from data_pipeline.judge.base import Judgement
from data_pipeline.weak_labels.negatives import jaccard, mine
from data_pipeline.weak_labels.state import JudgedPair, SampledCandidate

TEXTS = {
    "p1": "The river rises in the mountains and flows north to the sea.",
    "p2": "Bees keep warm in winter by shivering together in a cluster.",
    "copy": "the river rises in the mountains, and flows north to the sea",
    "beside": "Its mouth is a wide delta.",
}


def text_of(passage_id):
    return TEXTS.get(passage_id, f"a text of its own about {passage_id * 5}")


def beside(passage_id):
    return {"p1": ["beside"], "beside": ["p1"]}.get(passage_id, [])


def pair(passage_id, grade=0, dense=0.5, status="ok", p=None, ranks=None):
    judgement = None
    if status is not None:
        judgement = Judgement(status, grade if status == "ok" else None, p=p, reason="" if status == "ok" else "why")
    scores = {} if dense is None else {"dense": dense}
    return JudgedPair(
        "q", "what?", SampledCandidate("q", passage_id, scores, ranks or {"bm25": 1, "dense": 1}), judgement
    )


def mined(*pairs, **settings):
    return mine(pairs, NegativesConfig(**settings), text_of, beside)


def ids(found):
    return [negative.passage_id for negative in found.negatives]


@pytest.mark.parametrize("status", [None, "parse_failed", "refused", "failed", "failed_final"])
def test_what_was_not_judged_or_failed_is_neither_positive_nor_negative(status):
    found = mined(pair("p1", 3, 0.9), pair("x", status=status), pair("y"))
    assert ids(found) == ["y"]
    assert [one.candidate.passage_id for one in found.positives] == ["p1"]


def test_a_negative_scores_clearly_less_than_the_weakest_positive():
    pairs = [pair("p1", 3, 0.9), pair("p2", 2, 0.8), pair("near", 0, 0.761), pair("edge", 0, 0.76), pair("far", 0, 0.1)]
    found = mined(*pairs)
    assert ids(found) == ["edge", "far"]
    assert found.left_out == {"score_near_positive": 1}
    assert ids(mined(*pairs, margin=0.5)) == ["far"]
    assert ids(mined(*pairs, margin=1.0)) == ["near", "edge", "far"]


def test_a_passage_without_the_score_is_no_negative_and_without_positives_there_is_no_margin():
    assert ids(mined(pair("p1", 3, 0.9), pair("x", 0, None))) == []
    assert ids(mined(pair("x", 0, None), pair("y", 0, 0.99))) == ["x", "y"]


def test_copies_and_neighbours_of_positives_are_left_out():
    found = mined(pair("p1", 3, 0.9), pair("copy"), pair("beside"), pair("other"))
    assert ids(found) == ["other"]
    assert found.left_out == {"copy_of_positive": 1, "neighbour_of_positive": 1}


def test_grade_1_is_neither():
    found = mined(pair("p1", 3, 0.9), pair("some", 1, 0.2), pair("x", 0, 0.2))
    assert ids(found) == ["x"]
    assert len(found.positives) == 1
    assert found.left_out == {"partly_relevant": 1}


def test_a_judge_that_was_not_sure_of_its_no_leaves_no_negative():
    found = mined(pair("p1", 3, 0.9), pair("x", 0, 0.2, p=0.6), pair("y", 0, 0.2, p=0.4))
    assert ids(found) == ["y"]
    assert found.left_out == {"judge_unsure": 1}


def test_where_a_negative_comes_from_is_said():
    ranks = {"a": {"bm25": 3, "dense": 9}, "b": {"bm25": 3}, "c": {"dense": 20, "bm25": 21}, "d": {"dense": 50}}
    found = mined(pair("p1", 3, 0.9), *(pair(name, ranks=of) for name, of in ranks.items()))
    assert [negative.kind for negative in found.negatives] == ["both", "bm25", "dense", "further_down"]
    assert [negative.ranks for negative in found.negatives] == list(ranks.values())


def test_at_most_so_many_the_hardest_first_and_short_queries_say_so():
    many = [pair(f"n{number}", 0, 0.5 - number / 100) for number in range(15)]
    found = mined(pair("p1", 3, 0.9), *many)
    assert ids(found) == [f"n{number}" for number in range(10)]
    assert found.missing == 0
    assert mined(pair("p1", 3, 0.9), *many[:3]).missing == 7


def test_positives_come_best_grade_first():
    found = mined(pair("x", 2, 0.9), pair("p1", 3, 0.5), pair("p2", 2, 0.8))
    assert [one.candidate.passage_id for one in found.positives] == ["p1", "x", "p2"]


def test_positives_may_be_few_and_sure_and_negatives_keep_clear_of_all_that_is_relevant():
    pairs = [pair("p1", 3, 0.9, p=0.99), pair("p2", 2, 0.8, p=0.6), pair("p3", 2, 0.5, p=0.9), pair("near", 0, 0.49)]
    found = mine(pairs, NegativesConfig(), text_of, beside, PositivesConfig(per_query=1, min_p=0.75))
    assert [one.candidate.passage_id for one in found.positives] == ["p1"]
    assert found.left_out == {"more_positives": 1, "relevant_but_unsure": 1, "score_near_positive": 1}
    untold = mine([pair("p1", 3)], NegativesConfig(), text_of, beside, PositivesConfig(min_p=0.75))
    assert len(untold.positives) == 1  # a judge that tells no probabilities is not held to one


def test_jaccard_by_hand():
    assert jaccard("abcdef", "abcdef") == 1
    assert jaccard("ABC  def", "abc def") == 1
    assert jaccard("abcdef", "abcdeg") == pytest.approx(1 / 3)  # abcde of abcde, bcdef, bcdeg
    assert jaccard("", "") == 1
    assert jaccard("a", "b") == 0
