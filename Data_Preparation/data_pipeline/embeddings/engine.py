"""Runs packs of texts through an embedder: several in flight, with memory back-off and finite checks."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings.base import Embedder, RoutedEmbedder, tokenize_with_prompt
from data_pipeline.embeddings.plan import Pack, Plan, make_plan
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import DeviceHungError, ModelError, OutOfMemoryError
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils import refuse_single_text, shown

logger = logging.getLogger(__name__)

_SAFER_DTYPES = {
    "bfloat16+float8": ("bfloat16", "float32"),
    "float16": ("bfloat16", "float32"),
    "bfloat16": ("float32",),
    "float32": (),
}


@dataclass
class EncodeStats:
    """Counts and times of a run."""

    texts: int = 0
    tokens: int = 0
    """Tokens of distinct texts."""
    seconds: float = 0.0
    """Time from the first pack to the last."""
    planning_s: float = 0.0
    """Time spent on tokenizing and planning, part of it while packs were computed."""
    truncated: int = 0
    repeated: int = 0
    """Texts that share the vector of an identical text."""
    recomputed: dict[str, int] = field(default_factory=dict)
    """Number of texts whose vector was not finite, by the precision that gave a finite one."""
    memory_backoffs: int = 0
    """Number of times the device ran out of memory."""

    @property
    def tokens_per_s(self) -> float:
        """Throughput in tokens per second, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Engine:
    """Runs an embedder over plans.

    Packs are computed in separate threads while the caller handles the vectors of earlier ones.

    Args:
        embedder: the model.
        batch_tokens: maximum number of tokens in a pack; None for the embedder's own choice.
        batch_size: maximum number of texts in a pack; None for no limit.
    """

    def __init__(self, embedder: Embedder, batch_tokens: int | None = None, batch_size: int | None = None) -> None:
        self.embedder = embedder
        self.batch_tokens = batch_tokens or embedder.runtime.batch_tokens
        self.batch_size = batch_size
        self.flops_per_s = 0.0
        """Measured floating-point operations per second (see `tune`); 0 before it is measured."""
        self.tally = EncodeStats()

    def run(
        self, plan: Plan, name_of: Callable[[int], str], done: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[IntArray, Float32Array]]:
        """Compute the vectors of all rows of a plan.

        When the device runs out of memory, packs are split for the rest of the plan.

        Args:
            plan: the texts and their order.
            name_of: gives the name of a row for messages.
            done: rows that have been computed already, shape (rows,). A pack is left out if all its
                rows are done, and is computed whole otherwise, so that its vectors are those of a
                run without interruption.

        Yields:
            Rows, and their final vectors of shape (rows, dim) in float32, in the plan's order.

        Raises:
            ModelError: the vector of a text is not finite in any precision, or a single text does
                not fit into memory.
        """
        runtime = self.embedder.runtime
        packs = self._pending_packs(plan, done)
        waiting: deque[Pack] = deque()
        in_flight: deque[tuple[Pack, Tokens, Future[Float32Array]]] = deque()
        limit: int | None = None
        is_hung = False
        last = time.perf_counter()
        pool = ThreadPoolExecutor(runtime.in_flight, thread_name_prefix="embed")
        try:
            while True:
                while len(in_flight) <= runtime.in_flight and (pack := _next(waiting, packs)):
                    lengths = plan.tokens.lengths[pack.rows]
                    if limit is not None and len(pack.rows) > 1 and runtime.computed_tokens(lengths) > limit:
                        waiting.extendleft(reversed(pack.halves(lengths)))
                        continue
                    texts = plan.tokens.take(pack.rows)
                    in_flight.append((pack, texts, pool.submit(self.embedder.forward, texts)))
                if not in_flight:
                    return
                pack, texts, future = in_flight.popleft()
                try:
                    vectors = future.result()
                except OutOfMemoryError as error:
                    waiting.appendleft(pack)
                    lower = self._back_off(error, texts, name_of(int(pack.rows[0])))
                    limit = lower if limit is None else min(limit, lower)
                    continue
                vectors = self._finish(self._repair(vectors, texts, pack, name_of))
                rows, positions = plan.rows_of(pack)
                now = time.perf_counter()
                self.tally.seconds += now - last
                last = now
                self.tally.texts += len(rows)
                self.tally.tokens += len(texts.ids)
                yield rows, vectors[positions]
        except DeviceHungError:
            is_hung = True
            raise
        finally:
            pool.shutdown(wait=not is_hung, cancel_futures=True)

    def _pending_packs(self, plan: Plan, done: NDArray[np.bool_] | None) -> Iterator[Pack]:
        for pack in plan.packs(self.embedder.runtime, self.batch_tokens, self.batch_size):
            if done is None or not done[plan.rows_of(pack)[0]].all():
                yield pack

    def _back_off(self, error: OutOfMemoryError, texts: Tokens, name: str) -> int:
        """Maximum number of tokens in a pack for the rest of the plan, after the device ran out of memory."""
        if len(texts) == 1:
            raise ModelError(
                f"{name} has {len(texts.ids)} tokens and does not fit into memory alone. "
                "Lower embedding.max_length (with embedding.compile: embedding.batch_tokens), "
                "or use a smaller model or a larger device."
            ) from error
        self.tally.memory_backoffs += 1
        if self.tally.memory_backoffs == 1:
            logger.warning("Out of memory (%s): halving packs and trying again", error)
        return self.embedder.runtime.computed_tokens(texts.lengths) // 2

    def _repair(self, vectors: Float32Array, texts: Tokens, pack: Pack, name_of: Callable[[int], str]) -> Float32Array:
        """Compute vectors that are not finite again in higher precision, in place."""
        dim = self.embedder.identity.dim
        is_unusable = _unusable_rows(vectors, dim)
        for dtype in _SAFER_DTYPES[self.embedder.identity.dtype]:
            if not is_unusable.any():
                break
            positions = np.flatnonzero(is_unusable)
            vectors[positions] = self._compute_in(dtype, positions, texts, pack, name_of)
            is_unusable = _unusable_rows(vectors, dim)
            n_repaired = len(positions) - int(is_unusable.sum())
            self.tally.recomputed[dtype] = self.tally.recomputed.get(dtype, 0) + n_repaired
            logger.warning(
                "%d vectors were not finite; %d of them are after computing them again in %s",
                len(positions), n_repaired, dtype,
            )  # fmt: skip
        if is_unusable.any():
            raise ModelError(
                f"the model gives no finite vector for {name_of(int(pack.rows[is_unusable][0]))}"
                + (f" and {int(is_unusable.sum()) - 1} others" if is_unusable.sum() > 1 else "")
                + ". Inspect the text, or remove it; no other vector is stored in its place."
            )
        return vectors

    def _compute_in(
        self, dtype: str, positions: IntArray, texts: Tokens, pack: Pack, name_of: Callable[[int], str]
    ) -> Float32Array:
        """Vectors of some texts in another precision, which may need more memory than the whole pack did."""
        try:
            return self.embedder.forward(texts.take(positions), dtype)
        except OutOfMemoryError as error:
            if len(positions) == 1:
                name = name_of(int(pack.rows[positions[0]]))
                raise ModelError(f"{name} does not fit into memory in {dtype}: {error}") from error
        halves = np.array_split(positions, 2)
        return np.concatenate([self._compute_in(dtype, half, texts, pack, name_of) for half in halves])

    def _finish(self, vectors: Float32Array) -> Float32Array:
        """Cut vectors to the embedder's dimensions, and scale them to length 1 if it normalizes."""
        identity = self.embedder.identity
        vectors = vectors[:, : identity.dim]
        if identity.normalized:
            # In float64, because squares of very small or large float32 numbers would be 0 or infinite.
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
            vectors = (vectors / lengths).astype(np.float32)
        return vectors


