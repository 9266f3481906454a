"""The drop ledger of a dataset that grows: what stays of it, before the rows that are left out now are added."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.preprocess.changes import NewOrder
from data_pipeline.preprocess.ledger import STAGES_OF_OTHER_ROWS, DropLedger
from data_pipeline.store.documents import Documents
from data_pipeline.store.dropped import DROPPED, read_dropped_examples
from data_pipeline.store.manifest import ParagraphManifest


def copy_ledger(
    folder: Path,
    dropped: DropLedger,
    documents: Documents,
    order: NewOrder,
    manifest: ParagraphManifest,
    number: int,
) -> None:
    """Write down again what was left out of documents that stay, for other reasons than other rows, with its examples.

    Bad records of the source that was read again are left out, since they were found again. Where examples belong to
    documents that went, the texts of the rows that would follow them are not known.

    Args:
        folder: processed folder as it is.
        dropped: ledger that is being written.
        documents: documents of the folder.
        order: which of them stay.
        manifest: manifest of the folder.
        number: number of the source that was read again.
    """
    left_out = np.flatnonzero(order.renumbered < 0)
    ids = documents.table["document_id"]
    staying = np.flatnonzero(order.renumbered >= 0)
    gone = pa.array(sorted(set(ids.take(pa.array(left_out)).to_pylist())), pa.string())
    if len(gone):  # an id that another document has stays
        others = ids.take(pa.array(staying))
        gone = gone.filter(pc.invert(pc.is_in(gone, value_set=others.combine_chunks())))
    files = _files_of(manifest, number)
    with pq.ParquetFile(folder / DROPPED, pre_buffer=False) as file:
        for batch in file.iter_batches():
            dropped.copy(_still_dropped(pa.Table.from_batches([batch]), gone, files))
    if (examples := read_dropped_examples(folder)) is not None:
        dropped.examples.merge(_still_dropped(examples, gone, files))


def _still_dropped(rows: pa.Table, gone: pa.Array, files: Sequence[str]) -> pa.Table:
    """Rows of a ledger or its examples that an append leaves there.

    Args:
        rows: the rows.
        gone: ids of the documents that went.
        files: names of the files or datasets that were read again.
    """
    keep = pc.invert(pc.is_in(rows["stage"], value_set=pa.array(STAGES_OF_OTHER_ROWS)))
    is_record = pc.equal(rows["stage"], "records")
    keep = pc.and_(keep, pc.or_(is_record, pc.invert(pc.is_in(rows["document_id"], value_set=gone))))
    for name in files:
        again = pc.and_(is_record, pc.starts_with(rows["document_id"], f"{name}, "))
        keep = pc.and_(keep, pc.invert(again))
    return rows.filter(keep)


def _files_of(manifest: ParagraphManifest, number: int) -> list[str]:
    """Names of the files or datasets of a source, as the dataset was made of it; empty for one that is new."""
    appended = manifest.get("appended", [])
    if number > len(appended):
        return []
    settings = manifest["settings"]["corpus"] if number == 0 else appended[number - 1]["settings"]
    return list(settings["identity"])
