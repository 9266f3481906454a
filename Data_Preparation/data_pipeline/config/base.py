"""Base class of every settings section, and the names that may stand for folders and columns."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from data_pipeline.utils import shown

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
    # A data folder is copied between machines: a name that Windows has no folder for is refused everywhere.
    if name.split(".")[0].strip().upper() in _RESERVED_NAMES or name[-1] in ". ":
        raise ValueError(
            f"{name!r} cannot name a folder on Windows (reserved there, or it ends in a dot or space); use another name"
        )
    return name


FolderName = Annotated[str, AfterValidator(_plain_name)]

_OWN_COLUMNS = {
    "text_id", "text", "token_count", "char_count", "document_id", "title", "section", "source_split", "raw",
}  # fmt: skip


def _column_name(name: str) -> str:
    if name in _OWN_COLUMNS:
        raise ValueError(f"{name!r} is a column of every corpus; give the field another name in your records")
    return name


ColumnName = Annotated[str, AfterValidator(_column_name)]


def setting(default: Any = ..., *, decides: bool = True, **constraints: Any) -> Any:
    """A field of a section, as pydantic's `Field`.

    Args:
        default: value of the field where none is given.
        decides: whether the field decides the bytes of an output. One that only says how they are computed (a device, a
            batch size) or where something is (a folder that is known by a hash of its content) does not: work that was
            done with another value of it is not done again.
        constraints: further arguments of `Field`.
    """
    if "default_factory" not in constraints:
        constraints["default"] = default
    return Field(**constraints, json_schema_extra=None if decides else {"decides": False})


class Section(BaseModel):
    """A group of settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def deciding(self, exclude_defaults: bool = False) -> dict[str, Any]:
        """The settings that decide the bytes of an output, as JSON values: what fingerprints are made of.

        Args:
            exclude_defaults: leave out those that have their default.
        """
        return _without_undeciding(self, self.model_dump(mode="json", exclude_defaults=exclude_defaults))


def _without_undeciding(value: object, dumped: Any) -> Any:
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: _without_undeciding(getattr(value, name), inner)
            for name, inner in dumped.items()
            if decides(fields[name])
        }
    if isinstance(value, list | tuple):
        return [_without_undeciding(part, inner) for part, inner in zip(value, dumped, strict=True)]
    if isinstance(value, dict):
        return {name: _without_undeciding(part, dumped[name]) for name, part in value.items() if name in dumped}
    return dumped


def decides(field: FieldInfo) -> bool:
    """Whether a field decides the bytes of an output; see `setting`."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("decides") is False)


def explain(error: ValidationError) -> str:
    """One line for each thing that is wrong, with its dotted name."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "config"
        # Where the name of a key's variable belongs, somebody may have put the key itself.
        secret = name.endswith("api_key_env") or problem["type"] == "missing"
        found = "" if secret else f" (found {shown(problem['input'], 200)})"
        reason = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{name}: {reason.removeprefix('Value error, ')}{found}")
    return "\n".join(lines)
