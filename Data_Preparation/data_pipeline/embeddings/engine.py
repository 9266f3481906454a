"""Batches through an embedder: token budget, memory back-off, finite checks, MRL, L2."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.batching import plan_batches
from data_pipeline.errors import ModelError, OutOfMemory
from data_pipeline.types import Float32Array, IntArray

logger = logging.getLogger(__name__)

_SAFER_DTYPES = {"float16": ("bfloat16", "float32"), "bfloat16": ("float32",), "float32": ()}


@dataclass
class Tally:
    """What happened during a run."""

    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Inside the model."""
    truncated: int = 0
    recomputed: dict[str, int] = field(default_factory=dict)
    """Texts with a non-finite vector, by the precision that gave a finite one."""
    memory_backoffs: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Real tokens through the model, a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Engine:
    """Runs an embedder over token ids.

    Args:
        embedder: the model.
        batch_size: most texts in a batch.
        batch_tokens: most tokens in a batch, padding counted; halved for the rest of the run
            when the device runs out of memory.
    """

    def __init__(self, embedder: Embedder, batch_size: int, batch_tokens: int) -> None:
        self._embedder = embedder
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self.tally = Tally()

    def plan(self, ids: Sequence[Sequence[int]]) -> list[IntArray]:
        """Row numbers of every batch, longest texts first."""
        return plan_batches([len(row) for row in ids], self._batch_size, self._batch_tokens)

    def run(
        self, ids: Sequence[Sequence[int]], batch: IntArray, names: Sequence[str]
    ) -> Iterator[tuple[IntArray, Float32Array]]:
        """Vectors of one planned batch, in one piece or, out of memory, in several.

        Args:
            ids: token ids of all rows.
            batch: rows to run.
            names: what to call the rows in messages.

        Yields:
            Rows, and their final vectors of shape (rows, dim) in float32.

        Raises:
            ModelError: a text's vector is not finite in any precision, or a single text does
                not fit into memory.
        """
        pending = [batch]
        while pending:
            rows = pending.pop()
            longest = max(len(ids[row]) for row in rows)
            if len(rows) > 1 and len(rows) * longest > self._batch_tokens:
                half = (len(rows) + 1) // 2
                pending += [rows[half:], rows[:half]]
                continue
            started = time.perf_counter()
            try:
                vectors = self._embedder.forward([ids[row] for row in rows])
            except OutOfMemory as error:
                self._back_off(error, len(rows), longest, names[int(rows[0])])
                pending.append(rows)
                continue
            vectors = self._finite(vectors, rows, ids, names)
            self.tally.seconds += time.perf_counter() - started
            self.tally.texts += len(rows)
            self.tally.tokens += sum(len(ids[row]) for row in rows)
            yield rows, self._shape(vectors)

    def _back_off(self, error: OutOfMemory, rows: int, longest: int, name: str) -> None:
        if rows == 1:
            raise ModelError(
                f"{name} has {longest} tokens and does not fit into memory alone. "
                "Lower --embedding.max_length, or use a smaller model or a larger device."
            ) from error
        self._batch_tokens = rows * longest // 2
        self.tally.memory_backoffs += 1
        if self.tally.memory_backoffs == 1:
            logger.warning("out of memory (%s): batches are halved and tried again", error)

    def _finite(
        self, vectors: Float32Array, rows: IntArray, ids: Sequence[Sequence[int]], names: Sequence[str]
    ) -> Float32Array:
        dim = self._embedder.identity.dim
        bad = _unusable(vectors, dim)
        for dtype in _SAFER_DTYPES[self._embedder.identity.dtype]:
            if not bad.any():
                break
            places = np.flatnonzero(bad)
            vectors[places] = self._in_dtype(rows[places], ids, names, dtype)
            bad = _unusable(vectors, dim)
            mended = len(places) - int(bad.sum())
            self.tally.recomputed[dtype] = self.tally.recomputed.get(dtype, 0) + mended
            logger.warning("%d vectors were not finite; %d are, computed again in %s", len(places), mended, dtype)
        if bad.any():
            names = [names[int(row)] for row in rows[bad]]
            raise ModelError(
                f"the model gives no finite vector for {names[0]}"
                + (f" and {len(names) - 1} others" if len(names) > 1 else "")
                + ". Look at the text, or take it out; no other vector is put in its place."
            )
        return vectors

    def _in_dtype(self, rows: IntArray, ids: Sequence[Sequence[int]], names: Sequence[str], dtype: str) -> Float32Array:
        """Vectors in another precision, which may need more memory than the batch did."""
        try:
            return self._embedder.forward([ids[row] for row in rows], dtype)
        except OutOfMemory as error:
            if len(rows) == 1:
                raise ModelError(f"{names[int(rows[0])]} does not fit into memory in {dtype}: {error}") from error
        half = len(rows) // 2
        return np.concatenate([self._in_dtype(some, ids, names, dtype) for some in (rows[:half], rows[half:])])

    def _shape(self, vectors: Float32Array) -> Float32Array:
        identity = self._embedder.identity
        vectors = vectors[:, : identity.dim]
        if identity.normalized:
            # In float64: squares of very small or large float32 numbers would be 0 or infinite.
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
            vectors = (vectors / lengths).astype(np.float32)
        return vectors


def encode(
    embedder: Embedder, texts: Sequence[str], *, query: bool = False, batch_size: int = 32, batch_tokens: int = 16_384
) -> Float32Array:
    """Embed texts that fit in memory.

    Args:
        texts: documents, or queries.
        query: put the query prompt before each text instead of the document prompt.
        batch_size: most texts in a batch.
        batch_tokens: most tokens in a batch, padding counted.

    Returns:
        Shape (N, dim), float32, in input order.

    Raises:
        ModelError: see `Engine.run`.
    """
    prompt = embedder.query_prompt if query else embedder.identity.prompt
    ids = embedder.tokenize([prompt + text for text in texts]).ids
    engine = Engine(embedder, batch_size, batch_tokens)
    names = [repr(text[:60]) for text in texts]
    vectors = np.zeros((len(texts), embedder.identity.dim), dtype=np.float32)
    for batch in engine.plan(ids):
        for rows, some in engine.run(ids, batch, names):
            vectors[rows] = some
    return vectors


def _unusable(vectors: Float32Array, dim: int) -> NDArray[np.bool_]:
    """Rows that hold a non-finite value, or nothing but zeros in what is kept of them."""
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors[:, :dim].any(axis=1))
