"""Decisions of datatrove's filters, with the names that this package gives their reasons, and hostile texts."""

import random

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

PEERS = {
    "gopher_quality": GopherQualityFilter,
    "gopher_repetition": GopherRepetitionFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}
REASONS = {
    "gopher_quality": {
        "gopher_short_doc": "short_doc",
        "gopher_long_doc": "long_doc",
        "gopher_below_avg_threshold": "short_words",
        "gopher_above_avg_threshold": "long_words",
        "gopher_too_many_hashes": "too_many_hashes",
        "gopher_too_many_ellipsis": "too_many_ellipses",
        "gopher_too_many_bullets": "too_many_bullets",
        "gopher_too_many_end_ellipsis": "too_many_ellipsis_lines",
        "gopher_below_alpha_threshold": "too_few_letters",
        "gopher_enough_stop_words": "too_few_stop_words",
    },
    "gopher_repetition": {
        "empty": "empty",
        "dup_para_frac": "duplicate_paragraphs",
        "dup_para_char_frac": "duplicate_paragraph_chars",
        "dup_line_frac": "duplicate_lines",
        "dup_line_char_frac": "duplicate_line_chars",
        **{f"top_{n}_gram": f"top_{n}_gram" for n in (2, 3, 4)},
        **{f"duplicated_{n}_n_grams": f"duplicate_{n}_grams" for n in range(5, 11)},
    },
    "c4": {name: name for name in ("lorem_ipsum", "curly_bracket", "too_few_sentences")},
    "fineweb": {
        "empty": "empty",
        "line_punct_ratio": "lines_without_punctuation",
        "short_line_ratio": "short_lines",
        "char_dup_ratio": "duplicate_lines",
        "list_ratio": "list",
    },
}


def peer_decisions(name, texts):
    """Reason and text of each text, as datatrove gives them."""
    peer = PEERS[name]()
    decisions = []
    for text in texts:
        document = Document(text=text, id="x")
        result = peer.filter(document)
        decisions.append((None, document.text) if result is True else (REASONS[name][result[1]], text))
    return decisions


_PARTS = [
    "the", "of", "and", "word", "foo", "a", "b", "ab", "Mr.", "don't", "...", "…", "#", "-", "•", "{", "javascript",
    "lorem ipsum", "use cookies", "8-)", ":)", "x", "。", "你好世界", "é", "1.", "U.S.", "(hello)", "\t", "\u2028",
    "\x85",
    "\x1c", "\u00a0", "end.", "End!", '"Q."', "'", "[1]", "[edit]", "😀", "word):", "in):", ":", "Mr", ".", ")",
    "x" * 1001, "- item", "\u200b", "ﬁ", "10a.m", "a.m.", "😀.", "?!", "\n\n", "\n", "  ", "{}", "Terms of use.",
]  # fmt: skip


def hostile_texts(number, seed):
    """Random texts of parts that rules look at, and the smallest ones."""
    rng = random.Random(seed)
    texts = ["", "\n", "\n\n", " \n", "   ", "...", "\n\na\n\na", "a b", "a", "\u3000", "{", "a\n\n\na\n\n\n\nb"]
    for _ in range(number):
        parts = rng.sample(_PARTS, rng.randint(1, len(_PARTS))) + ["the", "of"] * rng.randint(0, 3)
        words = (
            rng.choice(parts) + rng.choice([" "] * 8 + ["", "\n", ". ", "  "])
            for _ in range(rng.choice([1, 2, 5, 30, 60, 200]))
        )
        texts.append("".join(words) * rng.choice([1, 1, 1, 2, 3]))
    return texts
