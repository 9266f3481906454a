"""Near duplicates among any number of rows, in steps that work on files, so that several processes can share them.

    sign     rows of a unit   -> the buckets of each row, sorted
    bucket   range of buckets -> rows that share a bucket
    connect  all of those     -> parts of rows, of which none shares a bucket with a row of another part
    compare  part of rows     -> rows that are near duplicates of an earlier one, which is named

The result is that of looking at all rows in order, and leaving out each one that is a near duplicate of an earlier row
that was not left out (see `near`). Memory: 8 bytes for every row while they are connected; the other steps take the
same for any number of rows. On disk: 12 bytes for every bucket of a row.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.near import bucket_keys, jaccard, shingles
from data_pipeline.preprocess.number_files import load_numbers, save_numbers
from data_pipeline.preprocess.staging import Staging
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar

_SIGNED_ROWS = 262_144  # in one file, whose keys are sorted
_PART_KEYS = 4_000_000  # sorted at a time
_PART_MEMBERS = 50_000  # compared by one task
_KEYS = (1 << 64) - 1  # the largest key, which no bucket has
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # puts neighbouring numbers into different parts
_REMEMBERED = 65_536  # sets of shingles of rows that others are compared with


def sign(texts: Iterable[tuple[IntArray, Sequence[str]]], threshold: float, path: Path) -> None:
    """Write the buckets of rows to a file: keys, ascending, and the row of each.

    Args:
        texts: row numbers and texts, in batches.
        threshold: see `near.bucket_keys`.
        path: path of the file.
    """
    keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for numbers, batch in texts:
        found = bucket_keys(batch, threshold)
        keys.append(found.ravel())
        rows.append(np.repeat(numbers, found.shape[1]))
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    all_rows = np.concatenate(rows)[order]
    save_numbers(
        path, key=all_keys[order], row=all_rows.astype(np.uint32 if all_rows.max(initial=0) < 2**32 else np.int64)
    )


def bucket_parts(signed: Sequence[Path]) -> int:
    """Return the number of ranges that the buckets are divided into, given the files of `sign`."""
    keys = sum(len(load_numbers(path)["key"]) for path in signed)
    return max(1, -(-keys // _PART_KEYS))


def bucket(signed: Sequence[Path], part: int, parts: int, path: Path) -> None:
    """Write the rows that share a bucket to a file: the number of the bucket, and the row, ascending.

    Args:
        signed: files of `sign`.
        part: number of the range of buckets.
        parts: number of the ranges.
        path: path of the file.
    """
    first, last = (np.uint64(_KEYS * number // parts) for number in (part, part + 1))
    keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for columns in map(load_numbers, signed):
        start, end = np.searchsorted(columns["key"], np.array([first, last]))
        keys.append(columns["key"][start:end].copy())  # so that not all files stay open
        rows.append(columns["row"][start:end].astype(np.int64))
    all_keys, all_rows = np.concatenate(keys), np.concatenate(rows)
    order = np.lexsort((all_rows, all_keys))
    all_keys, all_rows = all_keys[order], all_rows[order]
    same = all_keys[1:] == all_keys[:-1]
    is_shared = np.zeros(len(all_keys), np.bool_)
    is_shared[1:] |= same
    is_shared[:-1] |= same
    save_numbers(path, key=all_keys[is_shared], row=all_rows[is_shared])


def connect(bucketed: Sequence[Path], rows: int, folder: Path) -> int:
    """Divide the rows that share buckets into parts, and write those of each file of `bucket` by part.

    Args:
        bucketed: files of `bucket`.
        rows: number of all rows.
        folder: folder of the files.

    Returns:
        Number of the parts.
    """
    labels = np.arange(rows)
    is_changed = True
    while is_changed:
        is_changed = False
        for columns in map(load_numbers, bucketed):
            joined, members = columns["key"][1:] == columns["key"][:-1], columns["row"]
            ends = labels[members[:-1][joined]], labels[members[1:][joined]]
            lower, higher = np.minimum(*ends), np.maximum(*ends)
            if (lower != higher).any():
                is_changed = True
                np.minimum.at(labels, higher, lower)
        if is_changed:
            _follow(labels)
    parts = max(1, -(-sum(len(load_numbers(file)["row"]) for file in bucketed) // _PART_MEMBERS))
    for file in bucketed:
        columns = load_numbers(file)
        part = (labels[columns["row"]].astype(np.uint64) * _SPREAD >> np.uint64(32)) % np.uint64(parts)
        order = np.argsort(part, kind="stable")
        save_numbers(folder / file.name, key=columns["key"][order], row=columns["row"][order], part=part[order])
    return parts


def compare(connected: Sequence[Path], part: int, threshold: float, text_of: Callable[[int], str]) -> IntArray:
    """Find the near duplicates of one part.

    Args:
        connected: files of `connect`.
        part: number of the part.
        threshold: see `near.bucket_keys`.
        text_of: returns the text of a row.

    Returns:
        Row, and the most similar earlier row that is kept, the first of equals, shape (N, 2); ascending.
    """

    @lru_cache(_REMEMBERED)
    def shingles_of(row: int) -> set[str]:
        return shingles(text_of(row))

    kept: dict[int, list[int]] = {}
    pairs = []
    for row, buckets in _by_row(connected, part):
        own = shingles(text_of(row))
        earlier = {other for key in buckets for other in kept.get(key, ())}
        scored = [(jaccard(own, shingles_of(other)), -other) for other in earlier]
        similarity, negative = max(scored, default=(0.0, 0))
        if similarity >= threshold:
            pairs.append((row, -negative))
        else:
            for key in buckets:
                kept.setdefault(key, []).append(row)
    return np.array(pairs, np.int64).reshape(-1, 2)


def _by_row(connected: Sequence[Path], part: int) -> Iterator[tuple[int, list[int]]]:
    """Rows of a part, ascending, each with its buckets."""
    keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for columns in map(load_numbers, connected):
        start, end = np.searchsorted(columns["part"], np.array([part, part + 1], np.uint64))
        keys.append(columns["key"][start:end].copy())
        rows.append(columns["row"][start:end].copy())
    all_keys, all_rows = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(all_rows, kind="stable")
    members = zip(all_rows[order].tolist(), all_keys[order].tolist(), strict=True)
    for row, buckets in groupby(members, key=itemgetter(0)):
        yield row, [key for _, key in buckets]


def _follow(labels: IntArray) -> None:
    """Replace each label by the label of the row that it names, until nothing changes."""
    while True:
        followed = labels[labels]
        if (followed == labels).all():
            return
        labels[:] = followed


def near_repeats(staging: Staging, keep: NDArray[np.bool_], threshold: float, folder: Path) -> IntArray:
    """Find the near duplicates among staged rows, with all steps in this process.

    Args:
        staging: the rows.
        keep: whether a row is compared, shape (N,).
        threshold: see `near.bucket_keys`.
        folder: folder for files, which is removed.

    Returns:
        See `compare`.
    """
    signed = []
    with progress_bar(len(staging), "Looking for near duplicates", "row") as bar:
        for start in range(0, len(staging), _SIGNED_ROWS):
            signed.append(folder / f"signed-{start}")
            end = min(start + _SIGNED_ROWS, len(staging))
            sign(kept_texts(staging, keep, start, end, bar.update), threshold, signed[-1])
    parts = bucket_parts(signed)
    bucketed = [folder / f"bucket-{part:05d}" for part in range(parts)]
    for part, path in enumerate(bucketed):
        bucket(signed, part, parts, path)
    parts = connect(bucketed, len(staging), folder / "connected")
    connected = [folder / "connected" / path.name for path in bucketed]
    text_of = partial(staging.value, "text")
    pairs = in_row_order([compare(connected, part, threshold, text_of) for part in range(parts)])
    shutil.rmtree(folder)
    return pairs


def kept_texts(
    staging: Staging, keep: NDArray[np.bool_], start: int, end: int, advance: Callable[[int], object]
) -> Iterator[tuple[IntArray, list[str]]]:
    """Read the numbers and texts of the rows from `start` to `end` that are kept, in batches."""
    for first, table in staging.batches(start, end):
        left, right = max(0, start - first), min(table.num_rows, end - first)
        rows = left + np.flatnonzero(keep[first + left : first + right])
        yield first + rows, table["text"].take(pa.array(rows)).to_pylist()
        advance(right - left)


def in_row_order(pairs: Sequence[IntArray]) -> IntArray:
    """Join the pairs of all parts."""
    joined = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    return joined[np.argsort(joined[:, 0])]
