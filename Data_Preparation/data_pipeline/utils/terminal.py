"""Texts as a terminal may get them: without characters that control it or reorder what is shown."""

import os
import re

QUIET = "ELM_QUIET"
"""Environment variable of `--quiet`, which worker processes inherit: any value but an empty one."""

# Control characters (but for the tab and the line feed), separators of lines and paragraphs, bidirectional embeddings,
# overrides and isolates, and lone surrogates, which no encoding can write.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape the characters of a text that would control a terminal, as Python writes them: `\x1b`, `\u202e`."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def printable_json(text: str) -> str:
    r"""Escape the same characters in a JSON document, where they can only be within strings: `\u009b`."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str, limit: int) -> str:
    """Return the beginning of a text as one line, with single spaces, of at most `limit` characters."""
    # White space is collapsed before the text is cut, but a text of a megabyte need not be read to its end.
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[: limit - 1]}…"


def is_quiet() -> bool:
    """Return whether only errors are to be printed."""
    return bool(os.environ.get(QUIET))
