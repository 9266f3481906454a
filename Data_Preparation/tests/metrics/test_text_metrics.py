import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import MissingExtraError, SelectionError
from data_pipeline.metrics.text_metrics import METRICS, mattr, mtld, text_metrics

PLAIN = ("token_count", "char_count", "type_token_ratio", "avg_word_len", "mtld", "mattr")


def one(text, column):
    return text_metrics([text], [column])[column][0]


def test_words_by_hand():
    text = "The cat — the well-known CAT's friend — sat, 2 times."
    # the cat the well-known cat's friend sat 2 times
    found = text_metrics([text], PLAIN)
    assert list(found) == list(PLAIN)
    assert found["token_count"][0] == 9
    assert found["char_count"][0] == len(text)
    assert found["type_token_ratio"][0] == pytest.approx(8 / 9)
    assert found["avg_word_len"][0] == pytest.approx((3 + 3 + 3 + 10 + 5 + 6 + 3 + 1 + 5) / 9)
    assert found["mattr"][0] == pytest.approx(8 / 9)


def test_readability_by_hand():
    pytest.importorskip("textstat", reason="needs the extra selection")
    found = text_metrics(["The cat sat on the mat. It was very happy today."])
    assert set(found) == set(METRICS)
    assert found["sentence_count"][0] == 2
    assert found["syllable_count"][0] == 6 + 8
    assert found["flesch_reading_ease"][0] == pytest.approx(206.835 - 1.015 * 11 / 2 - 84.6 * 14 / 11)


def test_mtld_by_hand():
    # Forwards and backwards alike: "a a" falls to 0.5, four times.
    assert mtld(["a"] * 8) == 2
    # Forwards: a b c d a b stays at 4/6 < 0.72 at the sixth word, which ends a run; then nothing is left.
    assert mtld(list("abcdab")) == 6
    # Forwards: 5 distinct of 6 words, a rest of (1 - 5/6) / 0.28 of a run; backwards the same.
    assert mtld(list("abcdea")) == pytest.approx(6 / ((1 / 6) / 0.28))
    # Forwards "a a" is a run and b c d e are the start of one; backwards 5 of 6 are distinct.
    assert mtld(list("aabcde")) == pytest.approx((6 / 1 + 6 / ((1 / 6) / 0.28)) / 2)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_mtld_is_finite_and_highest_without_repetition(words):
    assert 1 <= mtld(words) <= mtld([str(number) for number in range(len(words))])


def test_mtld_of_a_text_that_repeats_no_word():
    assert mtld(list("abcdefghi")) == pytest.approx(9 / ((1 / 10) / 0.28))


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=80))
@settings(max_examples=200, deadline=None)
def test_mattr_is_the_mean_over_all_windows(words):
    window = min(25, len(words))
    windows = [words[start : start + window] for start in range(len(words) - window + 1)]
    assert mattr(words) == pytest.approx(np.mean([len(set(some)) / window for some in windows]))


@pytest.mark.parametrize("text", ["", " \n", "...", "— !"])
def test_a_text_without_words_has_zeros(text):
    pytest.importorskip("textstat", reason="needs the extra selection")
    found = text_metrics([text])
    assert found.pop("char_count")[0] == len(text)
    assert all(values[0] == 0 for values in found.values())


@given(st.lists(st.text(max_size=60), max_size=8))
@settings(max_examples=100, deadline=None)
def test_every_text_gets_finite_numbers_of_its_own(texts):
    pytest.importorskip("textstat", reason="needs the extra selection")
    found = text_metrics(texts)
    for name, values in found.items():
        assert values.dtype == np.float64
        assert values.shape == (len(texts),)
        assert np.isfinite(values).all()
        assert values.tolist() == [one(text, name) for text in texts]


def test_an_unknown_metric_is_named():
    with pytest.raises(SelectionError, match="unknown text metric 'readability'; expected one of char_count"):
        text_metrics(["a"], ["readability"])


def test_without_textstat_the_other_metrics_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "textstat", None)
    assert text_metrics(["one two"], PLAIN)["token_count"].tolist() == [2]
    with pytest.raises(MissingExtraError, match=r"elm-data-preparation\[selection\]"):
        text_metrics(["one two"])
