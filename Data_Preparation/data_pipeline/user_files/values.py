"""Single values of users' records: texts, ids and fields, checked in one way."""

import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import SourceError
from data_pipeline.utils import encodable, shortened, shown

# Joiners and marks of direction stay: words of Persian and of Indic scripts need them.
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


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
    """An id: a text or a whole number, as a text.

    Args:
        value: of the record.
        name: of its field, for messages.
        where: file and line, for messages.

    Raises:
        SourceError: it is something else, is blank, or has control characters.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise SourceError(f"{where}: the id {name!r} must be a text or a whole number, found {shown(value)}")
    return check_id(str(value), where)


def check_id(identity: str, where: str) -> str:
    """The same id, if every file can hold it.

    Raises:
        SourceError: it has control characters such as tabs and line ends, or half of a surrogate pair.
    """
    refused = _REFUSED.search(identity)
    if refused is None:
        return identity
    raise SourceError(
        f"{where}: the id {shown(identity)} has control characters (U+{ord(refused[0]):04X} at position "
        f"{refused.start()}), which break lines and columns of every output. Replace them, for example by a hyphen."
    )
