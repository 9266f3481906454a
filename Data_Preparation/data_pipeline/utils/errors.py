"""Conversion of errors of libraries to errors of this package."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def converted_errors(
    kinds: type[Exception] | tuple[type[Exception], ...], to: type[Exception], message: str, advice: str = ""
) -> Iterator[None]:
    """Convert errors; the new message is `message`, the text of the original error, and `advice`.

    Args:
        kinds: types of the errors to convert.
        to: type of the new error.
        message: what failed, without punctuation at its end.
        advice: what to do, as complete sentences; empty for none.
    """
    try:
        yield
    except kinds as error:
        raise to(f"{message}: {error}. {advice}" if advice else f"{message}: {error}") from error
