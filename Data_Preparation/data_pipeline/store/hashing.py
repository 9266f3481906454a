"""SHA-256 of a column of strings, which ties stores together."""

import hashlib
from collections.abc import Iterable


class ColumnHash:
    """Incremental SHA-256 of strings in order, each hashed as 8 bytes of length (little endian) and its UTF-8."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, strings: Iterable[str]) -> None:
        """Add strings to the hash."""
        parts = []
        for string in strings:
            encoded = string.encode()
            parts.append(len(encoded).to_bytes(8, "little"))
            parts.append(encoded)
        self._hash.update(b"".join(parts))

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def column_sha256(strings: Iterable[str]) -> str:
    """Return the `ColumnHash` of a whole column."""
    column = ColumnHash()
    column.update(strings)
    return column.hexdigest()
