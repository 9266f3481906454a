"""Cleaning of text: turns WikiText's separated tokens back into plain English, and normalizes Unicode.

WikiText writes `1 @,@ 200 feet ( 366 m ) , about half @-@ way`. Each rule below removes spaces
that the dataset inserted and nothing else, so tokenizing again restores the line (tested
on every line of WikiText-2). No rule changes single quotes except in `'s` and similar, and
none deletes text between two `=`.
"""

from collections.abc import Callable, Iterable

import polars as pl

# U+FEFF occurs in WikiText; other control characters occur in hostile input.
# Tabs and similar characters are white space, and are collapsed instead.
_INVISIBLE = r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\x{FEFF}]"
_WHITE_SPACE = r"[\s\x1c-\x1f\x85]+"
# Singly spaced text of printable ASCII, Latin letters and common dashes and quotes needs no normalization:
# NFC changes nothing below U+0300 and between U+2010 and U+2027.
UNUSUAL = r"  |[^\x20-\x7e\xa1-\x{2ff}\x{2010}-\x{2027}]"

_UNKNOWN_IN_COMPOUND = r"<unk> @|@ <unk>"
_COMPOUNDS = (
    (r" <unk> @-@| @-@ <unk>", " <unk>"),
    # A number with an unknown part (`1 @.@ <unk>`) is removed as a whole: `1` would be another number.
    (r"(?: [^ ]+ @[.,]@)* <unk>(?: @[.,]@ [^ ]+)*", " <unk>"),
)
_UNKNOWN = (
    (r" <unk>(?: (?:'s|@-@))?", ""),
    # Remainders of removed words: `( , lit`, `( )`, `one , , and two`, and a line that starts with `, `.
    (r"( [(\[\x01])(?: [,;:])+", "$1"),
    (r" \( \)| \[ \]| \x01 \x02", ""),
    (r" [,;:](?: [,;:])*( [,;:.)\]])", "$1"),
    (r"^(?: [,;:.)\]])+ ", " "),
)

_JOINED = (
    (r" @([-,.])@ ", "$1"),
    (r" ('(?:s|t|re|ve|ll|d|m)) ", "$1 "),
    # Not after a comma or another full stop, because ` , .` and ` . . .` could not be restored.
    (r"([^ .,]) \. ", "$1. "),
)
_RANGES = [(r"(\d) – (\d)", "$1–$2")] * 2  # twice, because the ranges of `1 – 2 – 3` share a digit
_CLOSING = (" ,", " ;", " :", " )", " ]", " ?", " !", " %", " °")
_OPENING = ("( ", "[ ", "$ ", "£ ")
# \x01 and \x02, which clean text cannot contain, mark an opening and a closing quotation mark.
_QUOTED = (r'"([^"]*)"', "\x01$1\x02")
_ATTACHED = {spaced: spaced.strip() for spaced in (*_CLOSING, *_OPENING)} | {"\x01 ": "\x01", " \x02": "\x02"}
_MARKS = dict.fromkeys(("\x01", "\x02"), '"')


def clean_lines(lines: pl.Series, wikitext: bool, drop_unknown: bool) -> pl.Series:
    """Clean lines: remove control characters, collapse white space, normalize to NFC, and undo WikiText's spacing.

    Args:
        lines: single lines of text.
        wikitext: undo WikiText's spacing; False for plain text.
        drop_unknown: remove `<unk>` and the separators that it leaves behind (wikitext only).

    Returns:
        Lines without white space at either end; possibly empty.
    """
    lines = _change_where(lines, lines.str.contains(UNUSUAL), _normalize).str.strip_chars(" ")
    if not wikitext:
        return lines
    lines = " " + lines + " "  # the rules expect a line to be ` token token token `
    # Quotation marks are paired from the left before `<unk>` is removed, because `" <unk> "` leaves an empty
    # quotation, which `" a " " b "` does not have. An odd mark would pair every later one wrongly.
    marks = lines.str.count_matches('"', literal=True)
    lines = _change_where(lines, (marks > 0) & (marks % 2 == 0), lambda matching: matching.str.replace_all(*_QUOTED))
    if drop_unknown:
        lines = _change_where(lines, lines.str.contains("<unk>", literal=True), _drop_unknown)
    lines = _change_where(lines, lines.str.contains(" – ", literal=True), lambda matching: _replace(matching, _RANGES))
    return _replace(lines, _JOINED).str.replace_many(_ATTACHED).str.replace_many(_MARKS).str.strip_chars(" ")


def clean_text(text: str, wikitext: bool = True, drop_unknown: bool = True) -> str:
    """Clean a text line by line; see `clean_lines`."""
    return "\n".join(clean_lines(pl.Series(text.split("\n")), wikitext, drop_unknown))


def _drop_unknown(lines: pl.Series) -> pl.Series:
    in_compound = lines.str.contains(_UNKNOWN_IN_COMPOUND)
    return _replace(_change_where(lines, in_compound, lambda matching: _replace(matching, _COMPOUNDS)), _UNKNOWN)


def _normalize(lines: pl.Series) -> pl.Series:
    return lines.str.replace_all(_INVISIBLE, "").str.normalize("NFC").str.replace_all(_WHITE_SPACE, " ")


def _replace(lines: pl.Series, rules: Iterable[tuple[str, str]]) -> pl.Series:
    for pattern, replacement in rules:
        lines = lines.str.replace_all(pattern, replacement)
    return lines


def _change_where(lines: pl.Series, mask: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Change the lines of a mask only, because most rules concern few lines."""
    rows = mask.arg_true()
    # `scatter` changes the series itself, which may be the caller's.
    return lines.clone().scatter(rows, change(lines.gather(rows))) if len(rows) else lines
