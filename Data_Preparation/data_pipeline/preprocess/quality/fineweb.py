"""Quality rules of FineWeb (Penedo et al. 2024, https://arxiv.org/abs/2406.17557) with datatrove's decisions."""

from data_pipeline.preprocess.quality.batch import Reasons, TextBatch
from data_pipeline.preprocess.quality.gopher_repetition import count_repeats
from data_pipeline.preprocess.quality.punctuation import TERMINAL

_MIN_LINES_WITH_STOP = 0.12
_MAX_SHORT_LINES = 0.67
_SHORT_LINE_CHARS = 30
_MAX_REPEATED_CHARS = 0.01
_MAX_LINE_ENDS_PER_WORD = 0.3


def fineweb(batch: TextBatch) -> Reasons:
    """Reasons to drop texts that are lists, or whose lines are short, repeated or without a mark at their end."""
    return [_lines_reason(text) or _list_reason(batch, row) for row, text in enumerate(batch.texts)]


def _lines_reason(text: str) -> str | None:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return "empty"
    if sum(line[-1] in TERMINAL for line in lines) / len(lines) < _MIN_LINES_WITH_STOP:
        return "lines_without_punctuation"
    if sum(len(line) <= _SHORT_LINE_CHARS for line in lines) / len(lines) > _MAX_SHORT_LINES:
        return "short_lines"
    if count_repeats(lines)[1] / (len(text) - text.count("\n")) > _MAX_REPEATED_CHARS:
        return "duplicate_lines"
    return None


def _list_reason(batch: TextBatch, row: int) -> str | None:
    text = batch.texts[row]
    line_ends = text.count("\n")
    # There are at least as many words as pieces between white space, which need no tokenizer.
    if not line_ends or (not batch.has_words and line_ends / len(text.split()) <= _MAX_LINE_ENDS_PER_WORD):
        return None
    return "list" if line_ends / int(batch.words.word_counts[row]) > _MAX_LINE_ENDS_PER_WORD else None
