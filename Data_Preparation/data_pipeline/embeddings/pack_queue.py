"""Packs that are under way: taken in order, or as they are finished."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from data_pipeline.embeddings.plan import Pack
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import ModelError
from data_pipeline.types import Float32Array


class PackQueue:
    """Packs that are under way, and packs that come before those of the plan.

    Args:
        slots: number of packs that are computed at once.
        in_any_order: whether packs are taken as they are finished, so that none waits for a slow one before it.
    """

    def __init__(self, slots: int, in_any_order: bool) -> None:
        self.waiting: deque[Pack] = deque()
        self.in_flight: deque[tuple[Pack, Tokens, Future[Float32Array]]] = deque()
        self.limit: int | None = None
        """Maximum number of tokens in a pack, after one was too much; None before."""
        self.failure: ModelError | None = None
        """Error that ends the run when the packs under way are finished."""
        self._in_any_order = in_any_order
        self._most = 2 * slots if in_any_order else slots + 1

    @property
    def has_room(self) -> bool:
        """Whether a further pack may be handed over."""
        return self.failure is None and len(self.in_flight) < self._most

    def next(self, packs: Iterator[Pack]) -> Pack | None:
        """The next pack to hand over; None if there is none."""
        return self.waiting.popleft() if self.waiting else next(packs, None)

    def take(self) -> tuple[Pack, Tokens, Future[Float32Array]]:
        """The next pack whose result is wanted, which may not be finished yet."""
        if not self._in_any_order:
            return self.in_flight.popleft()
        wait([future for _, _, future in self.in_flight], return_when=FIRST_COMPLETED)
        position = next(index for index, (_, _, future) in enumerate(self.in_flight) if future.done())
        entry = self.in_flight[position]
        del self.in_flight[position]
        return entry