def encode(
    embedder: Embedder,
    texts: Sequence[str],
    *,
    query: bool = False,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
) -> Float32Array:
    """Embed texts that fit in memory.

    Args:
        embedder: the model.
        texts: documents, or queries.
        query: prepend the query prompt to each text instead of the document prompt.
        batch_tokens: maximum number of tokens in a batch; None for the embedder's own choice.
        batch_size: maximum number of texts in a batch; None for no limit.

    Returns:
        Vectors of shape (N, dim), float32, in input order.

    Raises:
        TypeError: `texts` is a single text, or an item is not a text.
        ModelError: see `Engine.run`.
    """
    _check_texts(texts)
    prompt = embedder.query_prompt if query else embedder.identity.prompt
    if query and isinstance(embedder, RoutedEmbedder):
        embedder = embedder.queries
    plan = make_plan(tokenize_with_prompt(embedder, texts, prompt))
    vectors = np.zeros((len(texts), embedder.identity.dim), dtype=np.float32)
    for rows, computed in Engine(embedder, batch_tokens, batch_size).run(plan, lambda row: repr(texts[row][:60])):
        vectors[rows] = computed
    return vectors


def _check_texts(texts: Sequence[str]) -> None:
    refuse_single_text(texts, "texts")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}] must be a text, found {shown(text)}")


def _next(waiting: deque[Pack], packs: Iterator[Pack]) -> Pack | None:
    return waiting.popleft() if waiting else next(packs, None)


def _unusable_rows(vectors: Float32Array, dim: int) -> NDArray[np.bool_]:
    """Whether each vector has a non-finite value, or only zeros in its first `dim` dimensions."""
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors[:, :dim].any(axis=1))
