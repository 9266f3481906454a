"""The hash that ties stores together: SHA-256 of a column of strings."""

import hashlib
from collections.abc import Iterable


class ColumnHash:
    """SHA-256 of strings in order, each as 8 bytes of length (little endian) and its UTF-8."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, strings: Iterable[str]) -> None:
        """Take in further strings."""
        parts = []
        for string in strings:
            encoded = string.encode()
            parts.append(len(encoded).to_bytes(8, "little"))
            parts.append(encoded)
        self._hash.update(b"".join(parts))

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()


def column_sha256(strings: Iterable[str]) -> str:
    """The `ColumnHash` of a whole column."""
    column = ColumnHash()
    column.update(strings)
    return column.hexdigest()
