"""What selectors may look at.

A selector says what it needs, and is shown nothing else: none sees labels unless its record says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.types import IntArray

Need = str
"""`embeddings`, `texts`, `labels`, `token_counts`, `score:<column>`, or `subset:<name>`."""

_NAMES = ("embeddings", "texts", "labels", "token_counts")
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Features:
    """N rows, by position; every array is of length N.

    Raises:
        SelectionError: two rows have the same id, or an array is of another length.
    """

    ids: Sequence[str]
    embeddings: NDArray[Any] | torch.Tensor | None = None
    """Shape (N, D), floats of any width; may be mapped from a file, or on a GPU."""
    texts: Sequence[str] | None = None
    labels: IntArray | None = None
    """Classes, counted from 0."""
    token_counts: IntArray | None = None
    scores: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Numbers by column."""
    subsets: Mapping[str, IntArray] = field(default_factory=dict)
    """Rows of earlier selections by name, each the most wanted first."""
    seen: Mapping[Need, frozenset[Need]] = field(default_factory=dict)
    """What a feature was made from beside the texts, so that it is not forgotten: `score:el2n` from `labels`."""

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            seen: set[str] = set()
            twice = next(name for name in self.ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise SelectionError(
                f"the id {twice!r} is there twice; a selection is a list of ids, give each row its own"
            )
        columns = {"embeddings": self.embeddings, "texts": self.texts, "labels": self.labels,
                   "token_counts": self.token_counts, **self.scores}  # fmt: skip
        for name, values in columns.items():
            if values is not None and len(values) != len(self.ids):
                raise SelectionError(f"{name} has {len(values)} rows, and there are {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, needs: Sequence[Need] | frozenset[Need]) -> "Features":
        """The same rows with nothing but what `needs` names.

        Raises:
            SelectionError: something of that is not there.
        """
        for need in sorted(needs):
            self._get(need)
        scores = {name: values for name, values in self.scores.items() if f"score:{name}" in needs}
        subsets = {name: rows for name, rows in self.subsets.items() if f"subset:{name}" in needs}
        hidden = {name: None for name in _NAMES if name not in needs}
        return replace(self, scores=scores, subsets=subsets, **hidden)  # type: ignore[arg-type]

    def rows(self, rows: IntArray) -> "Features":
        """Some rows, in that order; vectors are copied, and of earlier selections what is among them."""
        places = np.full(len(self), -1)
        places[rows] = np.arange(len(rows))
        subsets = {name: places[old] for name, old in self.subsets.items()}

        def some(values: Any) -> Any:
            if values is None:
                return None
            if isinstance(values, torch.Tensor):
                return values[torch.from_numpy(rows).to(values.device)]
            return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]

        return Features(
            some(self.ids), some(self.embeddings), some(self.texts), some(self.labels), some(self.token_counts),
            {name: some(values) for name, values in self.scores.items()},
            {name: found[found >= 0] for name, found in subsets.items()}, self.seen,
        )  # fmt: skip

    def vectors(self) -> NDArray[Any] | torch.Tensor:
        """The embeddings, every number of which is finite.

        Raises:
            SelectionError: there are none, or one is NaN or infinite.
        """
        found: NDArray[Any] | torch.Tensor = self._get("embeddings")
        if found.ndim != 2 or not found.shape[1]:
            raise SelectionError(f"embeddings must be of shape (rows, dimensions), found {tuple(found.shape)}")
        for start in range(0, len(found), _BLOCK_ROWS):
            bad = _broken_rows(found[start : start + _BLOCK_ROWS])
            if len(bad):
                row = start + int(bad[0])
                raise SelectionError(
                    f"the embedding of row {row} ({self.ids[row]!r}) is NaN or infinite; embed it again or leave it out"
                )
        return found

    def score(self, name: str) -> NDArray[np.float64]:
        """A score column as float64, every number of which is finite.

        Raises:
            SelectionError: there is none of that name, or a value is NaN or infinite.
        """
        found = np.asarray(self._get(f"score:{name}"), np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(found))):
            raise SelectionError(
                f"the score {name!r} of row {bad[0]} ({self.ids[bad[0]]!r}) is {found[bad[0]]}, as are {len(bad) - 1} "
                "more; compute it again, or leave those rows out"
            )
        return found

    def _get(self, need: Need) -> Any:
        kind, _, name = need.partition(":")
        found = {"score": self.scores, "subset": self.subsets}[kind].get(name) if name else getattr(self, need)
        if found is None:
            there = [
                name for name in ("embeddings", "texts", "labels", "token_counts") if getattr(self, name) is not None
            ]
            there += [f"score:{name}" for name in self.scores] + [f"subset:{name}" for name in self.subsets]
            raise SelectionError(f"this needs the feature {need!r}; there are {', '.join(there) or 'none'}")
        return found

    def subset(self, name: str) -> IntArray:
        """Rows of an earlier selection, the most wanted first.

        Raises:
            SelectionError: there is none of that name.
        """
        found: IntArray = self._get(f"subset:{name}")
        return found

    def need_texts(self) -> Sequence[str]:
        """The texts.

        Raises:
            SelectionError: there are none.
        """
        found: Sequence[str] = self._get("texts")
        return found

    def need_labels(self) -> IntArray:
        """The labels.

        Raises:
            SelectionError: there are none.
        """
        found: IntArray = self._get("labels")
        return found

    def need_token_counts(self) -> IntArray:
        """The token counts.

        Raises:
            SelectionError: there are none.
        """
        found: IntArray = self._get("token_counts")
        return found


def _broken_rows(block: NDArray[Any] | torch.Tensor) -> IntArray:
    """Rows with a number that is not finite; those whose sum is finite have none, and need no second look."""
    if isinstance(block, torch.Tensor):
        return torch.nonzero(~torch.isfinite(block).all(dim=1))[:, 0].cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float32)))
    found: IntArray = suspects[~np.isfinite(block[suspects].astype(np.float64)).all(axis=1)]
    return found
