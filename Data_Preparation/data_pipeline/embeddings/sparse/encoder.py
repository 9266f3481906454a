"""A sparse encoder, and the loop that runs it over planned texts."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipeline.embeddings.base import Identity, Runtime
from data_pipeline.embeddings.plan import Plan, make_plan
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import ModelError, OutOfMemoryError
from data_pipeline.store.sparse import SparseRows, concatenate_rows
from data_pipeline.types import IntArray
from data_pipeline.utils import refuse_single_text

logger = logging.getLogger(__name__)


class Tower(Protocol):
    """Makes sparse vectors of texts."""

    @property
    def runtime(self) -> Runtime:
        """How texts are divided into batches."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids of texts, prompts included."""

    def forward(self, texts: Tokens) -> SparseRows:
        """Sparse vectors of N texts; weights may be not finite.

        Raises:
            OutOfMemoryError: the texts are too many for the device.
        """


@dataclass(frozen=True)
class SparseEncoder:
    """A model that gives sparse vectors; the similarity of two is their dot product."""

    identity: Identity
    """Everything that decides the vector of a document; `dim` is the size of the vocabulary."""
    query_prompt: str
    """Prefix of every query."""
    documents: Tower
    queries: Tower
    batch_tokens: int | None = None
    """Maximum number of tokens of a batch; None for the tower's own choice."""
    batch_size: int | None = None
    """Maximum number of texts of a batch; None for no limit."""


def encode_sparse(
    encoder: SparseEncoder,
    texts: Sequence[str],
    *,
    query: bool = False,
    name_of: Callable[[int], str] | None = None,
) -> SparseRows:
    """Make the sparse vectors of texts that fit in memory.

    Args:
        encoder: the model.
        texts: documents, or queries.
        query: whether they are queries.
        name_of: gives the name of a text by its position, for messages; None for its beginning.

    Returns:
        Vectors in the order of the texts.

    Raises:
        ModelError: a weight is not finite, or a single text does not fit into memory.
    """
    refuse_single_text(texts, "texts")
    name_of = name_of or (lambda row: repr(texts[row][:60]))
    prompt = encoder.query_prompt if query else encoder.identity.prompt
    tower = encoder.queries if query else encoder.documents
    plan = make_plan(tower.tokenize([prompt + text for text in texts]))
    found, parts = [np.zeros(0, np.int64)], []
    for rows, part in _run(encoder, tower, plan, name_of):
        found.append(rows)
        parts.append(part)
    order = np.argsort(np.concatenate(found), kind="stable")
    return concatenate_rows(parts, encoder.identity.dim).take(order)


def _run(
    encoder: SparseEncoder, tower: Tower, plan: Plan, name_of: Callable[[int], str]
) -> Iterator[tuple[IntArray, SparseRows]]:
    """Compute the vectors of all rows of a plan, pack by pack; packs that are too large are halved."""
    batch_tokens = encoder.batch_tokens or tower.runtime.batch_tokens
    waiting = deque(plan.packs(tower.runtime, batch_tokens, encoder.batch_size))
    while waiting:
        pack = waiting.popleft()
        texts = plan.tokens.take(pack.rows)
        try:
            vectors = tower.forward(texts)
        except OutOfMemoryError as error:
            if len(pack.rows) == 1:
                raise ModelError(
                    f"{name_of(int(pack.rows[0]))} has {texts.lengths.sum()} tokens and does not fit into memory "
                    "alone. Lower sparse.max_length, or use a smaller model or a larger device."
                ) from error
            logger.warning("Out of memory (%s): halving the batch", error)
            waiting.extendleft(reversed(pack.halves(texts.lengths)))
            continue
        if len(bad := np.flatnonzero(~np.isfinite(vectors.values))):
            row = int(np.searchsorted(vectors.indptr, bad[0], side="right")) - 1
            raise ModelError(
                f"the model gives no finite weights for {name_of(int(pack.rows[row]))}. Set sparse.dtype to float32, "
                "or remove the text; no other vector is stored in its place."
            )
        rows, positions = plan.rows_of(pack)
        yield rows, vectors.take(positions)
