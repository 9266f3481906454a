"""Base class of every settings section, and the names that may stand for folders and columns."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

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


class Section(BaseModel):
    """A group of knobs: frozen, and a name it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


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
