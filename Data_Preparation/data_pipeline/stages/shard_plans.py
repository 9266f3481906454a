"""Plan of a paragraph shard before it is embedded: which rows have vectors already, and how the others are packed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.embeddings import Embedder, Tokens, make_plan, spill, tokenize_with_prompt
from data_pipeline.embeddings.embed_to_file import TOKENIZED_ROWS
from data_pipeline.embeddings.plan import Plan
from data_pipeline.errors import ShardMismatchError
from data_pipeline.stages.reuse import Reuse, VectorPositions
from data_pipeline.store import Coding, ColumnHash, ParagraphShard, ParagraphStore
from data_pipeline.types import IntArray


@dataclass(frozen=True)
class ShardPlan:
    """What is to be done for a shard."""

    rows: IntArray
    """Rows to compute, ascending."""
    plan: Plan
    """Plan of their texts."""
    found: VectorPositions | None
    """Vectors that exist already; None if none were looked for."""
    truncated: int
    """Number of texts of the shard that are longer than the limit of the model."""


@dataclass(frozen=True)
class ShardPlanner:
    """Plans the shards of a split, one after another or in a thread."""

    embedder: Embedder
    coding: Coding
    folder: Path
    """Folder for the tokens, on a disk with room for 4 bytes for each."""
    special_tokens: int | None
    """Number of tokens added to every text; None if the stored counts are of another tokenizer."""
    reuse: Reuse | None
    """Finds vectors that exist already; None to compute all."""

    def plan(self, shard: ParagraphShard, span: tuple[int, int] | None = None) -> ShardPlan:
        """Plan a shard, or the rows from the first to the exclusive last one of `span`.

        Raises:
            ShardMismatchError: a stored token count is wrong, or the file has changed since it was opened.
        """
        found, counts = None, self._token_counts(shard)
        first, last = span or (0, shard.rows)
        if self.reuse is not None:
            found = self.reuse.find(shard, self.coding, counts).within(first, last)
        rows = np.arange(first, last) if found is None else first + np.flatnonzero(found.sources[first:last] < 0)
        plan = self.plan_rows(shard, rows)
        truncated = int(plan.tokens.truncated.sum())
        if found is not None:
            truncated += self._truncated_among(shard, np.flatnonzero(found.sources >= 0), counts)
        return ShardPlan(rows, plan, found, truncated)

    def plan_rows(self, shard: ParagraphShard, rows: IntArray) -> Plan:
        """Plan the texts of some rows, ascending; see `plan`."""
        return make_plan(spill(self._tokenized(shard, rows), self.folder))

    def rows_to_compute(self, shard: ParagraphShard) -> IntArray:
        """Rows of a shard without a vector."""
        if self.reuse is None:
            return np.arange(shard.rows)
        return self.reuse.find(shard, self.coding, self._token_counts(shard)).missing

    def _truncated_among(self, shard: ParagraphShard, rows: IntArray, counts: IntArray | None) -> int:
        """Number of rows whose text is longer than the limit of the model."""
        limit = self.embedder.identity.max_length
        if not limit:
            return 0
        if counts is not None:
            return int((counts[rows] > limit).sum())
        return sum(int(tokens.truncated.sum()) for tokens in self._tokenized(shard, rows))

    def _token_counts(self, shard: ParagraphShard) -> IntArray | None:
        """Tokens of each text of a shard, special tokens included; None if the stored counts do not say.

        The tokens of a prompt are not counted among them, so they say nothing where there is one.
        """
        if self.reuse is None or self.special_tokens is None or self.embedder.identity.prompt:
            return None
        return shard.numbers("token_count") + self.special_tokens

    def _tokenized(self, shard: ParagraphShard, rows: IntArray) -> Iterator[Tokens]:
        """Tokenize rows of a shard, ascending, in batches of its rows."""
        if not len(rows):
            return
        seen_ids, seen_texts = ColumnHash(), ColumnHash()
        columns = ["text_id", "text", "token_count"]
        start = 0
        for batch in shard.batches(columns, TOKENIZED_ROWS):
            seen_ids.update(batch["text_id"].to_pylist())
            seen_texts.update(batch["text"].to_pylist())
            first, last = np.searchsorted(rows, [start, start + batch.num_rows])
            batch, start = batch.take(pa.array(rows[first:last] - start)), start + batch.num_rows
            if not batch.num_rows:
                continue
            tokens = tokenize_with_prompt(self.embedder, batch["text"].to_pylist(), self.embedder.identity.prompt)
            self._check_counts(shard, batch, tokens)
            yield tokens
        if (seen_ids.hexdigest(), seen_texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
            raise ShardMismatchError(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")

    def _check_counts(self, shard: ParagraphShard, batch: pa.RecordBatch, tokens: Tokens) -> None:
        if self.special_tokens is None:
            return
        own_counts = tokens.lengths - self.special_tokens
        wrong = np.flatnonzero((own_counts != batch["token_count"].to_numpy()) & ~tokens.truncated)
        if len(wrong):
            name, count = (batch[column][int(wrong[0])].as_py() for column in ("text_id", "token_count"))
            raise ShardMismatchError(
                f"{shard.path} says that {name} has {count} tokens, its tokenizer finds {own_counts[wrong[0]]}. Set "
                "preprocess.fast_tokens to off, run again with --overwrite, and please report this text."
            )


def special_tokens_of(store: ParagraphStore, embedder: Embedder) -> int | None:
    """Number of tokens that an embedder adds to every text; None if the stored counts are of another tokenizer."""
    counted_with = store.manifest["settings"].get("tokenizer") if store.manifest else None
    if counted_with != embedder.identity.tokenizer or embedder.identity.prompt:
        return None
    return int(embedder.tokenize([""]).lengths.sum())
