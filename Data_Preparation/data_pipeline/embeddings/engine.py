"""Runs packs of texts through an embedder: several in flight, with memory back-off and finite checks."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings.base import Embedder, RoutedEmbedder, Usage, tokenize_with_prompt
from data_pipeline.embeddings.pack_queue import PackQueue
from data_pipeline.embeddings.plan import Pack, Plan, make_plan
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import DeviceHungError, ModelError, OutOfMemoryError, RequestRefusedError
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
    reused: int = 0
    """Texts whose vector existed already and was copied."""
    recomputed: dict[str, int] = field(default_factory=dict)
    """Number of texts whose vector was not finite, by the precision that gave a finite one."""
    memory_backoffs: int = 0
    """Number of times the device ran out of memory, or a server refused a request."""
    usage: Usage = field(default_factory=Usage)
    """Calls to a server, where one computes the vectors."""

    @property
    def tokens_per_s(self) -> float:
        """Throughput in tokens per second, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Engine:
    """Runs an embedder over plans.

    Packs are computed in separate threads while the caller handles the vectors of earlier ones. Several plans may be
    run at once, each in a thread of its own.

    Args:
        embedder: the model.
        batch_tokens: maximum number of tokens in a pack; None for the embedder's own choice.
        batch_size: maximum number of texts in a pack; None for no limit.
    """

    def __init__(self, embedder: Embedder, batch_tokens: int | None = None, batch_size: int | None = None) -> None:
        self.embedder = embedder
        self.batch_tokens = batch_tokens or embedder.runtime.batch_tokens
        self.batch_size = batch_size or embedder.runtime.batch_size
        self.flops_per_s = 0.0
        """Measured floating-point operations per second (see `tune`); 0 before it is measured."""
        self.tally = EncodeStats()
        self.lock = threading.Lock()
        """Held while the tally is changed."""
        self._runs = 0
        self._last = 0.0
        """Time of the last finished pack of any run."""

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
            Rows, and their final vectors of shape (rows, dim) in float32: in the plan's order, or as a server answers.

        Raises:
            ModelError: the vector of a text is not finite in any precision, a single text does not fit into memory, or
                a server fails. What a server has answered by then is yielded first.
        """
        remote = self.embedder.runtime.remote
        self._start_run()
        try:
            with remote.run() if remote else nullcontext():
                yield from self._run(plan, name_of, done)
        finally:
            with self.lock:
                self._runs -= 1

    def _run(
        self, plan: Plan, name_of: Callable[[int], str], done: NDArray[np.bool_] | None
    ) -> Iterator[tuple[IntArray, Float32Array]]:
        runtime = self.embedder.runtime
        packs = self._pending_packs(plan, done)
        queue = PackQueue(runtime.in_flight, runtime.remote is not None)
        is_hung = False
        pool = ThreadPoolExecutor(runtime.in_flight, thread_name_prefix="embed")
        try:
            while True:
                self._hand_over(plan, packs, queue, pool, name_of)
                if not queue.in_flight:
                    if queue.failure is not None:
                        raise queue.failure
                    return
                pack, texts, future = queue.take()
                vectors = self._result(pack, texts, future, queue, name_of)
                if vectors is not None:
                    rows, positions = plan.rows_of(pack)
                    self._count(len(rows), int(texts.lengths.sum()))
                    yield rows, vectors[positions]
        except BaseException as error:
            is_hung = isinstance(error, DeviceHungError)
            if runtime.remote is not None:
                runtime.remote.interrupt(str(error) or type(error).__name__)
            raise
        finally:
            pool.shutdown(wait=not is_hung, cancel_futures=True)

    def _hand_over(
        self,
        plan: Plan,
        packs: Iterator[Pack],
        queue: PackQueue,
        pool: ThreadPoolExecutor,
        name_of: Callable[[int], str],
    ) -> None:
        """Hand packs over to the threads, as many as the queue has room for."""
        runtime = self.embedder.runtime
        while queue.has_room and (pack := queue.next(packs)):
            lengths = plan.tokens.lengths[pack.rows]
            if queue.limit is not None and len(pack.rows) > 1 and runtime.computed_tokens(lengths) > queue.limit:
                queue.waiting.extendleft(reversed(pack.halves(lengths)))
                continue
            texts = plan.tokens.take(pack.rows)
            if runtime.remote is not None and len(empty := np.flatnonzero(np.diff(texts.offsets) == 0)):
                name = name_of(int(pack.rows[empty[0]]))
                queue.failure = ModelError(
                    f"{name} is empty, and a server gives no vector for an empty text. Remove the text."
                )
                return
            queue.in_flight.append((pack, texts, pool.submit(self.embedder.forward, texts)))

    def _result(
        self,
        pack: Pack,
        texts: Tokens,
        future: Future[Float32Array],
        queue: PackQueue,
        name_of: Callable[[int], str],
    ) -> Float32Array | None:
        """Final vectors of a pack; None if it is to be computed in smaller ones, or a server failed."""
        remote = self.embedder.runtime.remote
        try:
            try:
                return self._finish(self._repair(future.result(), texts, pack, name_of))
            except OutOfMemoryError as error:
                lower = self._back_off(error, texts, name_of(int(pack.rows[0])))
                queue.limit = lower if queue.limit is None else min(queue.limit, lower)
                queue.waiting.appendleft(pack)
        except ModelError as error:
            if remote is None:
                raise
            # The other calls have been paid for: their vectors come first.
            queue.failure = queue.failure or error
            remote.interrupt(str(error))
        return None

    def _start_run(self) -> None:
        with self.lock:
            if not self._runs:
                self._last = time.perf_counter()
            self._runs += 1

    def _count(self, texts: int, tokens: int) -> None:
        with self.lock:
            now = time.perf_counter()
            self.tally.seconds += now - self._last
            self._last = now
            self.tally.texts += texts
            self.tally.tokens += tokens

    def _pending_packs(self, plan: Plan, done: NDArray[np.bool_] | None) -> Iterator[Pack]:
        for pack in plan.packs(self.embedder.runtime, self.batch_tokens, self.batch_size):
            if done is None or not done[plan.rows_of(pack)[0]].all():
                yield pack

    def _back_off(self, error: OutOfMemoryError, texts: Tokens, name: str) -> int:
        """Maximum number of tokens in a pack for the rest of the plan, after one was too much."""
        if len(texts) == 1 and isinstance(error, RequestRefusedError):
            raise ModelError(
                f"{name} has about {texts.lengths.sum()} tokens, and the server refuses it: {error}. If it is too "
                "long, set embedding.max_length (with embedding.api.tokenizer), or drop or chunk long texts "
                "(preprocess.max_tokens, preprocess.too_long). No other vector is stored in its place."
            ) from error
        if len(texts) == 1:
            raise ModelError(
                f"{name} has {texts.lengths.sum()} tokens and does not fit into memory alone. "
                "Lower embedding.max_length (with embedding.compile: embedding.batch_tokens), "
                "or use a smaller model or a larger device."
            ) from error
        with self.lock:
            self.tally.memory_backoffs += 1
            is_first = self.tally.memory_backoffs == 1
        if is_first:
            cause = "A request was refused" if isinstance(error, RequestRefusedError) else "Out of memory"
            logger.warning("%s (%s): halving packs and trying again", cause, error)
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


def _unusable_rows(vectors: Float32Array, dim: int) -> NDArray[np.bool_]:
    """Whether each vector has a non-finite value, or only zeros in its first `dim` dimensions."""
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors[:, :dim].any(axis=1))
