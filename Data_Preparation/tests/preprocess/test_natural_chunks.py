"""Chunks end where paragraphs, sentences or words end, lose nothing, and have at most their tokens."""

import itertools
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shared_data import SHARED
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipeline.preprocess import TokenCounter
from data_pipeline.preprocess.natural_chunks import NaturalChunker

PROSE = (
    "The cat sat. The dog ran away! Did it rain? Yes.\n"
    "A new line, 3.14 of them.\n\n"
    "Another paragraph begins here. It has two sentences.\n\n\n"
    "The last one is short."
)
CHINESE = "今天天气很好。我们去公园散步！你想一起来吗？好的。" * 4


PIECES = [
    "a",
    "Dr. ",
    "end.",
    "\n",
    "\n\n",
    " ",
    "naïve",
    "。",
    "日本語",
    "😀",
    "3.14",
    "x" * 30,
    "…",
    "\r\n",
    "\u00a0",
]


def counter_of_words():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TokenCounter(tokenizer)


def counter_of_characters():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return TokenCounter(tokenizer)


def counter_of_bytes():
    """Every byte is a token, so that several tokens stand for one character."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return TokenCounter(tokenizer)


@cache
def counter_of_qwen3():
    path = SHARED / "qwen3-tokenizer" / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"the Qwen3 tokenizer is not at {path} (set ELM_SHARED_DATA)")
    return TokenCounter(Tokenizer.from_file(str(path)))


COUNTERS = {
    "words": counter_of_words,
    "characters": counter_of_characters,
    "bytes": counter_of_bytes,
    "qwen3": counter_of_qwen3,
}


def chunks_of(text, counter, max_tokens, overlap=0):
    (spans,) = NaturalChunker(counter, max_tokens, overlap).cut([text])
    return [text[start:end] for start, end in spans]


def test_paragraphs_then_sentences_then_words():
    words = counter_of_words()
    # The first paragraph ends in the second half of 20 words, the second one in that of the next 20.
    assert chunks_of(PROSE, words, 20) == [
        "The cat sat. The dog ran away! Did it rain? Yes.\nA new line, 3.14 of them.",
        "Another paragraph begins here. It has two sentences.\n\n\nThe last one is short.",
    ]
    assert chunks_of(PROSE, words, 8) == [
        "The cat sat. The dog ran away!",
        "Did it rain? Yes.",
        "A new line, 3.14 of them.",
        "Another paragraph begins here. It has two sentences.",
        "The last one is short.",
    ]
    assert chunks_of("one two three four five", words, 2) == ["one two", "three four", "five"]


def test_a_sentence_of_a_language_without_spaces_ends_at_its_mark():
    chunks = chunks_of(CHINESE, counter_of_characters(), 20)
    assert "".join(chunks) == CHINESE
    assert all(chunk[-1] in "。！？" for chunk in chunks)
    assert chunks_of("好" * 10, counter_of_characters(), 4) == ["好" * 4, "好" * 4, "好" * 2]


def test_a_character_of_several_tokens_is_never_cut():
    assert chunks_of("好" * 5, counter_of_bytes(), 7) == ["好好", "好好", "好"]
    assert chunks_of("a😀b", counter_of_bytes(), 4) == ["a", "😀", "b"]


def test_an_overlap_begins_with_a_sentence_or_word():
    chunks = chunks_of(PROSE, counter_of_words(), 8, 4)
    assert chunks[:3] == [
        "The cat sat. The dog ran away!",
        "The dog ran away! Did it rain? Yes.",
        "Did it rain? Yes.\nA new line, 3.14",
    ]
    assert chunks_of("one two three four five six", counter_of_words(), 4, 2) == [
        "one two three four", "three four five six",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", " ", "\n\n \t"])
def test_white_space_has_no_chunk(text):
    assert chunks_of(text, counter_of_words(), 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_and_no_chunk_is_too_long(kind, data):
    counter = COUNTERS[kind]()
    text = "".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=60)))
    max_tokens = data.draw(st.integers(4 if kind == "bytes" else 2, 40))
    overlap = data.draw(st.integers(0, max_tokens // 2))
    (spans,) = NaturalChunker(counter, max_tokens, overlap).cut([text])
    parts = [text[start:end] for start, end in spans]
    assert all(part == part.strip() != "" for part in parts)
    if kind != "qwen3" or max_tokens >= 16:  # one character may have several tokens of a real tokenizer
        assert counter.count(parts).max(initial=0) <= max_tokens
    covered = set()
    for start, end in spans:
        covered.update(range(start, end))
    assert all(text[position].isspace() for position in range(len(text)) if position not in covered)
    assert [start for start, _ in spans] == sorted({start for start, _ in spans})
    assert [end for _, end in spans] == sorted({end for _, end in spans})
    if not overlap:
        assert all(second[0] >= first[1] for first, second in itertools.pairwise(spans))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 32])
def test_real_articles_by_a_real_tokenizer(overlap):
    path = SHARED / "wikitext-2" / "wiki.valid.tokens"
    if not path.is_file():
        pytest.skip(f"WikiText-2 is not at {path} (set ELM_SHARED_DATA)")
    counter, text = counter_of_qwen3(), path.read_text()[:400_000]
    (spans,) = NaturalChunker(counter, 256, overlap).cut([text])
    parts = [text[start:end] for start, end in spans]
    counts = counter.count(parts)
    assert counts.max() <= 256
    assert counts[:-1].mean() > 128 + overlap / 2
    assert sum(bool(re.search(r"[.!?…\"=]$", part)) for part in parts) > 0.95 * len(parts)
    if not overlap:
        assert "".join("".join(parts).split()) == "".join(text.split())
