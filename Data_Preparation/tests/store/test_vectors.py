import json
import struct
import threading
from mmap import PAGESIZE

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.store import open_embedding_shard
from data_pipeline.store.access import mapped_files as pages
from data_pipeline.store.access import vectors
from data_pipeline.store.access.vectors import Vectors
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.store.quantization import calibrate
from data_pipeline.utils.system import linux_calls

DIM = 256
PRECISIONS = ["float32", "float16", "int8", "float8", "ubinary"]
# So many rows fill whole pages: 1024, 512, 256, 256 and 32 bytes each.
PAGE_ROWS = {"float32": 4, "float16": 8, "int8": 16, "float8": 16, "ubinary": 128}


side_by_side = pytest.mark.skipif(
    linux_calls() is None or PAGESIZE > 4096, reason="shards are mapped one by one on this system"
)


class Store:
    """Shards of random vectors, the same bytes as one array, and which were opened."""

    def __init__(self, folder, sizes, precision="float32", dim=DIM, seed=0):
        vectors = np.random.default_rng(seed).normal(size=(sum(sizes), dim)).astype(np.float32)
        sample = vectors if len(vectors) else np.ones((1, dim), np.float32)
        self.coding = calibrate(precision, sample)
        self.expected = self.coding.encode(vectors)
        self.sizes, self.paths, self.opened = sizes, [], []
        start = 0
        for number, rows in enumerate(sizes):
            path = folder / f"{number}.safetensors"
            writer = EmbeddingWriter(path, rows, dim, self.coding, {"number": str(number)})
            writer.write(np.arange(rows), vectors[start : start + rows])
            writer.finish()
            self.paths.append(path)
            start += rows

    def open(self, number):
        self.opened.append(number)
        return open_embedding_shard(self.paths[number])

    def vectors(self):
        self.opened.clear()
        return Vectors(self.sizes, self.open)


def arrangements(precision):
    """Joined, unjoined, one shard, and empty ones in between and at the end."""
    some = PAGE_ROWS[precision]
    return [
        [2 * some, some, 3 * some], [some, 0, some, 0], [0, some, 5], [some, 2 * some, 7], [5, 7, 3],
        [5, 0, 0, 6, 0], [0, 5, 3], [13], [0], [0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gather_is_that_of_one_array(tmp_path, precision):
    generator = np.random.default_rng(1)
    for number, sizes in enumerate(arrangements(precision)):
        folder = tmp_path / str(number)
        store = Store(folder, sizes, precision)
        rows = sum(sizes)
        asked = [np.zeros(0, np.int64), np.arange(rows)]
        if rows:
            asked += [generator.integers(0, rows, 50), np.arange(rows)[::-1], np.full(9, rows - 1)]
            asked += [np.arange(rows // 3, rows // 3 + 4) % rows, np.array([0]), np.array([rows - 1, 0])]
        for chosen in asked:
            vectors = store.vectors()
            vectors.prepare(chosen)
            found = vectors.gather(chosen)
            assert found.dtype == store.coding.dtype
            np.testing.assert_array_equal(found, store.expected[chosen])
            part = vectors.gather(chosen, 64)
            np.testing.assert_array_equal(part, store.expected[chosen][:, : store.coding.width(64)])
        vectors = store.vectors()
        assert len(vectors) == rows
        for row in (*range(0, rows, 5), *range(rows - 1, 0, -7)):
            np.testing.assert_array_equal(vectors.row(row), store.expected[row])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_runs_and_rows_in_any_order_are_those_of_one_array(tmp_path_factory, data):
    sizes = data.draw(st.lists(st.sampled_from([0, 4, 8, 12, 3]), min_size=1, max_size=6).filter(sum))
    store = Store(tmp_path_factory.mktemp("any"), sizes)
    vectors = store.vectors()
    for _ in range(3):
        chosen = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=12)), np.int64)
        count = data.draw(st.integers(1, 9))
        vectors.prepare(chosen, count)
        np.testing.assert_array_equal(vectors.gather(chosen), store.expected[chosen])


def test_gathered_rows_are_copies(tmp_path):
    store = Store(tmp_path, [4, 4])
    vectors = store.vectors()
    vectors.gather(np.arange(8))[:] = 0
    vectors.row(3)[:] = 0
    np.testing.assert_array_equal(vectors.gather(np.arange(8)), store.expected)


def another_system(monkeypatch):
    monkeypatch.setattr(pages, "linux_calls", lambda: None)


def no_room_for_ranges(monkeypatch):
    def refuse(size):
        raise OSError("cannot map: Cannot allocate memory")

    monkeypatch.setattr(vectors, "Range", refuse)


def large_pages(monkeypatch):
    monkeypatch.setattr(vectors, "PAGESIZE", 65_536)


@pytest.mark.parametrize("change", [another_system, no_room_for_ranges, large_pages])
def test_where_shards_cannot_lie_side_by_side_the_same_rows_are_read_from_each(change, tmp_path, monkeypatch):
    change(monkeypatch)
    some = PAGE_ROWS["float32"]
    store = Store(tmp_path, [some, 2 * some, 3])
    found = store.vectors()
    rows = np.random.default_rng(0).permutation(3 * some + 3)
    found.prepare(rows)
    np.testing.assert_array_equal(found.gather(rows), store.expected[rows])
    np.testing.assert_array_equal(found.row(some), store.expected[some])
    with pytest.raises(StoreError, match="3 shards that cannot be mapped as one array"):
        found.whole()


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [5, 5, 5, 5]])
def test_only_shards_whose_rows_are_asked_for_are_opened_and_each_once(tmp_path, sizes):
    store = Store(tmp_path, sizes)
    vectors = store.vectors()
    assert store.opened == [0]  # says how wide all are
    vectors.gather(np.array([2 * sizes[0] + 1]))
    assert store.opened == [0, 2]
    vectors.prepare(np.array([3, sum(sizes) - 1]))
    vectors.row(2 * sizes[0])
    assert store.opened == [0, 2, 3]
    for path in store.paths[2:]:
        path.unlink()  # they are mapped
    np.testing.assert_array_equal(vectors.gather(np.arange(2 * sizes[0], sum(sizes))), store.expected[2 * sizes[0] :])
    assert vectors.shard(1).metadata["number"] == "1"
    assert store.opened == [0, 2, 3, 1]


