"""Features of rows that selectors read.

A selector declares what it needs and is shown nothing else: no selection depends on labels without saying so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.types import IntArray

Need = str
"""Name of a feature: `embeddings`, `texts`, `labels`, `token_counts`, `score:<column>` or `subset:<name>`."""

_NAMES = ("embeddings", "texts", "labels", "token_counts")
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Features:
    """Features of N rows; every array has length N.

    Raises:
        SelectionError: Two rows have the same id, or an array has another length.
    """

    ids: Sequence[str]
    """Id of each row, all distinct."""
    embeddings: NDArray[Any] | torch.Tensor | None = None
    """Shape (N, D), floats of any width; may be mapped from a file, or on a GPU."""
    texts: Sequence[str] | None = None
    """Text of each row."""
    labels: IntArray | None = None
    """Shape (N,), class of each row, counted from 0."""
    token_counts: IntArray | None = None
    """Shape (N,), tokens of each row."""
    scores: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Score columns by name, each of shape (N,)."""
    subsets: Mapping[str, IntArray] = field(default_factory=dict)
    """Rows of existing selections by name, best first."""
    seen: Mapping[Need, frozenset[Need]] = field(default_factory=dict)
    """Other features that a feature was computed from, such as `labels` for `score:el2n`: a selection records them."""

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            duplicate = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise SelectionError(f"duplicate id {duplicate!r}. A selection is a list of ids: give each row its own")
        columns = {"embeddings": self.embeddings, "texts": self.texts, "labels": self.labels,
                   "token_counts": self.token_counts, **self.scores}  # fmt: skip
        for name, values in columns.items():
            if values is not None and len(values) != len(self.ids):
                raise SelectionError(f"{name} has {len(values)} rows, expected {len(self.ids)}, one per id")

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, needs: Sequence[Need] | frozenset[Need]) -> "Features":
        """The same rows with only the given features.

        Raises:
            SelectionError: One of the features is missing.
        """
        for need in sorted(needs):
            self._get(need)
        scores = {name: values for name, values in self.scores.items() if f"score:{name}" in needs}
        subsets = {name: rows for name, rows in self.subsets.items() if f"subset:{name}" in needs}
        hidden = {name: None for name in _NAMES if name not in needs}
        return replace(self, scores=scores, subsets=subsets, **hidden)  # type: ignore[arg-type]

    def rows(self, rows: IntArray) -> "Features":
        """Features of the given rows in that order; embeddings are copied, existing selections are restricted to them.

        Args:
            rows: Shape (K,), positions of the rows.
        """
        positions = np.full(len(self), -1)
        positions[rows] = np.arange(len(rows))
        subsets = {name: positions[subset] for name, subset in self.subsets.items()}

        def take(values: Any) -> Any:
            if values is None:
                return None
            if isinstance(values, torch.Tensor):
                return values[torch.from_numpy(rows).to(values.device)]
            return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]

        return Features(
            take(self.ids), take(self.embeddings), take(self.texts), take(self.labels), take(self.token_counts),
            {name: take(values) for name, values in self.scores.items()},
            {name: subset[subset >= 0] for name, subset in subsets.items()}, self.seen,
        )  # fmt: skip

    def vectors(self) -> NDArray[Any] | torch.Tensor:
        """The embeddings, shape (N, D), after checking that all values are finite.

        Raises:
            SelectionError: The embeddings are missing or not two-dimensional, or one is NaN or infinite.
        """
        embeddings: NDArray[Any] | torch.Tensor = self._get("embeddings")
        if embeddings.ndim != 2 or not embeddings.shape[1]:
            raise SelectionError(f"embeddings must have the shape (rows, dimensions), found {tuple(embeddings.shape)}")
        for start in range(0, len(embeddings), _BLOCK_ROWS):
            if len(bad := _nonfinite_rows(embeddings[start : start + _BLOCK_ROWS])):
                row = start + int(bad[0])
                raise SelectionError(
                    f"the embedding of row {row} ({self.ids[row]!r}) is NaN or infinite. Embed it again, or leave the "
                    "row out"
                )
        return embeddings

    def score(self, name: str) -> NDArray[np.float64]:
        """A score column as float64, shape (N,), after checking that all values are finite.

        Raises:
            SelectionError: The score is missing, or a value is NaN or infinite.
        """
        scores = np.asarray(self._get(f"score:{name}"), np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(scores))):
            raise SelectionError(
                f"score {name!r} of row {bad[0]} ({self.ids[bad[0]]!r}) is {scores[bad[0]]}, and {len(bad) - 1} more "
                "are NaN or infinite. Compute the score again, or leave those rows out"
            )
        return scores

    def _get(self, need: Need) -> Any:
        kind, _, name = need.partition(":")
        feature = {"score": self.scores, "subset": self.subsets}[kind].get(name) if name else getattr(self, need)
        if feature is None:
            available = [name for name in _NAMES if getattr(self, name) is not None]
            available += [f"score:{name}" for name in self.scores] + [f"subset:{name}" for name in self.subsets]
            raise SelectionError(f"missing feature {need!r}; available: {', '.join(available) or 'none'}")
        return feature

    def subset(self, name: str) -> IntArray:
        """Rows of an existing selection, best first.

        Raises:
            SelectionError: The selection is missing.
        """
        return self._get(f"subset:{name}")

    def need_texts(self) -> Sequence[str]:
        """The texts.

        Raises:
            SelectionError: The texts are missing.
        """
        return self._get("texts")

    def need_labels(self) -> IntArray:
        """The labels, shape (N,).

        Raises:
            SelectionError: The labels are missing.
        """
        return self._get("labels")

    def need_token_counts(self) -> IntArray:
        """The token counts, shape (N,).

        Raises:
            SelectionError: The token counts are missing.
        """
        return self._get("token_counts")


def _nonfinite_rows(block: NDArray[Any] | torch.Tensor) -> IntArray:
    """Rows with a value that is not finite. Only rows whose sum is not finite are checked value by value."""
    if isinstance(block, torch.Tensor):
        return torch.nonzero(~torch.isfinite(block).all(dim=1))[:, 0].cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float32)))
    return suspects[~np.isfinite(block[suspects].astype(np.float64)).all(axis=1)]
