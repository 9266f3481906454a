"""Numbers and names in words."""

from collections.abc import Mapping


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent; a dash where there is no whole."""
    return f"{part / whole:.1%}" if whole else "–"


def counted(counts: Mapping[str, int]) -> str:
    """Return counts in words: `train 181, val 23`; `none` for none."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def readable(name: str) -> str:
    """Return a name from a file as words: `too_many_tokens` as `too many tokens`."""
    return name.replace("_", " ")
