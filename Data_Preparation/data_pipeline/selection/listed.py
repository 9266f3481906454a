"""Rows that a list of ids names: a selection made by hand, in the explorer, or by another program."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import SelectionError, SourceError
from data_pipeline.selection.budget import Budget
from data_pipeline.selection.ranking import SelectorConfig
from data_pipeline.selection.selecting import Selection
from data_pipeline.user_files import read_lines
from data_pipeline.user_files.records import is_parquet
from data_pipeline.user_files.tables import read_table
from data_pipeline.utils import converted_errors, sha256_of_json, shown

NAME = "ids"
"""Name of the selector in the manifest; it is in no table, since it compares no rows."""
_TABLES = {".csv", ".tsv", ".jsonl", ".parquet"}
_NAMED = 5
"""Ids that a message names."""


class ListedConfig(SelectorConfig):
    """Parameters of a selection by a list."""

    ids_sha256: str
    """Hash of the ids in their order."""


@dataclass(frozen=True)
class ListedIds:
    """Ids of a list, in its order."""

    ids: Sequence[str]
    where: str
    """Source of the list, for messages."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the ids in their order."""
        return sha256_of_json(list(self.ids))


def read_listed_ids(path: Path) -> ListedIds:
    """Read ids from a file: one a line; or a parquet, CSV, TSV, JSON Lines or JSON file with a column `text_id`.

    Raises:
        SourceError: the file cannot be read, has no such column, or no id.
    """
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    if is_parquet(path) or _TABLES & set(path.suffixes):
        table = read_table(path, {"text_id": "id"})
        table.require("text_id")
        ids = [str(name) for name in table.frame["text_id"].to_list()]
    elif path.suffix == ".json":
        ids = _ids_of_json(path)
    else:
        ids = [text for _, text in read_lines(path) if text.strip()]
    if not ids:
        raise SourceError(f"{path} has no id")
    return ListedIds(ids, str(path))


def choose_listed(listed: ListedIds, ids: Sequence[str], split: str, others: Mapping[Any, Sequence[str]]) -> Selection:
    """Choose the rows of a list, in its order.

    Args:
        listed: the list.
        ids: ids of all rows of the split, in order.
        split: name of the split.
        others: ids of the other splits by name, for messages.

    Raises:
        SelectionError: an id is repeated, of another split, or of no row; the message names the first ones.
    """
    if repeated := [name for name, count in Counter(listed.ids).items() if count > 1]:
        raise SelectionError(
            f"{listed.where}: {_counted(len(repeated))} listed more than once: {_named(repeated)}. A subset has every "
            "row once; remove the others"
        )
    positions = {name: position for position, name in enumerate(ids)}
    if missing := [name for name in listed.ids if name not in positions]:
        raise SelectionError(f"{listed.where}: {_missing(missing, len(listed.ids), split, others)}")
    rows = np.array([positions[name] for name in listed.ids], np.int64)
    return ListedSelection(
        name=NAME,
        config=ListedConfig(ids_sha256=listed.sha256),
        budget=Budget(rows=len(rows)),
        seed=0,
        strata=None,
        sees=frozenset(),
        rows=rows,
        ids=list(listed.ids),
        values=None,
    )


@dataclass(frozen=True)
class ListedSelection(Selection):
    """Rows of a list."""

    @property
    def subset(self) -> str:
        """Name of the subset: number of rows, and a hash of the list."""
        return f"{NAME}_{self.budget.label}_{self.settings['parameters']['ids_sha256'][:8]}"


def _missing(missing: Sequence[str], total: int, split: str, others: Mapping[Any, Sequence[str]]) -> str:
    message = f"{len(missing):,} of {total:,} ids are not in {split}: {_named(missing)}"
    unknown = set(missing)
    for other, ids in others.items():
        known = set(ids)
        if elsewhere := [name for name in missing if name in known]:
            unknown -= set(elsewhere)
            message += (
                f". {_counted(len(elsewhere))} in {other} ({_named(elsewhere)}): select these with --split {other}"
            )
    if unknown and len(unknown) < len(missing):
        message += f". {_counted(len(unknown))} in no split ({_named([name for name in missing if name in unknown])})"
    elif unknown:
        message += ", nor in another split. `elm search` prints the ids of rows"
    return message


def _counted(number: int) -> str:
    return f"{number:,} id{' is' if number == 1 else 's are'}"


def _named(ids: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")


def _ids_of_json(path: Path) -> list[str]:
    """Ids of a JSON array of ids or of objects with `text_id`, or of an object whose `text_id` is an array."""
    advice = "A file with an object a line must end in .jsonl."
    with converted_errors((OSError, ValueError), SourceError, f"{path} cannot be read as JSON", advice):
        content = json.loads(path.read_text("utf-8-sig"))
    values: Any = content.get("text_id") if isinstance(content, dict) else content
    if not isinstance(values, list):
        raise SourceError(f"{path}: expected an array of ids, or of objects with text_id, found {shown(content)}")
    ids = []
    for number, value in enumerate(values, start=1):
        name = value.get("text_id") if isinstance(value, dict) else value
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise SourceError(f"{path}, item {number}: expected an id, or an object with text_id, found {shown(value)}")
        ids.append(str(name))
    return ids
