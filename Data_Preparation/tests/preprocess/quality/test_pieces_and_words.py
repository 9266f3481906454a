import itertools
import random
import sys

import pytest
import spacy
from support.peer_filters import hostile_texts

from data_pipeline.errors import MissingExtraError
from data_pipeline.preprocess.quality import words as words_module
from data_pipeline.preprocess.quality.c4 import count_sentences
from data_pipeline.preprocess.quality.pieces import EnglishTokenizer, readable
from data_pipeline.preprocess.quality.punctuation import PUNCTUATION, TERMINAL
from data_pipeline.preprocess.quality.words import WordTable


@pytest.fixture(scope="module")
def tokenizer():
    return EnglishTokenizer()


@pytest.fixture(scope="module")
def whole():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    return nlp


def words_of(nlp, text):
    return [token.text for token in nlp.tokenizer(text) if not token.text.isspace()]


def test_pieces_have_the_tokens_of_spacy(tokenizer, whole):
    cores = [
        "word", "W", "a", "b", "don", "he", "10", "8", "1,000", "3.5", "1947–1950", "15th", "1990s", "well-known",
        "10-point", "A-B", "é", "été", "Ñandú", "can", "cannot", "Mr", "a-m", "x", "D", "o", "P", "US", "No", "km",
        "Im",
    ]  # fmt: skip
    openings = ["", "(", '"', "'", "[", '("', "$", "£", "($"]
    marks = ',;:?!)]".'
    closings = ["".join(part) for size in range(4) for part in itertools.product(marks, repeat=size)]
    rng = random.Random(5)
    pieces = [
        o + core + s + c for core in cores for o in openings for s in ("", "'s") for c in rng.sample(closings, 25)
    ]
    plain = 0
    for piece in pieces:
        plain += tokenizer._plain_tokens(piece) is not None
        assert tokenizer.tokenize(piece)[0] == words_of(whole, piece), piece
    assert plain > len(pieces) / 3


def test_latin_letters_are_plain(tokenizer, whole):
    for letter in map(chr, range(0xC0, 0x180)):
        for piece in (letter, f"a{letter}", f"{letter}b", f"a-{letter}", f"({letter}),", f"{letter}."):
            assert tokenizer.tokenize(piece)[0] == words_of(whole, piece), piece


def test_special_cases_of_neighbours(tokenizer, whole):
    # `:)` is a smiley, unless `: (` before it is part of a longer sequence; 8 and - and ) are one too.
    parts = [
        "word):",
        ")",
        "(",
        ":",
        ":)",
        "8",
        "-",
        "8-)",
        "in):",
        "a.m",
        ".",
        "Mr",
        "x,Mr.",
        "'",
        "-)",
        "o.",
        "(:",
        ";",
    ]
    rng = random.Random(2)
    table = WordTable(tokenizer)
    texts = [" ".join(rng.choices(parts, k=6)) for _ in range(2000)]
    read = table.read(texts)
    for row, text in enumerate(texts):
        assert read.of_text(row) == words_of(whole, text), text
        assert count_sentences(text, table) == max(1, len(list(whole(text).sents))), text


def test_words_and_sentences_of_hostile_texts(tokenizer, whole):
    table = WordTable(tokenizer)
    texts = hostile_texts(200, seed=11)
    read = table.read(texts)
    for row, text in enumerate(texts):
        assert read.of_text(row) == words_of(whole, text), text
        assert "".join(read.of_text(row)) == read.joined_texts[row]
        line = " ".join(text.split("\n")).rstrip()
        if line:
            sentences = len(list(whole(line).sents))
            assert count_sentences(line, table) == sentences, line
            assert (count_sentences(line, table, enough=5) >= 5) == (sentences >= 5)


def test_the_table_forgets_words_when_it_has_too_many(tokenizer, monkeypatch):
    table = WordTable(tokenizer)
    first = table.read(["one two three"])
    monkeypatch.setattr(words_module, "_MAX_PIECES", 2)
    second = table.read(["four five"])
    assert len(table) == 2
    assert second.of_text(0) == ["four", "five"]
    assert first.of_text(0) == ["one", "two", "three"]


def test_a_word_that_spacy_cannot_read_is_left_out(tokenizer):
    assert readable("a IS_ALPHA b IS_IS_ALPHAALPHA") == "a  b "
    assert WordTable(tokenizer).read(["a IS_ALPHA b"]).of_text(0) == ["a", "b"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingExtraError, match=r"elm-data-preparation\[filters\]"):
        EnglishTokenizer()


def test_punctuation_is_that_of_datatrove():
    from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION

    assert PUNCTUATION == PUNCTUATION_SET
    assert TERMINAL == TERMINAL_PUNCTUATION
