import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.config.labels import SamplingConfig, Stratum
from data_pipeline.weak_labels.sampling import sample


def strata(*parts):
    return tuple(Stratum(first=first, last=last, take=take) for first, last, take in parts)


def test_about_25_of_200_the_best_15_among_them():
    found = sample([str(place) for place in range(200)], "q", SamplingConfig())
    assert len(found) == 25
    assert found[:15] == list(range(15))
    assert sum(15 <= place < 40 for place in found) == 6
    assert sum(40 <= place < 100 for place in found) == 4


@given(st.lists(st.integers(0, 12), max_size=120), st.integers(1, 4), st.integers(0, 5), st.text(max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_document_has_more_than_its_share_and_nothing_is_taken_twice(documents, share, seed, query):
    names = [str(document) for document in documents]
    config = SamplingConfig(per_document=share, seed=seed)
    found = sample(names, query, config)
    assert found == sorted(set(found))
    assert all(0 <= place < len(names) for place in found)
    assert len(found) <= 25
    chosen = [names[place] for place in found]
    assert all(chosen.count(name) <= share for name in chosen)
    assert found == sample(names, query, config)


def test_what_one_stratum_lacks_the_next_one_gives():
    # All of the best five are of one document, which may have two.
    documents = ["same"] * 5 + [str(place) for place in range(20)]
    config = SamplingConfig(strata=strata((1, 5, 5), (6, 25, 2)))
    found = sample(documents, "q", config)
    assert found[:2] == [0, 1]
    assert len(found) == 2 + 2 + 3


def test_the_choice_is_of_the_query_and_the_seed_alone():
    documents = [str(place) for place in range(200)]
    config = SamplingConfig()
    assert sample(documents, "a", config) != sample(documents, "b", config)
    assert sample(documents, "a", config) != sample(documents, "a", SamplingConfig(seed=1))
    # The second half of a name is not the first half of another.
    assert sample(documents, "1a", SamplingConfig(seed=0)) != sample(documents, "a", SamplingConfig(seed=1))


def test_random_strata_reach_all_their_ranks_about_equally_often():
    documents = [str(place) for place in range(100)]
    counts = [0] * 100
    for query in range(2000):
        for place in sample(documents, str(query), SamplingConfig()):
            counts[place] += 1
    assert counts[:15] == [2000] * 15
    # 6 of 25 ranks: 480 times each; 4.5 standard deviations of a binomial are 86.
    assert all(abs(count - 480) < 86 for count in counts[15:40])
    assert all(abs(count - 2000 * 4 / 60) < 50 for count in counts[40:])


def test_few_candidates_are_all_taken_and_none_is_none():
    assert sample(["a", "b", "c"], "q", SamplingConfig()) == [0, 1, 2]
    assert sample([], "q", SamplingConfig()) == []


@pytest.mark.parametrize("wrong", [[(5, 2, 1)], [(0, 2, 1)], [(1, 2, -1)], [(1, 5, 1), (5, 9, 1)]])
def test_impossible_strata_are_refused(wrong):
    with pytest.raises(ValidationError):
        SamplingConfig(strata=[{"first": first, "last": last, "take": take} for first, last, take in wrong])
