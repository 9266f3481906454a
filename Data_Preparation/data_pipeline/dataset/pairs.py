"""Pairs and triples for contrastive training, gathered from the rows of a dataset."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.dataset.batched import BatchedDataset
from data_pipeline.dataset.samples import Batch, Sample
from data_pipeline.errors import SourceError
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray

if TYPE_CHECKING:
    import polars as pl

    from data_pipeline.user_files.tables import Role, UserTable

# The columns of a table of pairs, and of `triples.jsonl` as `elm label` writes it; others are ignored.
_COLUMNS: "Mapping[str, Role]" = {
    "anchor_id": "id",
    "query": "text",
    "positive_id": "id",
    "positive_doc_ids": "id",
    "negative_id": "id",
    "hard_negative_doc_ids": "id",
}


class PairDataset(BatchedDataset):
    """A dataset whose samples hold several rows by role: `anchor`, `positive`, `negative` (or `negative_1`, ...).

    Each role has what the underlying dataset gives for that row; an anchor that is a query has a
    `text` only. `ELMDataset.pairs` makes it.

    Args:
        dataset: the dataset with the rows.
        roles: index of each sample's row by role, shape (N,) each.
        queries: texts of the anchors, where the anchors are not rows.
    """

    def __init__(self, dataset: BatchedDataset, roles: Mapping[str, IntArray], queries: list[str] | None) -> None:
        self.dataset, self._roles, self._queries = dataset, dict(roles), queries

    def __len__(self) -> int:
        return len(self._roles["positive"])

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            IndexError: the index is out of range.
        """
        return self.__getitems__([index])[0]

    def gather(self, index: IntArray) -> Batch:
        """See `BatchedDataset`."""
        columns: dict[str, Any] = {}
        if self._queries is not None:
            columns["anchor"] = {"text": [self._queries[i] for i in index.tolist()]}
        # One gather for all roles.
        batch = self.dataset.gather(np.concatenate([rows[index] for rows in self._roles.values()]))
        for number, role in enumerate(self._roles):
            columns[role] = batch.part(number * len(index), len(index))
        return Batch(columns, len(index))

    def prepare(self, index: IntArray, count: int = 1) -> None:
        """See `BatchedDataset`."""
        runs = np.minimum((index[:, None] + np.arange(count)).ravel(), len(self) - 1)
        self.dataset.prepare(np.concatenate([rows[runs] for rows in self._roles.values()]))

    @cached_property
    def fingerprint(self) -> str:
        """See `BatchedDataset`."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        for role, rows in self._roles.items():
            digest.update(role.encode() + rows.tobytes())
        for query in self._queries or ():
            digest.update(hashlib.sha256(query.encode()).digest())
        return digest.hexdigest()


def read_pairs(
    rows: Rows, triples: "str | Path | pl.DataFrame", negatives: int | None
) -> tuple[dict[str, IntArray], list[str] | None]:
    """Read a table of pairs; see `ELMDataset.pairs`.

    Returns:
        The `roles` and `queries` of a `PairDataset`.
    """
    # polars, which training does without
    from data_pipeline.store.lookup import rows_of_ids
    from data_pipeline.user_files.tables import read_table

    user_table = read_table(triples, _COLUMNS)
    table, where = user_table.frame, user_table.where
    positive = _only_column(user_table, "positive_id", "positive_doc_ids")
    anchor = _only_column(user_table, "anchor_id", "query")
    negative = next((name for name in ("negative_id", "hard_negative_doc_ids") if name in table.columns), None)
    if negatives is None:
        negatives = 0 if negative is None else 1
    if negatives and negative is None:
        raise SourceError(
            f"{where} has no column negative_id or hard_negative_doc_ids; it has {', '.join(user_table.names)}"
        )
    if positive == "positive_doc_ids":
        table = table.explode(positive).drop_nulls(positive)
    roles = {"positive": rows_of_ids(rows, table[positive].to_list(), where)}
    queries = table[anchor].to_list() if anchor == "query" else None
    if queries is None:
        roles = {"anchor": rows_of_ids(rows, table[anchor].to_list(), where), **roles}
    if negatives and negative is not None:
        lists = [_as_list(ids) for ids in table[negative].to_list()]
        short = next((row for row, ids in enumerate(lists) if len(ids) < negatives), None)
        if short is not None:
            raise SourceError(
                f"{where}: the pair with {table[positive][short]!r} has {len(lists[short])} negatives, expected "
                f"{negatives} or more. Ask for fewer negatives, or filter the table."
            )
        for number in range(negatives):
            role = "negative" if negatives == 1 else f"negative_{number + 1}"
            roles[role] = rows_of_ids(rows, [ids[number] for ids in lists], where)
    return roles, queries


def _only_column(table: "UserTable", *names: str) -> str:
    present = [name for name in names if name in table.names]
    if len(present) != 1:
        raise SourceError(
            f"{table.where} must have one of the columns {' and '.join(names)}; it has {', '.join(table.names)}"
        )
    return present[0]


def _as_list(ids: Any) -> list[Any]:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]
