"""Selections: a folder for each subset, with a parquet list of ids for each split.

`data/selections/<subset>/{train,val,test}.parquet` has `text_id`, in order of preference, and `value`, the value that
the row was selected by; its manifest holds the hash of the ids and texts of all candidates.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, NotFoundError, ShardMismatchError
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import (
    SelectedSplit,
    SelectionManifest,
    check_fresh,
    fingerprint,
    read_manifest,
    read_manifest_to_replace,
    write_manifest,
)
from data_pipeline.store.paragraphs import reading_parquet
from data_pipeline.types import Split
from data_pipeline.user_files import visible
from data_pipeline.utils import published, sha256_of_file

_SCHEMA = pa.schema([("text_id", pa.string()), ("value", pa.float64())])
_ADVICE = "Make it again with: elm select --overwrite"


def write_selection(
    folder: Path,
    split: Split,
    ids: Sequence[str],
    values: NDArray[np.float64] | None,
    settings: Mapping[str, Any],
    upstream: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write a selection.

    Args:
        folder: `data/selections/<subset>`.
        split: split of the rows.
        ids: ids of the rows, in order of preference.
        values: values that the rows were selected by, shape (K,); None if unknown. Non-finite values become NaN.
        settings: settings of the selection, as JSON values.
        upstream: fingerprint of the paragraphs and of the features.
        about: description for the manifest, as JSON values.
        overwrite: whether to replace a selection with other settings.

    Returns:
        The path of the file.

    Raises:
        StaleStageError: a selection of that name was made with other settings, and `overwrite` is false.
    """
    splits = read_splits_to_replace(folder, split, settings, upstream, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.parquet"
    column = [None] * len(ids) if values is None else np.where(np.isfinite(values), values, np.nan)
    with published(path) as temporary:
        pq.write_table(pa.table({"text_id": list(ids), "value": column}, schema=_SCHEMA), temporary, compression="zstd")
    splits[split] = {
        "settings": dict(settings),
        "upstream": upstream,
        "fingerprint": fingerprint(settings, upstream),
        "rows": len(ids),
        "ids_sha256": column_sha256(ids),
        "sha256": sha256_of_file(path),
        "about": dict(about),
    }
    write_manifest(folder, {"stage": "selection", "splits": splits})
    return path


def read_splits_to_replace(
    folder: Path, split: Split, settings: Mapping[str, Any], upstream: str, overwrite: bool
) -> dict[str, SelectedSplit]:
    """Read the records of the splits of a subset before one is written; see `write_selection`.

    Raises:
        StaleStageError: a selection of that name was made with other settings, and `overwrite` is false.
    """
    manifest = read_manifest_to_replace(folder, overwrite, SelectionManifest)
    splits = dict(manifest["splits"]) if manifest else {}
    if split in splits and not overwrite:
        check_fresh(splits[split], settings, upstream, folder / split)
    return splits


def read_selection(folder: Path, split: Split, paragraphs: Collection[str] | None = None) -> list[str]:
    """Read the ids of a selection, in order of preference.

    Args:
        folder: `data/selections/<subset>`.
        split: split of the rows.
        paragraphs: fingerprints that the paragraphs may have, of which a split that has grown has several; None for
            any.

    Raises:
        NotFoundError: the selection does not exist.
        ShardMismatchError: the selection was made from other paragraphs.
        CorruptShardError: the file is missing or altered.
    """
    manifest = read_manifest(folder, SelectionManifest)
    if manifest is None or split not in manifest["splits"]:
        existing = [path.parent.name for path in visible(folder.parent.glob("*/manifest.json"), folder.parent)]
        raise NotFoundError(
            f"unknown selection {folder.name!r} of {split}; expected one of {', '.join(existing) or 'none'}. "
            "Make it with: elm select"
        )
    listed = manifest["splits"][split]
    if paragraphs is not None and listed["about"]["paragraphs"] not in paragraphs:
        raise ShardMismatchError(f"the selection in {folder} was made from other paragraphs of {split}. {_ADVICE}")
    path = folder / f"{split}.parquet"
    with reading_parquet(f"{path} cannot be read", _ADVICE):
        ids: list[str] = pq.read_table(path, columns=["text_id"], partitioning=None)["text_id"].to_pylist()
    if column_sha256(ids) != listed["ids_sha256"]:
        raise CorruptShardError(f"{path}: checksum mismatch with manifest.json. {_ADVICE}")
    return ids


def paragraphs_of_selection(folder: Path, split: Split) -> str:
    """Return the fingerprint of the paragraphs that a selection was made from; empty for none that exists."""
    manifest = read_manifest(folder, SelectionManifest)
    listed = manifest["splits"].get(split) if manifest else None
    return str(listed["about"]["paragraphs"]) if listed else ""
