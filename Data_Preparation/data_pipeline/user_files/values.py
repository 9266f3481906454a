"""Checks of single values of users' records: texts, ids and fields."""

import re
from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import RecordError
from data_pipeline.utils import encodable, shortened, shown

# Joiners and direction marks are allowed, because words of Persian and Indic scripts need them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


_MISSING = object()


def take_field(record: Mapping[str, Any], name: str, where: str) -> Any:
    """Value of a field that must exist; it may be null. `a.b` is the field `a.b`, or the field `b` of the object `a`.

    Raises:
        RecordError: the record has no such field.
    """
    value = find_field(record, name, _MISSING)
    if value is _MISSING:
        fields = ", ".join(map(str, record)) or "none"
        raise RecordError(f"{where}: there is no field {name!r}; it has {shortened(fields)}", "missing_field")
    return value


def find_field(record: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Value of a field, or a default where the record has no such field; see `take_field`."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def checked_text(value: Any, name: str, where: str) -> str:
    """A value that must be a text. Half of a surrogate pair, which JSON can spell but UTF-8 cannot, becomes U+FFFD.

    Raises:
        RecordError: the value is not a text.
    """
    if not isinstance(value, str):
        raise RecordError(f"{where}: the field {name!r} must be a text, found {shown(value)}", "wrong_type")
    return encodable(value)


def checked_id(value: Any, name: str, where: str) -> str:
    """A value that must be an id, a text or an integer; returned as a text.

    Args:
        value: value of the record.
        name: name of its field, for messages.
        where: file and line of the record, for messages.

    Raises:
        RecordError: the value is not an id, is blank, or has control characters.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        message = f"{where}: the id {name!r} must be a text or a whole number, found {shown(value)}"
        raise RecordError(message, "unusable_id")
    return check_id(str(value), where)


def check_id(identity: str, where: str) -> str:
    """Check that an id can be written to every kind of file, and return it.

    Raises:
        RecordError: the id has control characters such as tabs and line ends, or half of a surrogate pair.
    """
    control = _CONTROL.search(identity)
    if control is None:
        return identity
    raise RecordError(
        f"{where}: the id {shown(identity)} has control characters (U+{ord(control[0]):04X} at position "
        f"{control.start()}), which break lines and columns of every output. Replace them, for example by a hyphen.",
        "unusable_id",
    )
