"""Token counts that equal those of the tokenizer, computed several times faster.

There are three methods, in order of speed. A fast library (gigatoken, an extra) is used only after it
agreed with the tokenizer on hostile probes and on texts of the corpus, and is checked again
regularly. Counting pre-tokens needs no library: byte-level BPE and WordPiece tokenizers cut a
text into pre-tokens by a known pattern and never merge across them, so each distinct
pre-token is encoded once and the counts are added up. Texts for which neither method is proved
are encoded by the tokenizer itself. The embedding stage tokenizes every text again and rejects
a stored count that differs.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc
from tokenizers import Tokenizer

from data_pipeline.preprocess.clean import UNUSUAL
from data_pipeline.types import IntArray
from data_pipeline.utils import batched, refuse_single_text

logger = logging.getLogger(__name__)

PROBES = (
    "", " ", "a", "The quick brown fox.", "don't we're I'LL can't it's", "naïve café Zürich Ångström",
    "1,234.5 and 2026-11-21 at 09:30", "x² + y² = z² ± 0.5 × 10⁻³", "“quoted” – dashed — and…",
    "日本語のテキスト と English", "한국어 문장입니다", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में पाठ", "العربية من اليمين",
    "😀 👩‍👩‍👧 🇩🇪", "e\u0301 a\u0308 \u1112\u1161\u11ab", "zero\u200bwidth\u00a0space", "ALL CAPS and MiXeD",
    "snake_case camelCase kebab-case", "http://example.org/a?b=c&d=1#e", "<unk> <|endoftext|> [CLS] [SEP]",
    "if (x > 0) { return x[1]; }", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "!!! ??? ... ;;;",
    "O'Brien's 'quoted' rock'n'roll", "tab\tand\nline\r\nends", "trailing space ", " leading", "two  spaces",
)  # fmt: skip

# BERT cuts at white space and around every punctuation mark, including ASCII symbols.
_BERT_PATTERN = r"[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+"
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LOOK_AHEAD = r"\s+(?!\S)|"
# All other text is singly spaced and in NFC (see `clean`); for it, both methods are proved.
_UNUSUAL = rf"^ | $|{UNUSUAL}"
# The libraries use different versions of Unicode: BertPreTokenizer has no punctuation
# newer than Unicode 8, and the fast library has letters that the tokenizer does not have.
_NEWER = r"[^\p{Age:8.0}]"
_ODD = re.compile(r"  |\A | \Z|[^\S ]")
_CALL_ROWS = 1000  # the fast library is fastest with about a thousand texts in a call
_CHECK_TEXTS = 32  # texts of one check of the fast library
_CHECK_EVERY = 500 * _CHECK_TEXTS  # texts between two checks of the fast library
_CACHE_ENTRIES = 1_000_000  # cached pre-tokens, about 100 MB


class TokenCounter:
    """Counts the tokens of texts, without special tokens, exactly as a tokenizer does.

    Args:
        tokenizer: the tokenizer; its truncation and padding are ignored.
        fast_library: the tokenizer of the fast library (see `load_fast_library`); None to use no library.
    """

    def __init__(self, tokenizer: Tokenizer, fast_library: Any | None = None) -> None:
        description = tokenizer.to_str()
        self._tokenizer = Tokenizer.from_str(description)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        settings = json.loads(description)
        added = "|".join(re.escape(token["content"]) for token in settings["added_tokens"])
        self._added = re.compile(added or r"(?!)")
        self._unusual = f"{_UNUSUAL}|{added}" if added else _UNUSUAL
        self._pattern = _pretoken_pattern(settings.get("pre_tokenizer") or {}, settings.get("normalizer"))
        self._cached_counts: dict[str, int] = {}
        self._fast = fast_library
        self._until_check = 0
        if self._fast is not None and not self._agrees(list(PROBES)):
            self._fast = None

    @property
    def method(self) -> str:
        """Current method: `fast library`, `pre-tokens` or `tokenizer`."""
        if self._fast is not None:
            return "fast library"
        return "pre-tokens" if self._pattern else "tokenizer"

    def count(self, texts: Sequence[str]) -> IntArray:
        """Number of tokens of every text, shape (N,)."""
        refuse_single_text(texts, "texts")
        if self.method == "tokenizer":
            return self._count_exactly(texts)
        counts = self._count_by_library(texts) if self._fast is not None else self._count_by_pretokens(texts)
        odd = self._odd_rows(texts)
        if odd:
            counts[odd] = self._count_exactly([texts[row] for row in odd])
        return counts

    def spans(self, texts: Sequence[str]) -> list[tuple[IntArray, IntArray]]:
        """First and last characters of the tokens of every text: starts and exclusive ends, each of shape (L,)."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        pairs = (np.array(encoding.offsets, np.int64).reshape(-1, 2) for encoding in encodings)
        # Tokens that stand for no character are left out.
        return [(starts[ends > starts], ends[ends > starts]) for starts, ends in (pair.T for pair in pairs)]

    def _odd_rows(self, texts: Sequence[str]) -> list[int]:
        """Rows that only the tokenizer counts: with special tokens, odd spaces or new characters, or not in NFC."""
        series = pl.Series(texts, dtype=pl.String)
        unusual = series.str.contains(self._unusual).arg_true()
        has_newer = series.gather(unusual).str.contains(_NEWER)
        return [row for row, newer in zip(unusual, has_newer, strict=True) if newer or self._is_odd(texts[row])]

    def _is_odd(self, text: str) -> bool:
        return bool(_ODD.search(text) or self._added.search(text)) or not unicodedata.is_normalized("NFC", text)

    def _count_exactly(self, texts: Sequence[str]) -> IntArray:
        counts: list[int] = []
        for batch in batched(texts, _CALL_ROWS):
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            counts.extend(map(len, encodings))
        return np.array(counts, dtype=np.int64)

    def _count_by_library(self, texts: Sequence[str]) -> IntArray:
        counts = [np.zeros(0, dtype=np.int64)]
        for batch in batched(texts, _CALL_ROWS):
            if self._until_check <= 0:
                if not self._agrees(batch[:_CHECK_TEXTS]):
                    self._fast = None
                    return self.count(texts)
                self._until_check = _CHECK_EVERY
            self._until_check -= len(batch)
            assert self._fast is not None
            counts.append(_library_counts(self._fast, batch))
        return np.concatenate(counts)

    def _agrees(self, texts: list[str]) -> bool:
        odd = set(self._odd_rows(texts))
        regular = [text for row, text in enumerate(texts) if row not in odd]
        expected, counts = self._count_exactly(regular), _library_counts(self._fast, regular)
        if len(counts) != len(expected):
            logger.warning("Not using the fast token counter: it counted %d of %d texts", len(counts), len(expected))
            return False
        wrong = np.flatnonzero(expected != counts)
        if len(wrong):
            logger.warning(
                "Not using the fast token counter: it counted %d tokens where the tokenizer counts %d, in %r",
                counts[wrong[0]], expected[wrong[0]], regular[wrong[0]][:80],
            )  # fmt: skip
        return len(wrong) == 0

    def _count_by_pretokens(self, texts: Sequence[str]) -> IntArray:
        assert self._pattern is not None
        pieces: Any = pl.Series(texts, dtype=pl.String).str.extract_all(self._pattern).to_arrow()
        coded = pc.dictionary_encode(pieces.flatten())
        vocabulary = coded.dictionary.to_pylist()
        if len(self._cached_counts) > _CACHE_ENTRIES:
            self._cached_counts.clear()
        new = [piece for piece in vocabulary if piece not in self._cached_counts]
        self._cached_counts.update(zip(new, map(int, self._count_exactly(new)), strict=True))
        lengths = np.array([self._cached_counts[piece] for piece in vocabulary], dtype=np.int64)
        # The sum over the pieces of each text is a difference of cumulative sums.
        total = np.concatenate([[0], np.cumsum(lengths[coded.indices.to_numpy()])])
        offsets = pieces.offsets.to_numpy()
        return total[offsets[1:]] - total[offsets[:-1]]


