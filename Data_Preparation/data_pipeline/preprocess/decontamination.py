"""Decontamination: rows that repeat items of evaluation sets, or rows of val and test, are dropped with the item named.

Items are compared in parts, so that memory does not grow with them; each part is one more pass over the rows.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
from data_pipeline.utils import progress_bar

logger = logging.getLogger(__name__)

# Of the items of one index: of n-grams it takes 250 MB, and 450 MB while it is built; of near duplicates a third.
_PART_CHARS = 16_000_000
_PART_TEXTS = 65_536  # of an index of near duplicates
_TRAIN = SPLITS.index("train")


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


def decontaminate(
    staging: Staging,
    keep: NDArray[np.bool_],
    positions: NDArray[np.int8],
    config: DecontaminationConfig,
    sets: Iterable[EvaluationSet],
    near_threshold: float,
    dropped: DropLedger,
) -> None:
    """Drop rows that repeat items of evaluation sets or of our own val and test, and write them down.

    Memory (measured): 92 bytes for every word of the items, 167 while the index is built, for at most 16 million
    characters of items at a time; 0.4 kB and the text for every item that near duplicates are searched of, for at most
    65,536 at a time; about 400 bytes for every row that matches.

    Args:
        staging: candidate rows.
        keep: whether each row is kept, shape (N,); changed in place.
        positions: split of each row, as an index into `SPLITS`, shape (N,).
        config: comparisons and thresholds.
        sets: evaluation sets.
        near_threshold: minimum Jaccard similarity of near duplicates.
        dropped: ledger.

    Raises:
        SourceError: an evaluation set cannot be read, or has no texts.
    """
    sets = list(sets)
    is_train = positions == _TRAIN

    def drop(items: Callable[[], Iterator[EvaluationItem]], among: NDArray[np.bool_], kind: str) -> None:
        if "ngram" in config.methods:
            _drop(staging, keep, shared_ngrams(staging, keep & among, items(), config), f"{kind}_ngram", dropped)
        if "near" in config.methods:
            _drop(staging, keep, near_items(staging, keep & among, items(), near_threshold), f"{kind}_near", dropped)

    if sets:
        everything = np.ones(len(keep), np.bool_)
        drop(lambda: _items_of(sets), is_train if config.remove_from == "train" else everything, "contaminated")
    if config.own_splits:
        held_out = keep & ~is_train
        drop(lambda: _own_items(staging, held_out), is_train, "leaked")


def shared_ngrams(
    staging: Staging, among: NDArray[np.bool_], items: Iterator[EvaluationItem], config: DecontaminationConfig
) -> dict[int, Match]:
    """Find rows that have n-grams in common with evaluation items.

    Args:
        staging: candidate rows.
        among: whether a row is looked at, shape (N,).
        items: evaluation items.
        config: length of the n-grams, and thresholds.

    Returns:
        For each row with enough overlap, the item with most of its n-grams and the overlap with all items.
    """
    matches: dict[int, _Shared] = {}
    n_texts = n_short = 0
    for part in _parts(items, max_chars=_PART_CHARS):
        index = NgramIndex(part.texts, part.items, config.ngram_words, config.min_words)
        n_texts += len(part.texts)
        n_short += index.too_short
        if not index:
            continue
        for numbers, texts in _batches(staging, among, "Looking for n-grams of evaluation items"):
            shared_rows = index.find(texts)
            for row, item, shared, covered in zip(
                numbers[shared_rows.rows].tolist(),
                shared_rows.items.tolist(),
                shared_rows.shared.tolist(),
                shared_rows.covered,
                strict=True,
            ):
                match = _Shared(part.names[item], shared, np.packbits(covered), len(covered))
                matches[row] = match.joined(matches[row]) if row in matches else match
    if n_short:
        logger.warning(
            "%d of %d evaluation texts have fewer than %d words and are not compared by n-grams "
            "(decontamination.min_words)",
            n_short, n_texts, config.min_words,
        )  # fmt: skip
    overlaps = {row: Match(match.item, match.overlap) for row, match in sorted(matches.items())}
    return {row: match for row, match in overlaps.items() if match.overlap >= config.min_overlap}


def near_items(
    staging: Staging, among: NDArray[np.bool_], items: Iterator[EvaluationItem], threshold: float
) -> dict[int, Match]:
    """Find rows that are near duplicates of evaluation items.

    Args:
        staging: candidate rows.
        among: whether a row is looked at, shape (N,).
        items: evaluation items.
        threshold: minimum Jaccard similarity (see `near_index.NearIndex`).

    Returns:
        For each such row the most similar item, the first of equals, and the similarity.
    """
    matches: dict[int, Match] = {}
    for part in _parts(items, _PART_CHARS, _PART_TEXTS):
        index = NearIndex(threshold, part.texts)
        for numbers, texts in _batches(staging, among, "Looking for near duplicates of evaluation items"):
            for position, (text, similarity) in index.nearest(texts.to_pylist()).items():
                row = int(numbers[position])
                if row not in matches or similarity > matches[row].overlap:
                    matches[row] = Match(part.names[part.items[text]], similarity)
    return dict(sorted(matches.items()))


def _drop(
    staging: Staging, keep: NDArray[np.bool_], matches: dict[int, Match], reason: str, dropped: DropLedger
) -> None:
    for row, match in matches.items():
        keep[row] = False
        text_id, document_id = staging.value("text_id", row), staging.value("document_id", row)
        dropped.add(text_id, document_id, "decontamination", reason, match.item, match.overlap)
    if matches:
        logger.info("Decontamination: %s rows dropped as %s", f"{len(matches):,}", reason)


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


@dataclass
class _Part:
    """Texts of evaluation items that are indexed together."""

    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    """Position in `names` of the item of each text."""


def _parts(
    items: Iterator[EvaluationItem], max_chars: int | None = None, max_texts: int | None = None
) -> Iterator[_Part]:
    part, chars = _Part(), 0
    for item in items:
        part.items += [len(part.names)] * len(item.texts)
        part.names.append(item.name)
        part.texts += item.texts
        chars += sum(map(len, item.texts))
        if (max_chars and chars >= max_chars) or (max_texts and len(part.texts) >= max_texts):
            yield part
            part, chars = _Part(), 0
    if part.texts:
        yield part


def _batches(
    staging: Staging, among: NDArray[np.bool_], activity: str
) -> Iterator[tuple[IntArray, pa.LargeStringArray]]:
    """Read the texts of some rows in batches, with their numbers."""
    with progress_bar(len(staging), activity, "row") as bar:
        for start, table in staging.batches():
            mask = among[start : start + table.num_rows]
            if mask.any():
                yield start + np.flatnonzero(mask), table["text"].filter(pa.array(mask)).combine_chunks()
            bar.update(table.num_rows)


@dataclass(frozen=True, slots=True)
class _Shared:
    """N-grams that a row has in common with the items of one or more parts."""

    item: str
    shared: int
    """Places of the row at which an n-gram of the item begins."""
    covered: NDArray[np.uint8]
    """Packed mask of the words in common n-grams."""
    words: int

    @property
    def overlap(self) -> float:
        return int(np.unpackbits(self.covered).sum()) / self.words

    def joined(self, earlier: "_Shared") -> "_Shared":
        best = self if self.shared > earlier.shared else earlier
        return _Shared(best.item, best.shared, self.covered | earlier.covered, self.words)
