"""The records that travel between the stages, and the aliases for arrays.

Shape suffixes used all over the package: N rows, D width of a vector, L tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
MetadataValue: TypeAlias = str | int | float | bool | None

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

TextFormat = Literal["wikitext", "plain"]


@dataclass(frozen=True, slots=True)
class Document:
    """One article or record as its source gave it; nothing in it is cleaned yet."""

    id: str
    """Unique in the corpus and stable: the same document gets it in every run."""
    text: str
    """Lines separated by newlines, a blank line between blocks."""
    format: TextFormat = "plain"
    """`wikitext` has headings (`= Title =`) and spaced-out punctuation; `plain` has neither."""
    title: str = ""
    source_split: str = ""
    """Split the source itself put it in (`train`, `val`, `test`), or empty."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
