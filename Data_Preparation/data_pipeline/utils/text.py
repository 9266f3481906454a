"""Formatting of texts for messages and files."""

from collections.abc import Sequence


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can encode and UTF-8 cannot, by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shortened(text: str, limit: int = 200) -> str:
    """Truncate a long text for a message."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: object, limit: int = 60) -> str:
    """Return the `repr` of a value for a message, truncated if it is long."""
    return shortened(repr(value[:limit] if isinstance(value, str | bytes) else value), limit)


def refuse_single_text(texts: object, name: str) -> None:
    """Check that an argument is a list of texts, not a single text, which Python would split into characters.

    Raises:
        TypeError: the argument is a single text.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of texts, found a single one: {shown(texts)}. Put it into a list.")


def human_bytes(count: float) -> str:
    """Format a number of bytes with decimal units: `1536` gives `1.5 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    """Format a time: `5400` gives `90.0 min`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """Format rows as two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
