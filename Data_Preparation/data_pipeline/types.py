"""Records that are passed between stages, and type aliases of arrays.

Shape suffixes of names in the package: N rows, D width of a vector, L tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
MetadataValue: TypeAlias = str | int | float | bool | None

METADATA_TYPES: Mapping[str, type[str | int | float | bool]] = {"str": str, "int": int, "float": float, "bool": bool}
"""Types of metadata columns, by the names that configs use."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""Names of all splits, in their order."""

TextFormat = Literal["wikitext", "markdown", "plain"]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """Record of a source that is no document."""

    where: str
    """File, relative to the folder of the corpus, and line or row."""
    reason: str
    """Word for the drop ledger, such as `wrong_type`."""
    message: str
    """What is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """Document of a source, before cleaning."""

    id: str
    """Id that is unique in the corpus and the same in every run."""
    text: str
    """Text with lines separated by newlines and blocks separated by blank lines."""
    format: TextFormat = "plain"
    """Format of the text: `wikitext` has headings (`= Title =`) and spaced-out punctuation, `markdown` has the headings
    of CommonMark, `plain` has neither."""
    title: str = ""
    """Title of the document, or empty."""
    source_split: str = ""
    """Official split of the source (`train`, `val`, `test`), or empty."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Values of the metadata columns, by column name."""


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """Item of an evaluation set, such as a query or a question with its answer."""

    name: str
    """Name for the drop ledger: file or dataset, and id."""
    texts: tuple[str, ...]
    """Texts of the item, each compared on its own."""


@dataclass(frozen=True)
class EvaluationSet:
    """Evaluation set, for decontamination."""

    name: str
    """Name for messages, as the user gave it."""
    identity: Mapping[str, str]
    """Hashes of the content by file or split; part of the fingerprint."""
    items: Callable[[], Iterator[EvaluationItem]]
    """Iterates over the items; each call starts from the first one."""
