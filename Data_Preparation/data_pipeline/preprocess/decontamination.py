"""Decontamination: rows that repeat items of evaluation sets, or rows of val and test, are dropped with the item named.

Items are compared in parts, so that memory does not grow with them; each part is one more pass over the rows. Parts and
spans of rows are compared independently (`match_part`), and what was found is put together (`Matches.add`).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.errors import SourceError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.near_index import NearIndex
from data_pipeline.preprocess.ngrams import NgramIndex
from data_pipeline.preprocess.staging import Staging
from data_pipeline.types import SPLITS, EvaluationItem, EvaluationSet, IntArray

logger = logging.getLogger(__name__)

# Of the items of one index: of n-grams it takes 250 MB, and 450 MB while it is built; of near duplicates a third.
_PART_CHARS = 16_000_000
_PART_TEXTS = 65_536  # of an index of near duplicates
_TRAIN = SPLITS.index("train")
KINDS = ("contaminated", "leaked")
"""Kinds of rows that are dropped, in order: those that repeat evaluation sets, and our own val and test."""


@dataclass(frozen=True)
class Decontamination:
    """Settings of decontamination, and the evaluation sets that they name."""

    config: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    sets: Sequence[EvaluationSet] = ()


class Match(NamedTuple):
    """Evaluation item that a row repeats."""

    item: str
    overlap: float
    """Share of the words of the row in common n-grams, or Jaccard similarity, 0 to 1."""


@dataclass(frozen=True)
class SharedNgrams:
    """N-grams that a row has in common with the items of one or more parts."""

    item: str
    shared: int
    """Places of the row at which an n-gram of the item begins."""
    covered: bytes
    """Packed mask of the words in common n-grams."""
    words: int

    @property
    def overlap(self) -> float:
        """Share of the words in common n-grams, 0 to 1."""
        return int(np.unpackbits(np.frombuffer(self.covered, np.uint8)).sum()) / self.words

    def joined(self, earlier: "SharedNgrams") -> "SharedNgrams":
        """Add what the row has in common with the items of earlier parts."""
        best = self if self.shared > earlier.shared else earlier
        masks = (np.frombuffer(mask, np.uint8) for mask in (self.covered, earlier.covered))
        return SharedNgrams(best.item, best.shared, np.bitwise_or(*masks).tobytes(), self.words)


@dataclass(frozen=True)
class Matches:
    """Rows that repeat items of one or more parts, by row."""

    ngrams: dict[int, SharedNgrams] = field(default_factory=dict)
    near: dict[int, Match] = field(default_factory=dict)

    def add(self, later: "Matches") -> None:
        """Add the matches with items of a later part, or those of other rows."""
        for row, shared in later.ngrams.items():
            self.ngrams[row] = shared.joined(self.ngrams[row]) if row in self.ngrams else shared
        for row, match in later.near.items():
            if row not in self.near or match.overlap > self.near[row].overlap:
                self.near[row] = match


@dataclass
class ItemPart:
    """Texts of evaluation items that are indexed together."""

    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    """Position in `names` of the item of each text."""


def kinds_of(decontamination: Decontamination) -> list[str]:
    """Return those of `KINDS` that are looked for, in order."""
    is_on = (bool(decontamination.sets), decontamination.config.own_splits)
    return [kind for kind, wanted in zip(KINDS, is_on, strict=True) if wanted]


def rows_compared(
    kind: str, keep: NDArray[np.bool_], positions: NDArray[np.int8], config: DecontaminationConfig
) -> NDArray[np.bool_]:
    """Return whether each row is compared with the items of a kind, shape (N,)."""
    everything = kind == "contaminated" and config.remove_from != "train"
    return keep.copy() if everything else keep & (positions == _TRAIN)


def items_of(
    kind: str,
    staging: Staging,
    keep: NDArray[np.bool_],
    positions: NDArray[np.int8],
    decontamination: Decontamination,
) -> Iterator[EvaluationItem]:
    """Iterate over the items of a kind.

    Raises:
        SourceError: an evaluation set cannot be read, or has no texts.
    """
    if kind == "contaminated":
        return _items_of(decontamination.sets)
    return _own_items(staging, keep & (positions != _TRAIN))


def parts_of_items(items: Iterator[EvaluationItem]) -> Iterator[ItemPart]:
    """Divide items into parts whose index fits into memory."""
    part, chars = ItemPart(), 0
    for item in items:
        part.items += [len(part.names)] * len(item.texts)
        part.names.append(item.name)
        part.texts += item.texts
        chars += sum(map(len, item.texts))
        if chars >= _PART_CHARS or len(part.texts) >= _PART_TEXTS:
            yield part
            part, chars = ItemPart(), 0
    if part.texts:
        yield part


def match_part(
    staging: Staging,
    among: NDArray[np.bool_],
    part: ItemPart,
    config: DecontaminationConfig,
    near_threshold: float,
    span: tuple[int, int],
    advance: Callable[[int], object],
) -> Matches:
    """Find rows that repeat items of a part.

    Memory (measured): 92 bytes for every word of the items, 167 while the index is built; about 400 bytes for every row
    that matches.

    Args:
        staging: candidate rows.
        among: whether a row is compared, shape (N,).
        part: the items.
        config: comparisons, and length of the n-grams.
        near_threshold: minimum Jaccard similarity of near duplicates (see `near_index.NearIndex`).
        span: first and exclusive last row that is looked at.
        advance: called with numbers of rows that were looked at.
    """
    matches = Matches()
    ngrams = near = None
    if "ngram" in config.methods:
        ngrams = NgramIndex(part.texts, part.items, config.ngram_words, config.min_words)
        if ngrams.too_short and span[0] == 0:
            logger.warning(
                "%d of %d evaluation texts have fewer than %d words and are not compared by n-grams "
                "(decontamination.min_words)",
                ngrams.too_short, len(part.texts), config.min_words,
            )  # fmt: skip
    if "near" in config.methods:
        near = NearIndex(near_threshold, part.texts)
    for numbers, texts in _batches(staging, among, span, advance):
        if ngrams:
            matches.ngrams.update(_shared_ngrams(ngrams, part, numbers, texts))
        if near is not None:
            for position, (text, similarity) in near.nearest(texts.to_pylist()).items():
                matches.near[int(numbers[position])] = Match(part.names[part.items[text]], similarity)
    return matches


def drop_matches(
    staging: Staging,
    keep: NDArray[np.bool_],
    matches: Matches,
    kind: str,
    config: DecontaminationConfig,
    dropped: DropLedger,
) -> None:
    """Drop the rows that match enough: those with n-grams of an item, then near duplicates among the others.

    Args:
        staging: candidate rows.
        keep: whether each row is kept, shape (N,); changed in place.
        matches: matches with all items.
        kind: `contaminated` or `leaked`, which begins the reason.
        config: minimum overlap.
        dropped: ledger.
    """
    ngrams = {row: Match(shared.item, shared.overlap) for row, shared in sorted(matches.ngrams.items())}
    ngrams = {row: match for row, match in ngrams.items() if match.overlap >= config.min_overlap}
    near = {row: match for row, match in sorted(matches.near.items()) if row not in ngrams}
    for found, method in ((ngrams, "ngram"), (near, "near")):
        reason = f"{kind}_{method}"
        for row, match in found.items():
            keep[row] = False
            text_id, document_id = staging.value("text_id", row), staging.value("document_id", row)
            text = partial(staging.value, "text", row)
            dropped.add(text_id, document_id, "decontamination", reason, match.item, text, match.overlap)
        if found:
            logger.info("Decontamination: %s rows dropped as %s", f"{len(found):,}", reason)


def _shared_ngrams(
    index: NgramIndex, part: ItemPart, numbers: IntArray, texts: pa.LargeStringArray
) -> dict[int, SharedNgrams]:
    found = index.find(texts)
    columns = (numbers[found.rows].tolist(), found.items.tolist(), found.shared.tolist(), found.covered)
    return {
        row: SharedNgrams(part.names[item], shared, np.packbits(covered).tobytes(), len(covered))
        for row, item, shared, covered in zip(*columns, strict=True)
    }


def _items_of(sets: Iterable[EvaluationSet]) -> Iterator[EvaluationItem]:
    for evaluation_set in sets:
        has_items = False
        for item in evaluation_set.items():
            has_items = True
            yield item
        if not has_items:
            raise SourceError(
                f"decontamination.paths: {evaluation_set.name} has no texts, expected at least one. Check "
                "decontamination.text_fields and decontamination.splits, or leave it out."
            )


def _own_items(staging: Staging, held_out: NDArray[np.bool_]) -> Iterator[EvaluationItem]:
    for start, table in staging.batches():
        rows = table.filter(pa.array(held_out[start : start + table.num_rows]))
        for text_id, text in zip(rows["text_id"].to_pylist(), rows["text"].to_pylist(), strict=True):
            yield EvaluationItem(text_id, (text,))


def _batches(
    staging: Staging, among: NDArray[np.bool_], span: tuple[int, int], advance: Callable[[int], object]
) -> Iterator[tuple[IntArray, pa.LargeStringArray]]:
    """Read the texts of some rows in batches, with their numbers."""
    for start, table in staging.batches(*span):
        left, right = max(0, span[0] - start), min(table.num_rows, span[1] - start)
        rows = left + np.flatnonzero(among[start + left : start + right])
        if len(rows):
            yield start + rows, table["text"].take(pa.array(rows)).combine_chunks()
        advance(right - left)
