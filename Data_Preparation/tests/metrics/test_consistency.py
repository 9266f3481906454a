from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import ModelError
from data_pipeline.metrics.consistency import ConsistencyMeasureConfig, changed_copies, consistency

DEFAULT = ConsistencyMeasureConfig()


def first_word(texts):
    return np.array([len(text.split()[0]) if text.split() else 0 for text in texts])


def test_the_share_of_copies_that_keep_the_label():
    seen = []

    def predict(texts):
        seen.extend(texts)
        return first_word(texts)

    texts = ["a bb ccc dddd eeeee", "one two six ten", "word"]
    found = consistency(texts, predict, DEFAULT)
    assert list(found) == ["consistency"]
    for text, value in zip(texts, found["consistency"], strict=True):
        own = first_word([text])[0]
        assert value == np.mean([first_word([copy])[0] == own for copy in changed_copies(text, DEFAULT)])
    assert 0 < found["consistency"][0] < 1
    assert found["consistency"][1:].tolist() == [1, 1]
    assert len(seen) == len(set(seen))  # nothing is classified twice


def test_a_steady_classifier_keeps_everything_and_a_capricious_one_nothing():
    texts = [f"some words number {row} and several more" for row in range(30)]
    assert (consistency(texts, lambda some: np.zeros(len(some), int), DEFAULT)["consistency"] == 1).all()
    capricious = consistency(texts, lambda some: np.array([int(text in texts) for text in some]), DEFAULT)
    assert capricious["consistency"].mean() < 0.2  # a copy may be the text again


@given(st.lists(st.sampled_from(["a", "b", "c", "dd", "e-e", "ü"]), min_size=1, max_size=30), st.floats(0.01, 0.9))
@settings(max_examples=100, deadline=None)
def test_deleted_swapped_and_repeated_words(words, share):
    config = ConsistencyMeasureConfig(copies=6, share=share)
    before = Counter(words)
    count = max(1, int(share * len(words)))
    for number, copy in enumerate(changed_copies(" ".join(words), config)):
        after = Counter(copy.split())
        if number % 3 == 0:
            assert after <= before
            assert after
        elif number % 3 == 1:
            assert after == before
        else:
            assert after >= before
            assert after.total() == len(words) + count
            assert set(after) == set(words)


def test_copies_are_of_the_text_and_the_seed_alone():
    texts = [f"this is the text of number {row}" for row in range(700)]
    label = lambda some: np.array([hash(text) % 2 for text in some])  # noqa: E731
    forwards = consistency(texts, label, DEFAULT)["consistency"]
    backwards = consistency(texts[::-1], label, DEFAULT)["consistency"]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert consistency(texts[5:6], label, DEFAULT)["consistency"][0] == forwards[5]
    assert changed_copies(texts[0], DEFAULT) != changed_copies(texts[0], ConsistencyMeasureConfig(seed=1))


def test_texts_of_one_length_are_changed_in_different_ways():
    texts = [" ".join(f"{letter}{number}" for number in range(40)) for letter in "ab"]
    one, other = (["".join(filter(str.isdigit, copy)) for copy in changed_copies(text, DEFAULT)] for text in texts)
    assert not set(one) & set(other)


def test_words_are_deleted_with_the_probability_asked_for():
    text = " ".join(f"w{number}" for number in range(1000))
    config = ConsistencyMeasureConfig(copies=30, share=0.1)
    lengths = [len(copy.split()) for copy in changed_copies(text, config)[::3]]
    assert abs(np.mean(lengths) - 900) < 12  # 4 standard deviations of a mean of ten binomials


def test_an_empty_text_has_no_copy_that_differs():
    assert changed_copies(" ", DEFAULT) == [" "] * 9
    assert consistency(["", " "], first_word, DEFAULT)["consistency"].tolist() == [1, 1]
    assert consistency([], first_word, DEFAULT)["consistency"].tolist() == []


@pytest.mark.parametrize("wrong", [lambda some: np.zeros((len(some), 2), int), lambda some: np.zeros(len(some))])
def test_a_classifier_must_give_numbers_of_classes(wrong):
    with pytest.raises(ModelError, match="expected one whole number per text"):
        consistency(["a b"], wrong, DEFAULT)
