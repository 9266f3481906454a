import pytest
from support.unspaced_texts import SCRIPTS, text_of

from data_pipeline.utils.words import UNSPACED_BLOCKS, is_unspaced, join_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the  cat\nsat", ["the", "cat", "sat"]),
        ("Ünder GPU加速 x", ["Ünder", "GPU", "加", "速", "x"]),
        ("한국어 단어", ["한국어", "단어"]),  # Korean has spaces
        ("ภาษา", ["ภ", "า", "ษ", "า"]),
        ("", []),
    ],
)
def test_words_are_what_spaces_separate_or_single_characters(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_without_spaces_is_taken_apart(script):
    text = text_of(script, 40, 0)
    assert is_unspaced(text)
    assert split_words(text) == list(text)
    assert join_words(split_words(text)) == text


def test_spaced_text_is_joined_by_single_spaces():
    assert join_words(["the", "cat", "GPU", "加", "速", "x", "y"]) == "the cat GPU加速x y"
    assert join_words([]) == ""


def test_the_blocks_are_in_order_and_do_not_overlap():
    edges = [edge for block in sorted(UNSPACED_BLOCKS) for edge in block]
    assert edges == sorted(edges)
    assert not any(is_unspaced(text) for text in ("Grüße", "עברית", "русский", "العربية", "हिन्दी", "한국어"))
