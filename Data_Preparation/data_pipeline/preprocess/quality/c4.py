"""Rules of C4 (Raffel et al. 2020, https://jmlr.org/papers/v21/20-074.html) with datatrove's decisions.

Lines are removed or the whole text is dropped. The list of bad words of the paper is not applied, as in datatrove.
"""

import re
from dataclasses import dataclass

from data_pipeline.preprocess.quality.batch import Reasons, TextBatch
from data_pipeline.preprocess.quality.pieces import readable
from data_pipeline.preprocess.quality.words import WordTable

_MIN_SENTENCES = 5
_MIN_WORDS = 3
_MAX_WORD_CHARS = 1000
_LINE_ENDS = (".", "?", "!", '"', "'")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_FIRST_CHARS = 1500  # which often have enough sentences
_SPACE = re.compile(r"(\s+)")
_SUSPECT = ("lorem ipsum", "javascript", "{", "cookie", "policy", "terms")
_NEXT_SENTENCE = re.compile("E[EP]*W")  # an end, closing marks, and the first word of the next sentence


@dataclass(frozen=True, slots=True)
class _Dropped:
    reason: str


def c4(batch: TextBatch) -> tuple[Reasons, list[str]]:
    """Reasons to drop texts, and the texts without the lines that are no prose (those that are dropped: unchanged)."""
    reasons: Reasons = []
    texts: list[str] = []
    with batch.table.tokenizer.memory_zone():
        for text in batch.texts:
            result = _clean(text, batch.table)
            reasons.append(result.reason if isinstance(result, _Dropped) else None)
            texts.append(text if isinstance(result, _Dropped) else result)
    return reasons, texts


def _clean(text: str, table: WordTable) -> str | _Dropped:
    kept: list[str] = []
    sentences = 0
    # A line may have one of the words only after a citation inside it is removed.
    lower = text.lower()
    is_suspect = "[" in text or any(word in lower for word in _SUSPECT)
    for line in map(str.strip, text.splitlines()):
        if len(line) > _MAX_WORD_CHARS and max(map(len, line.split())) > _MAX_WORD_CHARS:
            continue
        is_short = len(line.split(None, _MIN_WORDS - 1)) < _MIN_WORDS
        if "[" in line:
            line = _CITATION.sub("", line)
        if not line.endswith(_LINE_ENDS) or line.endswith("...") or is_short:
            continue
        verdict = _verdict(line) if is_suspect else None
        if isinstance(verdict, _Dropped):
            return verdict
        if verdict is not None:
            continue
        if sentences < _MIN_SENTENCES:  # the exact number matters only below the limit
            sentences += count_sentences(line, table, _MIN_SENTENCES)
        kept.append(line)
    return "\n".join(kept).strip() if sentences >= _MIN_SENTENCES else _Dropped("too_few_sentences")


def _verdict(line: str) -> _Dropped | str | None:
    """Reason to drop the whole text because of a line, or only the line; None to keep it."""
    lower = line.lower()
    if "lorem ipsum" in lower:
        return _Dropped("lorem_ipsum")
    if "javascript" in lower:
        return "javascript"
    if "{" in line:
        return _Dropped("curly_bracket")
    return next((part for part in _POLICY if part in lower), None)


def count_sentences(line: str, table: WordTable, enough: int | None = None) -> int:
    """Number of sentences of a line by the rules of spaCy's sentencizer, at least 1.

    Args:
        line: line without white space at its end.
        table: pieces that were seen before.
        enough: number from which on a lower one than the true number may be returned, but not below it.
    """
    line = readable(line)
    kinds_of = table.kinds.__getitem__
    for stop in (_FIRST_CHARS, len(line)):
        part = line[:stop]
        pieces = part.split()
        if " ".join(pieces) == part:
            kinds = "".join(map(kinds_of, pieces))
        else:  # white space other than single spaces is a token
            kinds = "".join(
                ("" if piece == " " else "W") if piece.isspace() else kinds_of(piece)
                for piece in _SPACE.split(part)
                if piece
            )
        if "?" in kinds:
            if table.is_uncertain(pieces):
                return table.tokenizer.count_sentences(line)
            kinds = kinds.replace("?", "")
        count = 1 + len(_NEXT_SENTENCE.findall(kinds))
        if enough and count > enough:  # one more, since the part may end inside a word
            break
    return count
