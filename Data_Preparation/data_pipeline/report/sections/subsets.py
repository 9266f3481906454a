"""Section with the subsets of the rows, side by side, and how much they have in common."""

from collections.abc import Mapping

import numpy as np

from data_pipeline.errors import StoreError
from data_pipeline.report.blocks import Block, Note, Section, Table
from data_pipeline.report.figures import heat_map
from data_pipeline.report.opened import OpenedDataset
from data_pipeline.report.wording import readable
from data_pipeline.store.manifest import SelectionManifest, read_manifest
from data_pipeline.store.selections import read_selection
from data_pipeline.types import Split
from data_pipeline.user_files import visible

_MEASURES = (
    "of", "mean_tokens", "length_ratio", "length_drift", "kcenter_radius", "mean_distance", "mean_deviation", "mmd2",
    "label_drift", "overlap_with_random", "near_duplicates",
)  # fmt: skip


def read_subsets(dataset: OpenedDataset) -> tuple[dict[tuple[str, Split], list[str]], list[str]]:
    """Read the ids of all subsets, by name and split, and why others cannot be read."""
    root = dataset.config.selections_dir
    subsets: dict[tuple[str, Split], list[str]] = {}
    faults = []
    for path in sorted(visible(root.glob("*/manifest.json"), root)):
        try:
            manifest = read_manifest(path.parent, SelectionManifest)
            for split, rows in dataset.rows.items():
                if manifest is not None and split in manifest["splits"]:
                    subsets[path.parent.name, split] = read_selection(path.parent, split, rows.source.fingerprints())
        except StoreError as error:
            faults.append(str(error))
    return subsets, faults


def subsets_section(
    dataset: OpenedDataset, subsets: Mapping[tuple[str, Split], list[str]], faults: list[str]
) -> Section | None:
    """Compare the subsets; None if there are none.

    Args:
        dataset: the dataset.
        subsets: ids of the subsets, by name and split.
        faults: why others cannot be read.
    """
    if not (subsets or faults):
        return None
    blocks: list[Block] = [Note(fault, "bad") for fault in faults]
    if subsets:
        blocks.append(_table(dataset, subsets))
    if len(subsets) > 1:
        names = [f"{name} ({split})" for name, split in subsets]
        sets = [set(ids) for ids in subsets.values()]
        matrix = np.array([[len(one & other) / max(1, len(one | other)) for other in sets] for one in sets])
        alt = f"up to {matrix[~np.eye(len(sets), dtype=bool)].max():.2f} between two subsets"
        blocks.append(heat_map("Rows in common (Jaccard similarity)", alt, names, matrix))
    return Section("subsets", "Subsets", blocks)


def _table(dataset: OpenedDataset, subsets: Mapping[tuple[str, Split], list[str]]) -> Table:
    entries = []
    for (name, split), ids in subsets.items():
        manifest = read_manifest(dataset.config.selections_dir / name, SelectionManifest)
        assert manifest is not None
        entries.append((name, split, len(ids), manifest["splits"][split]["about"]))
    measures = [measure for measure in _MEASURES if any(measure in about for *_, about in entries)]
    rows = [
        (name, split, f"{count:,}", *(_shown(about.get(measure)) for measure in measures))
        for name, split, count, about in entries
    ]
    columns = ("subset", "split", "rows", *map(readable, measures))
    return Table("Subsets side by side", columns, rows, frozenset(range(2, len(columns))))


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else "" if value is None else str(value)
