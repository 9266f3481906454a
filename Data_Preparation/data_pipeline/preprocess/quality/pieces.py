"""English tokens of spaCy for one piece of text: a run of characters without white space.

spaCy tokenizes each piece on its own, with one exception: after all pieces, it looks for sequences of tokens that spell
a special case (such as `:` and `)`, a smiley) and joins or splits them. A sequence that crosses white space is never a
special case itself, but it can hide a real one that overlaps it. `EnglishTokenizer` says where that is possible;
everywhere else, the tokens of a text are those of its pieces, one after the other.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from data_pipeline.utils.extras import require

_UNREADABLE = "IS_ALPHA"
# Pieces whose tokens need no spaCy, which takes 10 times as long: a word, hyphenated word or number with common marks
# around it. No rule of spaCy's English matches inside but at the hyphens, and each mark outside is a token.
_PLAIN = re.compile(
    r"""
    (?P<opening> [("\[]{0,2} )
    (?: (?P<word> (?: [A-Za-zÀ-ÖØ-öø-ſ]+ | [0-9]+ (?=-) ) (?: -[A-Za-zÀ-ÖØ-öø-ſ]+ )* )
      | (?P<currency> [$£€]? ) (?P<number> [0-9]+ (?: [.,–][0-9]+ )* | [0-9]+ (?: st|nd|rd|th|s ) ) )
    (?P<possessive> (?: 's )? )
    (?P<closing> (?! .* \.\. ) [,;:?!)\]".]{0,3} )
    """,
    re.VERBOSE,
)
_CLOSING = frozenset(',;:?!)]".')
_HYPHEN = re.compile("(-)")
_BEFORE_STOP = re.compile(r"(?:[a-z0-9]|[A-Z]{2})$")  # spaCy leaves other full stops at their word


def readable(text: str) -> str:
    """Remove the word `IS_ALPHA` from a text, at which spaCy fails: its vocabulary takes it for an attribute.

    datatrove removes it too when spaCy fails, which depends on the texts before.
    """
    while _UNREADABLE in text:  # removing it may make another one
        text = text.replace(_UNREADABLE, "")
    return text


class EnglishTokenizer:
    """English tokenizer of spaCy, with its sentence rules and without a trained model.

    Raises:
        MissingExtraError: spaCy is not installed.
    """

    def __init__(self) -> None:
        spacy: Any = require("spacy", "filters", "a quality preset")
        orth = spacy.symbols.ORTH
        self._nlp = spacy.blank("en")
        self._sentencizer = self._nlp.add_pipe("sentencizer")
        self.sentence_ends = frozenset(self._sentencizer.punct_chars)
        whole = self._nlp.tokenizer
        self._rules = {text: [part[orth] for part in parts] for text, parts in whole.rules.items()}
        self._longest_rule = max(map(len, self._rules))
        self._pieces_only = _tokenizer_without_sequences(whole)
        self._sequence_parts = _sequence_parts(whole)

    def memory_zone(self) -> AbstractContextManager[Any]:
        """Return a context after which spaCy forgets the words that it has seen inside."""
        return self._nlp.memory_zone()

    def words(self, text: str) -> list[str]:
        """Tokens of a text, which is `readable`, without those of white space."""
        return [token.text for token in self._nlp.tokenizer(text) if not token.text.isspace()]

    def count_sentences(self, text: str) -> int:
        """Number of sentences of a text, which is `readable`, at least 1."""
        return max(1, sum(1 for _ in self._sentencizer(self._nlp.tokenizer(text)).sents))

    def tokenize(self, piece: str) -> tuple[list[str], bool]:
        """Tokenize a piece: one or more characters, none of them white space.

        Returns:
            The tokens that spaCy gives for the piece alone, and whether some were joined or split to a special case,
            which a neighbour that `may_join` could prevent.
        """
        # Most pieces are a word, or a word and one mark, which needs no regular expression.
        core, mark = piece[:-1], piece[-1]
        if piece.isascii() and piece not in self._rules:
            if piece.isalpha():
                return [piece], False
            is_separate = mark in _CLOSING and (mark != "." or core[-1:].islower())
            if is_separate and core.isalpha() and core not in self._rules:
                return [core, mark], False
        plain = self._plain_tokens(piece)
        if plain is not None:
            return plain, False
        tokens = [token.text for token in self._pieces_only(piece)]
        if any(self._rules[text] != sequence for text, sequence in self._special_sequences(tokens)):
            return [token.text for token in self._nlp.tokenizer(piece)], True
        return tokens, False

    def may_join(self, token: str) -> bool:
        """Whether a token at the border of a piece may belong to a special case that crosses white space."""
        return token in self._sequence_parts

    def _plain_tokens(self, piece: str) -> list[str] | None:
        match = _PLAIN.fullmatch(piece)
        if match is None:
            return None
        opening, word, currency, number, possessive, closing = match.groups(default="")
        if closing.startswith(".") and not _BEFORE_STOP.search(word or number) and not possessive:
            return None
        parts = _HYPHEN.split(word) if "-" in word else [word or number]
        tokens = [*opening, *filter(None, (currency, *parts, possessive)), *closing]
        if len(tokens) == 1:
            return None if piece in self._rules else tokens
        # spaCy removes marks one by one and looks each rest up among its special cases; `'s` alone is never a rest.
        return None if any(text != "'s" for text, _ in self._special_sequences(tokens)) else tokens

    def _special_sequences(self, tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Find sequences of one or more tokens that spell a special case."""
        rules, longest = self._rules, self._longest_rule
        for start, text in enumerate(tokens):
            end = start + 1
            while len(text) <= longest:
                if text in rules:
                    yield text, list(tokens[start:end])
                if end == len(tokens):
                    break
                text += tokens[end]
                end += 1


def _tokenizer_without_sequences(whole: Any) -> Any:
    """Tokenizer with the special cases of another, but without the search for sequences of tokens."""
    # A special case becomes a sequence when it is added and one of these expressions finds something in it.
    is_loaded = False
    tokenizer = type(whole)(
        whole.vocab,
        rules=whole.rules,
        prefix_search=lambda text: whole.prefix_search(text) if is_loaded else None,
        suffix_search=lambda text: whole.suffix_search(text) if is_loaded else None,
        infix_finditer=lambda text: whole.infix_finditer(text) if is_loaded else iter(()),
        token_match=whole.token_match,
        url_match=whole.url_match,
    )
    is_loaded = True
    return tokenizer


def _sequence_parts(whole: Any) -> frozenset[str]:
    """Tokens of the sequences of two or more tokens that spell a special case."""
    without_rules = type(whole)(
        whole.vocab,
        prefix_search=whole.prefix_search,
        suffix_search=whole.suffix_search,
        infix_finditer=whole.infix_finditer,
        token_match=whole.token_match,
        url_match=whole.url_match,
    )
    sequences = ([token.text for token in without_rules(text)] for text in whole.rules)
    return frozenset(token for sequence in sequences if len(sequence) > 1 for token in sequence)
