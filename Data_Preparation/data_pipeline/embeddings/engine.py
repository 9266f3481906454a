"""Packs through an embedder: several in flight, memory back-off, finite checks, MRL, L2."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.plan import Pack, Plan, make_plan
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import DeviceHung, ModelError, OutOfMemory
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
class Tally:
    """What happened during a run."""

    texts: int = 0
    tokens: int = 0
    """Of distinct texts."""
    seconds: float = 0.0
    """From the first pack to the last."""
    planning_s: float = 0.0
    """Spent on tokens and plans, part of it while packs were computed."""
    truncated: int = 0
    repeated: int = 0
    """Texts that got the vector of an identical one."""
    recomputed: dict[str, int] = field(default_factory=dict)
    """Texts with a non-finite vector, by the precision that gave a finite one."""
    memory_backoffs: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Real tokens through the model, a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Engine:
    """Runs an embedder over plans.

    Packs are computed by threads of their own, while their caller looks after the vectors of
    earlier ones.

    Args:
        embedder: the model.
        batch_tokens: most tokens in a pack; None for the embedder's own choice.
        batch_size: most texts in a pack, where that is limited.
    """

    def __init__(self, embedder: Embedder, batch_tokens: int | None = None, batch_size: int | None = None) -> None:
        self.embedder = embedder
        self.batch_tokens = batch_tokens or embedder.runtime.batch_tokens
        self.batch_size = batch_size
        self.flops_per_s = 0.0
        """As measured (see `tune`); 0 until it is."""
        self.tally = Tally()

    def run(
        self, plan: Plan, name_of: Callable[[int], str], done: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[IntArray, Float32Array]]:
        """Vectors of all rows of a plan.

        A pack is split for the rest of the plan when the device runs out of memory.

        Args:
            plan: what to compute.
            name_of: what to call a row in messages.
            done: rows that are there already; a pack of nothing but those is left out, any other
                is computed whole, so that its vectors are those of an undisturbed run.

        Yields:
            Rows, and their final vectors of shape (rows, dim) in float32, in the plan's order.

        Raises:
            ModelError: a text's vector is not finite in any precision, or a single text does
                not fit into memory.
        """
        runtime = self.embedder.runtime
        packs = self._wanted(plan, done)
        waiting: deque[Pack] = deque()
        flying: deque[tuple[Pack, Tokens, Future[Float32Array]]] = deque()
        limit: int | None = None
        hung = False
        last = time.perf_counter()
        pool = ThreadPoolExecutor(runtime.in_flight, thread_name_prefix="embed")
        try:
            while True:
                while len(flying) <= runtime.in_flight and (pack := _next(waiting, packs)):
                    lengths = plan.tokens.lengths[pack.rows]
                    if limit is not None and len(pack.rows) > 1 and runtime.computed_tokens(lengths) > limit:
                        waiting.extendleft(reversed(pack.halves(lengths)))
                        continue
                    texts = plan.tokens.take(pack.rows)
                    flying.append((pack, texts, pool.submit(self.embedder.forward, texts)))
                if not flying:
                    return
                pack, texts, future = flying.popleft()
                try:
                    vectors = future.result()
                except OutOfMemory as error:
                    waiting.appendleft(pack)
                    less = self._back_off(error, texts, name_of(int(pack.rows[0])))
                    limit = less if limit is None else min(limit, less)
                    continue
                vectors = self._shape(self._finite(vectors, texts, partial(_name_in_pack, name_of, pack)))
                rows, places = plan.rows_of(pack)
                now = time.perf_counter()
                self.tally.seconds += now - last
                last = now
                self.tally.texts += len(rows)
                self.tally.tokens += len(texts.ids)
                yield rows, vectors[places]
        except DeviceHung:
            hung = True
            raise
        finally:
            pool.shutdown(wait=not hung, cancel_futures=True)

    def _wanted(self, plan: Plan, done: NDArray[np.bool_] | None) -> Iterator[Pack]:
        for pack in plan.packs(self.embedder.runtime, self.batch_tokens, self.batch_size):
            if done is None or not done[plan.rows_of(pack)[0]].all():
                yield pack

    def _back_off(self, error: OutOfMemory, texts: Tokens, name: str) -> int:
        """The most tokens a pack may have from now on."""
        if len(texts) == 1:
            raise ModelError(
                f"{name} has {len(texts.ids)} tokens and does not fit into memory alone. "
                "Lower --embedding.max_length (with --embedding.compile: --embedding.batch_tokens), "
                "or use a smaller model or a larger device."
            ) from error
        self.tally.memory_backoffs += 1
        if self.tally.memory_backoffs == 1:
            logger.warning("out of memory (%s): packs are halved and tried again", error)
        return self.embedder.runtime.computed_tokens(texts.lengths) // 2

    def _finite(self, vectors: Float32Array, texts: Tokens, name_of: Callable[[int], str]) -> Float32Array:
        dim = self.embedder.identity.dim
        bad = _unusable(vectors, dim)
        for dtype in _SAFER_DTYPES[self.embedder.identity.dtype]:
            if not bad.any():
                break
            places = np.flatnonzero(bad)
            vectors[places] = self._in_dtype(places, texts, name_of, dtype)
            bad = _unusable(vectors, dim)
            mended = len(places) - int(bad.sum())
            self.tally.recomputed[dtype] = self.tally.recomputed.get(dtype, 0) + mended
            logger.warning("%d vectors were not finite; %d are, computed again in %s", len(places), mended, dtype)
        if bad.any():
            raise ModelError(
                f"the model gives no finite vector for {name_of(int(np.flatnonzero(bad)[0]))}"
                + (f" and {int(bad.sum()) - 1} others" if bad.sum() > 1 else "")
                + ". Look at the text, or take it out; no other vector is put in its place."
            )
        return vectors

    def _in_dtype(self, places: IntArray, texts: Tokens, name_of: Callable[[int], str], dtype: str) -> Float32Array:
        """Vectors in another precision, which may need more memory than the pack did."""
        try:
            return self.embedder.forward(texts.take(places), dtype)
        except OutOfMemory as error:
            if len(places) == 1:
                raise ModelError(f"{name_of(int(places[0]))} does not fit into memory in {dtype}: {error}") from error
        half = len(places) // 2
        return np.concatenate([self._in_dtype(some, texts, name_of, dtype) for some in (places[:half], places[half:])])

    def _shape(self, vectors: Float32Array) -> Float32Array:
        identity = self.embedder.identity
        vectors = vectors[:, : identity.dim]
        if identity.normalized:
            # In float64: squares of very small or large float32 numbers would be 0 or infinite.
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
        query: put the query prompt before each text instead of the document prompt.
        batch_tokens: most tokens computed together; None for the embedder's own choice.
        batch_size: most texts computed together, where that is limited.

    Returns:
        Shape (N, dim), float32, in input order.

    Raises:
        TypeError: `texts` is a single text, or holds something else than texts.
        ModelError: see `Engine.run`.
    """
    _check_texts(texts)
    prompt = embedder.query_prompt if query else embedder.identity.prompt
    plan = make_plan(embedder.tokenize([prompt + text for text in texts]))
    vectors = np.zeros((len(texts), embedder.identity.dim), dtype=np.float32)
    for rows, some in Engine(embedder, batch_tokens, batch_size).run(plan, lambda row: repr(texts[row][:60])):
        vectors[rows] = some
    return vectors


def _check_texts(texts: Sequence[str]) -> None:
    refuse_single_text(texts, "texts")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}] must be a text, found {shown(text)}")


def _name_in_pack(name_of: Callable[[int], str], pack: Pack, place: int) -> str:
    return name_of(int(pack.rows[place]))


def _next(waiting: deque[Pack], packs: Iterator[Pack]) -> Pack | None:
    return waiting.popleft() if waiting else next(packs, None)


def _unusable(vectors: Float32Array, dim: int) -> NDArray[np.bool_]:
    """Rows that hold a non-finite value, or nothing but zeros in what is kept of them."""
    return np.asarray(~np.isfinite(vectors).all(axis=1) | ~vectors[:, :dim].any(axis=1))
