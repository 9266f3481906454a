"""Base class of all settings sections, and the types of folder and column names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from data_pipeline.utils import shown
from data_pipeline.utils.urls import is_url, without_secrets

_RESERVED_NAMES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}


def _plain_name(name: str) -> str:
    if not name or name in {".", ".."} or any(c in r'\/:*?"<>|' or ord(c) < 32 for c in name):
        raise ValueError(f"{name!r} must be a plain folder name, without slashes or control characters")
    # Data folders are copied between machines, so a name that Windows does not allow is rejected everywhere.
    if name.split(".")[0].strip().upper() in _RESERVED_NAMES or name[-1] in ". ":
        raise ValueError(
            f"{name!r} cannot name a folder on Windows (reserved there, or it ends in a dot or space); use another name"
        )
    return name


FolderName = Annotated[str, AfterValidator(_plain_name)]
"""Name that a folder can have on every operating system."""

PathText = Annotated[str, PlainSerializer(without_secrets, when_used="json")]
"""Path or URL; saved configs leave out the parts of a URL that may hold secrets."""

DataLocation = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value),
    AfterValidator(lambda value: value if is_url(value) else str(Path(value))),
    PlainSerializer(without_secrets, when_used="json"),
]
"""Path of a data folder or its URL; saved configs leave out the parts of a URL that may hold secrets."""

_OWN_COLUMNS = {
    "text_id", "text", "token_count", "char_count", "document_id", "title", "section", "source_split", "raw",
    "chunk_index", "char_start", "char_end", "document_number",
}  # fmt: skip


def _column_name(name: str) -> str:
    if name in _OWN_COLUMNS:
        raise ValueError(f"{name!r} is a column of every corpus; give the field another name in your records")
    return name


ColumnName = Annotated[str, AfterValidator(_column_name)]
"""Name of a metadata column, other than the columns that every corpus has."""


def setting(default: Any = ..., *, decides: bool = True, added: bool = False, **constraints: Any) -> Any:
    """Declare a field of a section, like pydantic's `Field`.

    Args:
        default: value of the field if none is given.
        decides: whether the field decides the bytes of an output. A field that only says how they are computed (a
            device, a batch size) or where something is stored (a folder identified by a hash of its content) does not:
            finished work remains valid when its value changes.
        added: whether the field was added to a section of a released version, and its default does what that version
            did. It is left out of fingerprints at its default, so that finished work of that version remains valid.
        constraints: further arguments of `Field`.
    """
    if "default_factory" not in constraints:
        constraints["default"] = default
    marks: dict[str, Any] = ({} if decides else {"decides": False}) | ({"added": True} if added else {})
    return Field(**constraints, json_schema_extra=marks or None)


class Section(BaseModel):
    """A frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _paths_are_local(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is not None and isinstance(value, str) and is_url(value) and _is_path(field.annotation):
                raise ValueError(f"{name}: {without_secrets(value)} is a URL; expected a path on this machine")
        return values

    def deciding(self, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the settings that decide the bytes of an output, as JSON values for a fingerprint.

        Args:
            exclude_defaults: whether to leave out settings that have their default value.
        """
        return _keep_deciding(self, self.model_dump(mode="json", exclude_defaults=exclude_defaults))


def _is_path(annotation: Any) -> bool:
    return annotation is Path or annotation == Path | None


def _keep_deciding(value: object, dumped: Any) -> Any:
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: _keep_deciding(getattr(value, name), inner)
            for name, inner in dumped.items()
            if decides(fields[name]) and not _is_added_default(fields[name], getattr(value, name))
        }
    if isinstance(value, list | tuple):
        return [_keep_deciding(part, inner) for part, inner in zip(value, dumped, strict=True)]
    if isinstance(value, dict):
        return {name: _keep_deciding(part, dumped[name]) for name, part in value.items() if name in dumped}
    return dumped


def _is_added_default(field: FieldInfo, value: object) -> bool:
    extra = field.json_schema_extra
    if not (isinstance(extra, dict) and "added" in extra):
        return False
    default = field.get_default(call_default_factory=True)
    if isinstance(value, Section) and isinstance(default, Section):
        return value.deciding() == default.deciding()
    return bool(value == default)


def decides(field: FieldInfo) -> bool:
    """Return whether a field decides the bytes of an output (see `setting`)."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("decides") is False)


def explain(error: ValidationError) -> str:
    """Describe a validation error: one line per invalid setting, with its dotted name."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "config"
        # Users sometimes enter the key itself instead of the name of its environment variable.
        secret = name.endswith("api_key_env") or problem["type"] == "missing"
        # A check of several settings names their values itself.
        is_section = isinstance(problem["input"], Mapping | Section) and problem["type"] == "value_error"
        value_found = "" if secret or is_section else f" (found {shown(problem['input'], 200)})"
        reason = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{name}: {reason.removeprefix('Value error, ')}{value_found}")
    return "\n".join(lines)
