"""Files of sparse vectors: their layout, their faults, and work that resumes."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.errors import CorruptShardError, NotFoundError, StoreError
from data_pipeline.store.sparse import SparseRows, SparseWriter, concatenate_rows, open_sparse_shard

WIDTH = 50
METADATA = {"dim": str(WIDTH), "model": "test", "precision": "float32"}


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    words = [np.sort(rng.choice(WIDTH, rng.integers(0, 9), replace=False)) for _ in range(count)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in words])]).astype(np.int64)
    indices = np.concatenate([np.zeros(0), *words]).astype(np.int32)
    return SparseRows(indptr, indices, rng.uniform(0.1, 3, len(indices)).astype(np.float32), WIDTH)


def write(path, rows, block=10, metadata=METADATA):
    writer = SparseWriter(path, len(rows), metadata)
    for start in range(0, len(rows), block):
        part = np.arange(start, min(start + block, len(rows)))
        if not writer.has_block(start, len(part)):
            writer.write_block(start, rows.take(part))
    writer.finish()


def test_other_programs_read_the_files(tmp_path):
    rows, path = random_rows(33), tmp_path / "a.safetensors"
    write(path, rows)
    tensors = load_file(path)
    scipy_sparse = pytest.importorskip("scipy.sparse", reason='needs the extra "weak-labels"')
    matrix = scipy_sparse.csr_array((tensors["values"], tensors["indices"], tensors["indptr"]), shape=(33, WIDTH))
    np.testing.assert_array_equal(matrix.toarray(), rows.to_dense())
    assert [child.name for child in tmp_path.iterdir()] == ["a.safetensors"]  # no blocks are left


def test_rows_are_read_in_any_order(tmp_path):
    rows, path = random_rows(33), tmp_path / "a.safetensors"
    write(path, rows)
    shard = open_sparse_shard(path)
    assert (shard.rows, shard.width, shard.metadata) == (33, WIDTH, METADATA)
    index = np.array([5, 32, 0, 5, 7])
    np.testing.assert_array_equal(shard.stored.take(index).to_dense(), rows.to_dense()[index])
    assert len(shard.stored.take(np.zeros(0, np.int64))) == 0
    assert "stored" not in shard.__getstate__()  # which another process gets
    parts = [rows.take(np.arange(10)), rows.take(np.arange(10, 33))]
    np.testing.assert_array_equal(concatenate_rows(parts, WIDTH).to_dense(), rows.to_dense())


@pytest.mark.parametrize("count", [0, 1, 10])
def test_sizes_at_the_edges(tmp_path, count):
    path = tmp_path / "a.safetensors"
    write(path, random_rows(count))
    assert len(open_sparse_shard(path).stored) == count
    np.testing.assert_array_equal(open_sparse_shard(path).stored.to_dense(), random_rows(count).to_dense())


def test_finished_blocks_are_resumed_and_the_bytes_are_the_same(tmp_path):
    rows, whole, killed = random_rows(33), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write(whole, rows)
    writer = SparseWriter(killed, 33, METADATA)
    writer.write_block(10, rows.take(np.arange(10, 20)))
    with pytest.raises(StoreError, match="of 33 rows, 10 were written"):
        writer.finish()
    again = SparseWriter(killed, 33, METADATA)
    assert again.has_block(10, 10)
    assert not again.has_block(0, 10)
    assert not again.has_block(10, 7)  # of other rows
    # Blocks of another model are not taken for its own, and go when the file is finished.
    SparseWriter(killed, 33, METADATA | {"model": "other"}).write_block(0, random_rows(10, seed=1))
    assert not again.has_block(0, 10)
    write(killed, rows)
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_half_precision_takes_three_quarters(tmp_path):
    rows, path = random_rows(33), tmp_path / "a.safetensors"
    write(path, rows, metadata=METADATA | {"precision": "float16"})
    assert load_file(path)["values"].dtype == np.float16
    taken = open_sparse_shard(path).stored.take(np.arange(33))
    assert taken.values.dtype == np.float32
    np.testing.assert_allclose(taken.to_dense(), rows.to_dense(), rtol=1e-3)


def damaged(path, change):
    """Change the header of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_damaged_files_are_refused(tmp_path):
    rows, path = random_rows(33), tmp_path / "a.safetensors"
    with pytest.raises(NotFoundError):
        open_sparse_shard(path)
    write(path, rows)
    content = path.read_bytes()
    for broken, said in (
        (content[:-1], "its header expects"),
        (content + b"x", "its header expects"),
        (b"not at all", "is not a safetensors file"),
        (content[:4096], "its header expects"),
    ):
        path.write_bytes(broken)
        with pytest.raises(CorruptShardError, match=said):
            open_sparse_shard(path)
    for change, said in (
        (lambda header: header.pop("values"), "must hold the tensors indptr, indices, values"),
        (lambda header: header["indices"].update(dtype="U8"), "must hold the tensors"),
        (lambda header: header["values"].update(shape=[3]), "must hold the tensors"),
        (lambda header: header["__metadata__"].pop("dim"), "its tensors do not fit together"),
        (lambda header: header["__metadata__"].update(dim="-3"), "its tensors do not fit together"),
    ):
        path.write_bytes(content)
        damaged(path, change)
        with pytest.raises(CorruptShardError, match=said):
            open_sparse_shard(path)
    path.write_bytes(content)
    offset, _, _ = open_sparse_shard(path).offsets["indptr"]
    path.write_bytes(content[: offset + 8] + struct.pack("<q", 10**6) + content[offset + 16 :])
    with pytest.raises(CorruptShardError, match="its rows do not lie one after another"):
        _ = open_sparse_shard(path).stored