@side_by_side
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_rows_are_one_array_without_a_copy(tmp_path, precision):
    some = PAGE_ROWS[precision]
    store = Store(tmp_path, [some, 2 * some, 3], precision)
    vectors = store.vectors()
    whole = vectors.whole()
    assert store.opened == [0, 1, 2]
    np.testing.assert_array_equal(whole, store.expected)
    assert not whole.flags.writeable
    assert np.shares_memory(whole, vectors.whole())
    # The files themselves: what is written into one is seen.
    shard = open_embedding_shard(store.paths[1])
    with store.paths[1].open("r+b") as file:
        file.seek(shard.offset)
        file.write(b"\x05")
    assert whole[some].tobytes()[0] == 5


def test_rows_that_do_not_fill_pages_are_no_one_array_and_the_message_says_what_to_do(tmp_path):
    store = Store(tmp_path, [5, 4])
    with pytest.raises(
        StoreError, match=rf"2 shards .* multiple of {PAGESIZE}, and those of 0.safetensors are 5120.*to_numpy"
    ):
        store.vectors().whole()
    alone = Store(tmp_path / "alone", [5]).vectors().whole()
    assert alone.shape == (5, DIM)


def test_a_shard_of_another_width_or_calibration_is_refused_by_name(tmp_path):
    narrow = Store(tmp_path / "narrow", [8, 8], dim=128)
    for first, precision in ((8, "float32"), (16, "int8")):
        store = Store(tmp_path / precision, [first, 8], precision)
        other = narrow if precision == "float32" else Store(tmp_path / "other", [16, 8], "int8", seed=1)
        store.paths[1] = other.paths[1]
        with pytest.raises(ShardMismatchError, match=r"1\.safetensors holds .*calibrated differently.*--overwrite"):
            store.vectors().gather(np.array([first]))


def foreign(path, vectors):
    """A file as the official writer makes it: the data begin where the header happens to end."""
    header = {"embeddings": {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, vectors.nbytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + vectors.tobytes())


@pytest.mark.parametrize("sizes", [[8], [3, 5]])
def test_foreign_files_that_begin_anywhere_are_read(tmp_path, sizes):
    store = Store(tmp_path, sizes)
    for path, part in zip(store.paths, np.split(store.expected, np.cumsum(sizes)[:-1]), strict=True):
        foreign(path, part)
        assert open_embedding_shard(path).offset % 4096
    vectors = store.vectors()
    chosen = np.array([7, 0, 3, 3])
    np.testing.assert_array_equal(vectors.gather(chosen), store.expected[chosen])
    np.testing.assert_array_equal(vectors.row(5), store.expected[5])
    if len(sizes) == 1:
        np.testing.assert_array_equal(vectors.whole(), store.expected)


@side_by_side
def test_foreign_files_that_should_lie_side_by_side_and_cannot_are_refused_by_name(tmp_path):
    store = Store(tmp_path, [4, 4])
    foreign(store.paths[1], store.expected[4:])
    with pytest.raises(
        CorruptShardError, match=r"1\.safetensors: its vectors begin at byte .*expected a multiple of.*--overwrite"
    ):
        store.vectors().gather(np.array([5]))


@pytest.mark.parametrize("sizes", [[5, 5, 5]])
def test_two_threads_that_open_the_same_shard_at_once_leave_the_others_to_be_opened(tmp_path, sizes):
    # A training loop that reads dataset[i] while the loader's thread reads ahead does that. Side by side, reading
    # a shard that is not open is a segmentation fault.
    store = Store(tmp_path, sizes)
    both = threading.Barrier(2)

    def slowly(number):
        shard = store.open(number)
        if number == 1:
            both.wait(timeout=0.5)
        return shard

    vectors = Vectors(sizes, slowly)

    def read():
        try:
            vectors.gather(np.array([6]))
        except threading.BrokenBarrierError:  # the other thread waited for this one to open it
            both.reset()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(vectors.gather(np.array([12])), store.expected[[12]])
