"""The explorer as a static application: a folder with the atlas's files, the rows as parquet, and their neighbours."""

import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import ConfigError
from data_pipeline.report.explorer.contents import Contents
from data_pipeline.report.explorer.database import NEIGHBORS_TYPE, Database
from data_pipeline.report.explorer.page import SCRIPTS, STATIC, index_page, metadata
from data_pipeline.report.neighbors import Neighbors
from data_pipeline.utils import atomic_write_json
from data_pipeline.utils.folders import discarded_on_error, new_folder, recover_folder, replace_folder

logger = logging.getLogger(__name__)

MARKER = "manifest.json"
"""File by which a folder is known to be an exported application."""

_STAGE = "explorer"
_ROWS = 65_536


def check_target(folder: Path) -> None:
    """Check that a folder may be written: it is missing, empty, or was exported before.

    Raises:
        ConfigError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--export needs a folder; {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and not _is_exported(folder):
        raise ConfigError(
            f"{folder} is not empty, and elm explore did not write it. Name a folder that is new or empty: "
            "--export FOLDER"
        )


def export_application(contents: Contents, database: Database, neighbors: Neighbors | None, folder: Path) -> None:
    """Write the static application to a folder, which is replaced when all is written.

    Args:
        contents: rows that are shown.
        database: the same rows as a database.
        neighbors: nearest neighbours of all rows; None to leave them out.
        folder: folder to write, see `check_target`.

    Raises:
        ConfigError: the folder holds something else.
    """
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder, _is_ours)
    with discarded_on_error(folder):
        write_application(contents, database, neighbors, new_folder(folder))
        replace_folder(folder, _is_ours)


def write_archive(contents: Contents, database: Database, neighbors: Neighbors | None, path: Path) -> None:
    """Write the static application as a ZIP file."""
    with tempfile.TemporaryDirectory(prefix="elm-explorer-") as name:
        folder = Path(name) / "application"
        write_application(contents, database, neighbors, folder)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))


def write_application(contents: Contents, database: Database, neighbors: Neighbors | None, folder: Path) -> None:
    """Write the static application to a folder that does not exist; its manifest is written last."""
    shutil.copytree(STATIC, folder)
    (folder / "index.html").write_text(index_page(contents.corpus, is_static=True), encoding="utf-8")
    shutil.copytree(SCRIPTS, folder / SCRIPTS.name)
    data = folder / "data"
    data.mkdir()
    about = metadata(contents, database.names, is_static=True, has_neighbors=neighbors is not None)
    (data / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    writer = None
    for batch in _with_neighbors(database, neighbors):
        writer = writer or pq.ParquetWriter(data / "dataset.parquet", batch.schema, compression="zstd")
        writer.write_batch(batch, row_group_size=_ROWS)
    assert writer is not None  # a dataset without rows is not opened
    writer.close()
    rows = {split: len(part) for split, part in contents.parts.items()}
    atomic_write_json(folder / MARKER, {"stage": _STAGE, "fingerprint": contents.fingerprint(), "rows": rows})


def _with_neighbors(database: Database, neighbors: Neighbors | None) -> Iterator[pa.RecordBatch]:
    for batch in database.rows_of_shown():
        if neighbors is None:
            yield batch
            continue
        rows = batch.column(database.names.row).to_numpy()
        column = _lists(neighbors.rows[rows], 1 - neighbors.cosines[rows])
        yield batch.append_column(database.names.neighbors, column)


def _lists(ids: np.ndarray, distances: np.ndarray) -> pa.Array:
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1])
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(ids.ravel().astype(np.int32))),
        pa.ListArray.from_arrays(offsets, pa.array(distances.ravel().astype(np.float32))),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(NEIGHBORS_TYPE))


def _is_exported(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MARKER).read_bytes()).get("stage") == _STAGE)
    except (OSError, ValueError, AttributeError):
        return False


def _is_ours(name: str) -> bool:
    return name in {"index.html", "data", SCRIPTS.name, MARKER} or (STATIC / name).exists()
