"""Records of a JSON Lines file for the embedding pipeline: text, id, label and stored keys."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import SourceError
from data_pipeline.integrations.ml_filter.jobs import EmbeddingParameters
from data_pipeline.store.hdf5 import OWN_COLUMNS
from data_pipeline.user_files import check_id, json_records, take_field
from data_pipeline.utils import encodable, shown

logger = logging.getLogger(__name__)

_ID_KEYS = ("document_id", "doc_id", "id", "uuid")
_LABEL_KEYS = ("label", "labels", "score", "scores")
_NO_LABEL = ("invalid", None)  # what ML-Filter writes where annotators gave no usable answer


@dataclass(frozen=True, slots=True)
class InputRecord:
    """Record of one line."""

    id: str
    text: str
    label: float | list[float] | None
    values: Mapping[str, Any]
    """Values of all keys."""


@dataclass(frozen=True)
class InputFile:
    """Input file, and the keys that its records are read with."""

    path: Path
    name: str
    """Path relative to the input folder, without its ending, which names the output."""
    params: EmbeddingParameters
    id_key: str | None
    """Key with the document id; None for line numbers or joined keys."""
    label_key: str | None
    """Key with the label; None if labels are not stored."""

    def records(self) -> Iterator[InputRecord]:
        """Iterate over all records, in order.

        Raises:
            SourceError: a line is invalid; the message names it.
        """
        for number, values in json_records(self.path):
            where = f"{self.path}, line {number}"
            yield InputRecord(
                self._id(values, number, where), self._text(values, where), self._label(values, where), values
            )

    def _text(self, values: Mapping[str, Any], where: str) -> str:
        keys = self.params.keys_to_index
        for key in keys:
            take_field(values, key, where)
        named = [self.params.text_field] if self.params.text_field else keys
        return "\n".join(_text(take_field(values, key, where), key, where) for key in named)

    def _id(self, values: Mapping[str, Any], number: int, where: str) -> str:
        if self.id_key is not None:
            document_id = _name(take_field(values, self.id_key, where), self.id_key, where)
        elif self.params.text_field:
            document_id = "__".join(
                _name(take_field(values, key, where), key, where) for key in self.params.keys_to_index
            )
        else:
            document_id = f"{self.name}_{number}"
        if not document_id:
            raise SourceError(f"{where}: the document's id is empty")
        return check_id(document_id, where)

    def _label(self, values: Mapping[str, Any], where: str) -> float | list[float] | None:
        if self.label_key is None:
            return None
        label = values.get(self.label_key)
        if isinstance(label, list):
            return [_number(value, self.label_key, where) for value in label]
        return None if label in _NO_LABEL else _number(label, self.label_key, where)


def open_source(path: Path, name: str, params: EmbeddingParameters) -> InputFile:
    """Find the keys of a file that have the id and the label."""
    id_key, label_key = params.id_key, params.label_key if params.save_labels else None
    by_first = id_key is None and params.text_field is None
    by_any = params.save_labels and label_key is None
    for _, values in json_records(path):
        if by_first:
            id_key = next((key for key in _ID_KEYS if key in values), None)
            by_first = False
        if by_any:
            label_key = next((key for key in _LABEL_KEYS if key in values), None)
            by_any = label_key is None
        if not by_any:
            break
    _warn_of_unused_text(path, params)
    return InputFile(path, name, params, id_key, label_key)


def _warn_of_unused_text(path: Path, params: EmbeddingParameters) -> None:
    """Warn if `text` is not embedded: ML-Filter makes ids of `keys_to_index`, so its users may mean another text."""
    if params.text_field is not None or "text" in params.keys_to_index:
        return
    for _, values in json_records(path):
        if "text" in values:
            logger.warning(
                "%s: the values of %s are embedded, as keys_to_index says, and 'text' is not. If the text is meant, "
                "set text_field: text.",
                path, ", ".join(params.keys_to_index),
            )  # fmt: skip
        return


@dataclass
class Survey:
    """Summary of the records of a file, made by reading it once before the computation."""

    rows: int = 0
    keys: dict[str, bool] = field(default_factory=dict)
    """Keys to store in order of appearance, and whether all rows have plain text."""
    targets: int | None = None
    """Number of labels per row; 0 for a single number, None if no row has a label."""
    without_label: int = 0


def survey(source: InputFile) -> Survey:
    """Read a file once: count its rows, and find its keys and labels.

    Raises:
        SourceError: a line is invalid, or labels have different lengths.
    """
    result, seen = Survey(), dict[str, int]()
    keys_to_keep = source.params.keys_to_keep
    required = [key for key in source.params.keys_to_index if key not in OWN_COLUMNS]
    for record in source.records():
        result.rows += 1
        names = (
            record.values
            if keys_to_keep is None
            else [*required, *(key for key in keys_to_keep if key in record.values)]
        )
        for key in dict.fromkeys(names):
            if key in OWN_COLUMNS:
                continue
            result.keys[key] = result.keys.get(key, True) and is_plain(record.values[key])
            seen[key] = seen.get(key, 0) + 1
        _survey_label(result, record, source)
    result.keys = {key: plain and seen[key] == result.rows for key, plain in result.keys.items()}
    return result


def _survey_label(result: Survey, record: InputRecord, source: InputFile) -> None:
    if record.label is None:
        result.without_label += 1
        return
    targets = len(record.label) if isinstance(record.label, list) else 0
    if result.targets not in (None, targets) or record.label == []:
        raise SourceError(
            f"{source.path}, document {record.id}: {source.label_key!r} is {record.label}, the labels before it "
            f"{'are single numbers' if not result.targets else f'have {result.targets} numbers'}; all must be alike"
        )
    result.targets = targets


def is_plain(value: Any) -> bool:
    """Return whether a value is a text that HDF5 can store: without NUL and lone surrogates."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored_value(record: InputRecord, key: str, plain: bool) -> str:
    """Return the stored value of a record key: its text, its JSON, or an empty text if the record lacks the key."""
    if plain:
        return str(record.values[key])
    return json.dumps(record.values[key]) if key in record.values else ""


def _text(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SourceError(f"{where}: {key!r} must be a text, found {shown(value)}")
    return encodable(str(value))


def _name(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"{where}: {key!r} makes the document's id and must be a text or a whole number, "
                          f"found {shown(value)}")  # fmt: skip
    return str(value)


def _number(value: Any, key: str, where: str) -> float:
    if value in _NO_LABEL:
        return math.nan
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise SourceError(f"{where}: the label {key!r} must be a number, found {shown(value)}")
