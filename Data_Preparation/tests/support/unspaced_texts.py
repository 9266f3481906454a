"""Random texts in scripts without spaces between words."""

import random
import unicodedata

SCRIPTS = {
    "Chinese": (0x4E00, 0x4F00), "Japanese": (0x3041, 0x3096), "Thai": (0x0E01, 0x0E2E), "Lao": (0x0E94, 0x0EA7),
    "Khmer": (0x1780, 0x17B3), "Burmese": (0x1000, 0x102A), "Tibetan": (0x0F40, 0x0F6C),
}  # fmt: skip
"""Some letters of each."""


def text_of(script, length, seed):
    first, last = SCRIPTS[script]
    letters = [chr(point) for point in range(first, last + 1) if unicodedata.category(chr(point)) == "Lo"]
    rng = random.Random(seed)
    return "".join(rng.choice(letters) for _ in range(length))
