import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import PreprocessConfig
from data_pipeline.preprocess import filters
from data_pipeline.preprocess.filters import COUNT_FILTERS, RAW_FILTERS, TEXT_FILTERS, count_reason, quality_reason

# Reasons at their boundaries: a share of exactly the threshold passes, as does the shortest length.
TABLE = [
    # raw text, cleaned text, settings, expected
    ("a good text", "a good text", {}, None),
    ("a <unk> b c", "a b c", {"max_unknown_share": 0.25}, None),
    ("a <unk> b <unk>", "a b", {"max_unknown_share": 0.25}, "too_many_unknowns"),
    ("a <unk> b", "a b", {"max_unknown_share": 0.25}, "too_many_unknowns"),
    ("<unk>", "", {"max_unknown_share": 1}, "too_short"),
    ("a <unk> b c", "a b c", {"max_unknown_share": 0}, "too_many_unknowns"),
    ("x", "1234", {"min_chars": 5}, "too_short"),
    ("x", "abcde", {"min_chars": 5}, None),
    ("x", "éü漢😀", {"min_chars": 4}, None),
    ("x", "", {"min_chars": 0}, "too_short"),
    ("x", "ab,.", {"max_punctuation_share": 0.5}, None),
    ("x", "a b, .;", {"max_punctuation_share": 0.5}, "mostly_punctuation"),
    ("x", "ab.", {"max_punctuation_share": 0}, "mostly_punctuation"),
    ("x", "...", {"max_punctuation_share": 1}, None),
    ("x", "«–»a", {"max_punctuation_share": 0.5}, "mostly_punctuation"),
    ("x", "+=$€a", {"max_punctuation_share": 0.5}, "mostly_punctuation"),
    ("x", "12ab", {"max_digit_share": 0.5}, None),
    ("x", "1 2 3 ab", {"max_digit_share": 0.5}, "mostly_digits"),
    ("x", "١٢٣ab", {"max_digit_share": 0.5}, "mostly_digits"),
    ("x", "²½Ⅷab", {"max_digit_share": 0.5}, None),
    ("x", "1,1,1,", {"max_punctuation_share": 0.4, "max_digit_share": 0.4}, "mostly_punctuation"),
]


@pytest.mark.parametrize(("raw", "text", "thresholds", "expected"), TABLE)
def test_the_reason_to_drop_a_text(raw, text, thresholds, expected):
    assert quality_reason(raw, text, PreprocessConfig(**{"min_chars": 0} | thresholds)) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "too_few_tokens"), (99, "too_few_tokens"), (100, None), (2000, None), (2001, "too_many_tokens")],
)
def test_the_limits_of_tokens_are_inclusive(count, expected):
    assert count_reason(count, PreprocessConfig(min_tokens=100, max_tokens=2000)) == expected


def test_every_filter_is_named_by_its_reason_and_has_one_in_the_table():
    names = [filter_.__name__ for filter_ in (*RAW_FILTERS, *TEXT_FILTERS)]
    assert set(names) == {expected for *_, expected in TABLE} - {None}
    assert [filter_.__name__ for filter_ in COUNT_FILTERS] == ["too_few_tokens", "too_many_tokens"]


def test_with_every_threshold_open_everything_but_nothing_passes():
    config = PreprocessConfig(
        min_chars=0, max_unknown_share=1, max_punctuation_share=1, max_digit_share=1, min_tokens=0, max_tokens=10**9
    )
    assert [quality_reason("x", text, config) for text in ("?", "1", "a", "  ")] == [None] * 4
    assert count_reason(0, config) is None


@given(st.text(max_size=60) | st.text(" \t\n\x1c\x85\u00a0a1.,+$~١²½é漢“”–€😀\u3000", max_size=60))
@settings(deadline=None, max_examples=300)
def test_the_composition_is_that_of_counting_one_by_one(text):
    size = sum(not char.isspace() for char in text)
    punctuation = sum(unicodedata.category(char)[0] in "PS" for char in text)
    digits = sum(unicodedata.category(char) == "Nd" for char in text)
    assert filters._composition(text) == (size, punctuation, digits)


def test_every_character_is_counted_as_what_it_is():
    for start in range(0, 0x20000, 64):
        chars = [chr(c) for c in range(start, start + 64) if not 0xD800 <= c < 0xE000]
        expected = (
            sum(not char.isspace() for char in chars),
            sum(unicodedata.category(char)[0] in "PS" for char in chars),
            sum(unicodedata.category(char) == "Nd" for char in chars),
        )
        assert filters._composition("".join(chars)) == expected, hex(start)
