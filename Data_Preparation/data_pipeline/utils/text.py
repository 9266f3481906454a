"""Texts for messages and files."""

from collections.abc import Sequence


def encodable(text: str) -> str:
    """The same text, but for halves of surrogate pairs, which JSON can spell and no file can hold: U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shortened(text: str, limit: int = 200) -> str:
    """A text for a message, cut where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: its `repr`, cut where it is long."""
    return shortened(repr(value[:limit] if isinstance(value, str | bytes) else value), limit)


def refuse_single_text(texts: object, name: str) -> None:
    """Check that a list of texts is not a single one, which Python would take apart into characters.

    Raises:
        TypeError: it is.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of texts, found a single one: {shown(texts)}. Put it into a list.")


def human_bytes(count: float) -> str:
    """`1536` -> `1.5 kB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns, one row a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
