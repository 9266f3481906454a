"""Single values of users' records: texts, ids and fields, checked in one way."""

from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import SourceError
from data_pipeline.utils import encodable, shortened, shown


def take_field(record: Mapping[str, Any], name: str, where: str) -> Any:
    """The value of a field that must be there; it may be null.

    Raises:
        SourceError: the record has no such field.
    """
    if name not in record:
        fields = ", ".join(map(str, record)) or "none"
        raise SourceError(f"{where}: there is no field {name!r}; it has {shortened(fields)}")
    return record[name]


def checked_text(value: Any, name: str, where: str) -> str:
    """A text; half of a surrogate pair, which JSON can spell and no file can hold, becomes U+FFFD.

    Raises:
        SourceError: it is something else.
    """
    if not isinstance(value, str):
        raise SourceError(f"{where}: the field {name!r} must be a text, found {shown(value)}")
    return encodable(value)


def checked_id(value: Any, name: str, where: str) -> str:
    """An id: a text that can be printed, or a whole number, as a text.

    Raises:
        SourceError: it is something else, empty, or has control characters.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SourceError(f"{where}: the id {name!r} must be a text or a whole number, found {shown(value)}")
    identity = str(value)
    if not identity.isprintable():
        raise SourceError(f"{where}: the id {shown(identity)} has control characters. Give it another id.")
    return identity
