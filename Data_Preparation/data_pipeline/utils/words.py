"""Words of a text in any script: separated by white space, or single characters in scripts without spaces.

Chinese, Japanese, Thai and others put no spaces between words. As one word, a paragraph would share nothing with a copy
that differs in one character; as single characters, it shares nearly everything.
"""

import re
from collections.abc import Iterable

UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x2FDF),  # Han radicals
    (0x3005, 0x3007),  # Han iteration mark, zero
    (0x3040, 0x312F),  # Kana, Bopomofo
    (0x31A0, 0x31FF),  # Bopomofo, Kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA60, 0xAA7F),
    (0xAA80, 0xAADF),  # Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x1B000, 0x1B16F),  # Kana
    (0x20000, 0x323AF),  # Han
)
"""First and last code points of the blocks of scripts that put no spaces between words (Unicode 16)."""

_CLASS = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in UNSPACED_BLOCKS)
_UNSPACED = re.compile(f"[{_CLASS}]")
_PARTS = re.compile(f"[{_CLASS}]|[^{_CLASS}]+")


def is_unspaced(text: str) -> bool:
    """Return whether a text has characters of a script without spaces between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def split_words(text: str) -> list[str]:
    """Split a text into words at white space; in scripts without spaces, every character is a word.

    `"Ünder GPU加速 x"` gives `["Ünder", "GPU", "加", "速", "x"]`.
    """
    words = text.split()
    if not is_unspaced(text):
        return words
    return [part for word in words for part in _PARTS.findall(word)]


def join_words(words: Iterable[str]) -> str:
    """Join words by spaces, without a space beside a character of a script without spaces."""
    parts: list[str] = []
    follows_space = True
    for word in words:
        unspaced = is_unspaced(word)
        parts += [word] if unspaced or follows_space else [" ", word]
        follows_space = unspaced
    return "".join(parts)