def load_fast_library(tokenizer: Tokenizer) -> Any | None:
    """Load a tokenizer into the fast library; None if it does not support the tokenizer or is not installed."""
    try:
        import gigatoken
    except ImportError:
        return None
    try:
        return gigatoken.Tokenizer.from_json(tokenizer.to_str())
    except (RuntimeError, ValueError, TypeError) as error:
        logger.debug("Counting tokens without the fast library: %s", str(error).splitlines()[0])
        return None


def _library_counts(library: Any, texts: list[str]) -> IntArray:
    if not texts:
        return np.zeros(0, dtype=np.int64)
    offsets = np.asarray(library.encode_batch(texts).layout.offsets)
    return np.diff(offsets).astype(np.int64)


def _pretoken_pattern(pre_tokenizer: dict[str, Any], normalizer: dict[str, Any] | None) -> str | None:
    """Pattern by which a tokenizer cuts regular text; None where counting by pre-tokens is not proved."""
    kinds = [part.get("type") for part in _parts(pre_tokenizer, "pretokenizers")]
    normalizers = {part.get("type") for part in _parts(normalizer or {}, "normalizers")}
    if kinds == ["BertPreTokenizer"] and normalizers <= {"BertNormalizer"}:
        return _BERT_PATTERN
    if not normalizers <= {"NFC"}:
        return None
    if kinds == ["ByteLevel"] and pre_tokenizer.get("use_regex") and not pre_tokenizer.get("add_prefix_space"):
        return _GPT2_PATTERN.replace(_LOOK_AHEAD, "")
    if kinds == ["Split", "ByteLevel"]:
        split, byte_level = _parts(pre_tokenizer, "pretokenizers")
        pattern = split["pattern"].get("Regex", "")
        is_isolated = split["behavior"] == "Isolated" and not split["invert"]
        is_plain = not byte_level["use_regex"] and not byte_level["add_prefix_space"]
        # In text whose only white space is single spaces, the look-ahead never matches.
        pattern = pattern.replace(_LOOK_AHEAD, "")
        looks_around = any(mark in pattern for mark in ("(?!", "(?=", "(?<"))
        if pattern and is_isolated and is_plain and not looks_around:
            return str(pattern)
    return None


def _parts(node: dict[str, Any], name: str) -> list[dict[str, Any]]:
    if not node:
        return []
    return list(chain.from_iterable(_parts(part, name) for part in node[name])) if name in node else [node]
