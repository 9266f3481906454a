"""What a metric is: its columns, its settings, what it needs, and the function that computes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import Section
from data_pipeline.selection.features import Features, Need
from data_pipeline.store.reader import Rows

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Measure:
    """An entry of the table of measures."""

    columns: tuple[str, ...]
    config: type[Section]
    compute: Callable[[Rows, Features, Any], Columns]
    """(rows, their features, config) -> a number for every row, by column."""
    needs: frozenset[Need]
    sees: frozenset[Need] = frozenset()
    """What a selection by it has seen, beside texts and vectors."""
    row_by_row: bool = True
    """A row's numbers do not depend on the others: computed and kept file by file."""
    identity: Callable[[Any], Mapping[str, str]] = lambda config: {}
    """config -> hashes of the models and heads that it names."""
    reads: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """config -> score columns that it reads."""
