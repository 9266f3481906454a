"""What a reading of a source finds that a dataset does not have: documents that are new, changed or gone."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.errors import SourceError
from data_pipeline.preprocess.staging import in_order
from data_pipeline.store.documents import Documents, DocumentWriter, document_sha256, id_keys
from data_pipeline.types import Document, IntArray

OnChanged = Literal["fail", "replace", "keep"]

_EXAMPLES = 5


@dataclass(frozen=True)
class NewOrder:
    """Documents of a dataset after a source was read again, in order."""

    origins: IntArray
    """For each document its number in the dataset before, or -1 - i for the i-th new one, shape (N,)."""
    renumbered: IntArray
    """For each document of the dataset before its new number, or -1 if it is left out, shape (M,)."""
    new_numbers: IntArray
    """Number of each new document, shape (K,)."""

    def tables(self, before: pa.Table, new: pa.Table) -> Iterator[pa.Table]:
        """Read the records of the documents in order, given those of before and of the new ones."""
        rows = np.where(self.origins >= 0, self.origins, before.num_rows - 1 - self.origins)
        return in_order([*before.to_batches(), *new.to_batches()], rows)


@dataclass
class Changes:
    """Compares the documents of a source with those of a dataset while they are read.

    A document is the same if its source had one with its id and content. Several documents of a source may have one id;
    they are told apart by their order. About 40 bytes of memory for each document of the dataset.

    Args:
        before: the documents of the dataset.
        source: number of the source; one that the dataset does not have yet has only new documents.
        on_changed: handling of documents that changed or are gone.
        new: list that new documents are added to.
    """

    before: Documents
    source: int
    on_changed: OnChanged
    new: DocumentWriter
    unchanged: int = 0
    changed: int = 0
    gone: int = 0
    examples: list[str] = field(default_factory=list)
    _order: "array[int]" = field(default_factory=lambda: array("q"))
    _left_out: list[int] = field(default_factory=list)
    """Documents of other sources that are replaced."""

    def __post_init__(self) -> None:
        keys = self.before.keys()
        is_own = self.before.table["source"].to_numpy() == self.source
        self._own = _ByKey(keys, np.flatnonzero(is_own))
        self._others = _ByKey(keys, np.flatnonzero(~is_own))
        self._seen = np.zeros(len(self._own.numbers), np.bool_)

    def new_documents(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Iterate over the documents that the dataset gets, all others are left out."""
        for document in documents:
            digest, key = document_sha256(document), id_keys([document.id])[0]
            place = self._own.first_unseen(key, self._seen)
            if place is None:
                if self._is_left_out(document.id, digest, key):
                    continue
            else:
                self._seen[place] = True
                number = int(self._own.numbers[place])
                if self.before.sha256(number) == digest:
                    self.unchanged += 1
                    self._order.append(number)
                    continue
                self._note_change(document.id)
                if self.on_changed != "replace":
                    self._order.append(number)
                    continue
            self._order.append(-1 - self.new.count)
            self.new.add(self.source, document.id, digest)
            yield document

    def finish(self) -> NewOrder:
        """Return the documents of the dataset in their new order.

        Raises:
            SourceError: documents changed or are gone, and `on_changed` is `fail`.
        """
        gone = np.sort(self._own.numbers[~self._seen])
        self.gone = len(gone)
        if self.on_changed == "fail" and (self.changed or self.gone):
            names = [self.before.table["document_id"][number].as_py() for number in gone[:_EXAMPLES].tolist()]
            raise SourceError(
                f"{_count(self.changed)} changed and {_count(self.gone)} gone since the dataset was made: "
                f"{', '.join([*map(repr, self.examples), *map(repr, names)][:_EXAMPLES])}. Set corpus."
                "on_changed to replace, which replaces and deletes their rows, or to keep, which leaves them alone"
            )
        own = np.frombuffer(self._order, np.int64) if len(self._order) else np.zeros(0, np.int64)
        if self.on_changed == "keep":
            own = np.concatenate([own, gone])
        sources = self.before.table["source"].to_numpy()
        stays = np.ones(len(sources), np.bool_)
        stays[self._left_out] = False
        earlier = np.flatnonzero((sources < self.source) & stays)
        later = np.flatnonzero((sources > self.source) & stays)
        origins = np.concatenate([earlier, own, later])
        renumbered, new_numbers = np.full(len(sources), -1, np.int64), np.zeros(self.new.count, np.int64)
        is_new, places = origins < 0, np.arange(len(origins))
        renumbered[origins[~is_new]] = places[~is_new]
        new_numbers[-1 - origins[is_new]] = places[is_new]
        return NewOrder(origins, renumbered, new_numbers)

    def _is_left_out(self, document_id: str, digest: bytes, key: np.uint64) -> bool:
        """Whether a document whose id another source has is left out; one that replaces that is not."""
        others = [
            number
            for number in self._others.numbers_of(key)
            if number not in self._left_out
            and self.before.table["document_id"][number].as_py() == document_id
            and self.before.sha256(number) != digest
        ]
        if not others:
            return False
        self._note_change(document_id)
        if self.on_changed == "replace":
            self._left_out += others
            return False
        return True

    def _note_change(self, document_id: str) -> None:
        self.changed += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(document_id)


class _ByKey:
    """Numbers of documents by the key of their id; those of one key in order."""

    def __init__(self, keys: NDArray[np.uint64], numbers: IntArray) -> None:
        order = np.argsort(keys[numbers], kind="stable")
        self.numbers, self._keys = numbers[order], keys[numbers][order]

    def numbers_of(self, key: np.uint64) -> list[int]:
        return [int(number) for number in self.numbers[self._range(key)]]

    def first_unseen(self, key: np.uint64, seen: NDArray[np.bool_]) -> int | None:
        """Position in `numbers` of the first document of a key that was not seen; None if there is none."""
        span = self._range(key)
        return next((place for place in range(span.start, span.stop) if not seen[place]), None)

    def _range(self, key: np.uint64) -> slice:
        return slice(int(np.searchsorted(self._keys, key, "left")), int(np.searchsorted(self._keys, key, "right")))


def _count(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"
