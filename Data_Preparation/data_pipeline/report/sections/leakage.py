"""Section with the pairs of similar rows: test beside train, and duplicates beside the rows that they repeat."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline.report.blocks import Block, Note, Pair, Pairs, Section
from data_pipeline.report.differences import marked_differences
from data_pipeline.report.neighbors import Neighbors
from data_pipeline.report.opened import OpenedDataset, Sample, texts_of_ids
from data_pipeline.store.dropped import read_dropped_examples

_PAIRS = 20
_CLOSE = 10
_MIN_COSINE = 0.9


def leakage_section(dataset: OpenedDataset, sample: Sample, neighbors: Neighbors | None) -> Section:
    """Show the most similar rows of test and train, and near duplicates that were dropped, differences marked."""
    leakage: Mapping[str, Any] = (dataset.manifest.get("leakage") if dataset.manifest else None) or {}
    blocks: list[Block] = []
    if listed := leakage.get("pairs"):
        blocks.append(_leaking(dataset, listed[:_PAIRS], sample))
    elif leakage.get("near_duplicate_in_train"):
        blocks.append(Note("An older version of this package made the dataset, and kept no pairs."))
    elif leakage.get("near_duplicate_in_train") is None:
        blocks.append(
            Note("Leakage was not measured: train or test is empty, or the dataset is of an older version.", "check")
        )
    else:
        blocks.append(Note("No test row that was compared has a near duplicate in train.", "good"))
    if neighbors is not None and (close := _close_across_splits(sample, neighbors)):
        blocks.append(Pairs(f"Nearest vectors of test and train, among {sample.described}", close))
    if dropped := _dropped_pairs(dataset):
        blocks.append(Pairs("Near duplicates that were dropped, beside the rows that they repeat", dropped))
    lead = "Words that differ are marked."
    return Section("leakage", "Leakage and near duplicates", blocks, lead)


def _leaking(dataset: OpenedDataset, listed: Sequence[Mapping[str, Any]], sample: Sample) -> Pairs:
    tests = texts_of_ids(dataset, "test", [entry["test_id"] for entry in listed])
    trains = texts_of_ids(dataset, "train", [entry["train_id"] for entry in listed])
    pairs = [
        _pair(
            f"test: {entry['test_id']}",
            tests.get(entry["test_id"], ""),
            f"train: {entry['train_id']}",
            trains.get(entry["train_id"], ""),
            f"{entry['similarity']:.0%} of their word sequences in common",
        )
        for entry in listed
    ]
    return Pairs("Near duplicates of test rows in train, the most similar first", pairs)


def _pair(left_title: str, left: str, right_title: str, right: str, note: str) -> Pair:
    one, other = marked_differences(left, right)
    return Pair(left_title, one, right_title, other, note)


def _close_across_splits(sample: Sample, neighbors: Neighbors) -> list[Pair]:
    """Pairs of rows of test and train with the largest cosine, if it is 0.9 or more."""
    splits = np.array(sample.splits)
    tests = np.flatnonzero(splits == "test")
    found: list[tuple[float, int, int]] = []
    for row in tests.tolist():
        for other, cosine in zip(neighbors.rows[row].tolist(), neighbors.cosines[row].tolist(), strict=True):
            if splits[other] == "train":
                found.append((-cosine, row, other))
                break
    best = [entry for entry in sorted(found)[:_CLOSE] if -entry[0] >= _MIN_COSINE]
    return [
        _pair(
            f"test: {sample.ids[row]}", sample.texts[row], f"train: {sample.ids[other]}", sample.texts[other],
            f"cosine {-negative:.3f}",
        )
        for negative, row, other in best
    ]  # fmt: skip


def _dropped_pairs(dataset: OpenedDataset) -> list[Pair]:
    """Examples of dropped near duplicates, beside the rows that are kept."""
    if dataset.manifest is None or not dataset.manifest["counts"]["dropped"].get("near_duplicate"):
        return []
    if (examples := read_dropped_examples(dataset.store.folder)) is None:
        return []
    rows = [row for row in examples.to_pylist() if row["reason"] == "near_duplicate" and row["duplicate_of"]]
    kept: dict[str, str] = {}
    for split in dataset.rows:
        kept |= texts_of_ids(dataset, split, [row["duplicate_of"] for row in rows])
    return [
        _pair(
            f"dropped: {row['text_id']}",
            row["text"] or "",
            f"kept: {row['duplicate_of']}",
            kept[row["duplicate_of"]],
            "",
        )
        for row in rows
        if row["duplicate_of"] in kept
    ]
