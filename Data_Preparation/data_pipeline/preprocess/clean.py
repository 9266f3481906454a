"""Text -> text: WikiText's spaced-out tokens back into plain English, Unicode set straight.

WikiText writes `1 @,@ 200 feet ( 366 m ) , about half @-@ way`. Each rule below removes spaces
that the data set put in and nothing else, so tokenising again gives the line back (tested
on every line of WikiText-2). No rule touches single quotes except in `'s` and its like, and
none deletes what stands between two `=`.
"""

from collections.abc import Callable, Iterable

import polars as pl

# U+FEFF stands inside WikiText's text; other control characters come with hostile input.
# Tabs and the like are white space and are collapsed instead.
_INVISIBLE = r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\x{FEFF}]"
_WHITE_SPACE = r"[\s\x1c-\x1f\x85]+"
# Printable ASCII, Latin letters and the common dashes and quotes, singly spaced, are in order
# as they are: NFC changes nothing below U+0300 and between U+2010 and U+2027.
UNUSUAL = r"  |[^\x20-\x7e\xa1-\x{2ff}\x{2010}-\x{2027}]"

_UNKNOWN_IN_COMPOUND = r"<unk> @|@ <unk>"
_COMPOUNDS = (
    (r" <unk> @-@| @-@ <unk>", " <unk>"),
    # A number with an unknown part (`1 @.@ <unk>`) goes as a whole: `1` would be another number.
    (r"(?: [^ ]+ @[.,]@)* <unk>(?: @[.,]@ [^ ]+)*", " <unk>"),
)
_UNKNOWN = (
    (r" <unk>(?: (?:'s|@-@))?", ""),
    # What the holes leave: `( , lit`, `( )`, `one , , and two`, and a line that starts with `, `.
    (r"( [(\[\x01])(?: [,;:])+", "$1"),
    (r" \( \)| \[ \]| \x01 \x02", ""),
    (r" [,;:](?: [,;:])*( [,;:.)\]])", "$1"),
    (r"^(?: [,;:.)\]])+ ", " "),
)

_JOINED = (
    (r" @([-,.])@ ", "$1"),
    (r" ('(?:s|t|re|ve|ll|d|m)) ", "$1 "),
    # Not after a comma or another stop: ` , .` and ` . . .` could not be told apart again.
    (r"([^ .,]) \. ", "$1. "),
)
_RANGES = [(r"(\d) – (\d)", "$1–$2")] * 2  # twice, as `1 – 2 – 3` shares a digit
_CLOSING = (" ,", " ;", " :", " )", " ]", " ?", " !", " %", " °")
_OPENING = ("( ", "[ ", "$ ", "£ ")
# \x01 and \x02, which no clean text holds, stand for an opening and a closing quotation mark.
_QUOTED = (r'"([^"]*)"', "\x01$1\x02")
_ATTACHED = {spaced: spaced.strip() for spaced in (*_CLOSING, *_OPENING)} | {"\x01 ": "\x01", " \x02": "\x02"}
_MARKS = dict.fromkeys(("\x01", "\x02"), '"')


def clean_lines(lines: pl.Series, wikitext: bool, drop_unknown: bool) -> pl.Series:
    """Clean lines: control characters out, white space collapsed, NFC, and WikiText undone.

    Args:
        lines: single lines of text.
        wikitext: undo WikiText's spacing; False for plain text.
        drop_unknown: take `<unk>` out and tidy what it leaves (wikitext only).

    Returns:
        Lines without white space at either end; possibly empty.
    """
    lines = _where(lines, lines.str.contains(UNUSUAL), _regular).str.strip_chars(" ")
    if not wikitext:
        return lines
    lines = " " + lines + " "  # The rules read a line as ` token token token `.
    # Marks pair from the left: `" a " " b "` has no empty quotation in its middle, but `" <unk> "`
    # leaves one. An odd mark would pair every later one wrongly.
    marks = lines.str.count_matches('"', literal=True)
    lines = _where(lines, (marks > 0) & (marks % 2 == 0), lambda some: some.str.replace_all(*_QUOTED))
    if drop_unknown:
        lines = _where(lines, lines.str.contains("<unk>", literal=True), _without_unknown)
    lines = _where(lines, lines.str.contains(" – ", literal=True), lambda some: _replaced(some, _RANGES))
    return _replaced(lines, _JOINED).str.replace_many(_ATTACHED).str.replace_many(_MARKS).str.strip_chars(" ")


def clean_text(text: str, wikitext: bool = True, drop_unknown: bool = True) -> str:
    """Clean one text line by line; see `clean_lines`."""
    return "\n".join(clean_lines(pl.Series(text.split("\n")), wikitext, drop_unknown))


def _without_unknown(lines: pl.Series) -> pl.Series:
    in_compound = lines.str.contains(_UNKNOWN_IN_COMPOUND)
    return _replaced(_where(lines, in_compound, lambda some: _replaced(some, _COMPOUNDS)), _UNKNOWN)


def _regular(lines: pl.Series) -> pl.Series:
    return lines.str.replace_all(_INVISIBLE, "").str.normalize("NFC").str.replace_all(_WHITE_SPACE, " ")


def _replaced(lines: pl.Series, rules: Iterable[tuple[str, str]]) -> pl.Series:
    for pattern, replacement in rules:
        lines = lines.str.replace_all(pattern, replacement)
    return lines


def _where(lines: pl.Series, mask: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Change the lines that a mask names; most rules concern few lines."""
    rows = mask.arg_true()
    # `scatter` changes the series it is called on, which may be the caller's.
    return lines.clone().scatter(rows, change(lines.gather(rows))) if len(rows) else lines
