import errno
import gc
import mmap
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.store.access import mapped_files as pages
from data_pipeline.store.access import read_ahead as reading
from data_pipeline.utils import system

PAGE = mmap.PAGESIZE

needs_linux = pytest.mark.skipif(system.linux_calls() is None, reason="files are mapped one by one elsewhere")


@pytest.fixture
def written(tmp_path):
    """Three files of 3, 1 and 2 pages, the last without its last 100 bytes, and all their bytes."""
    generator = np.random.default_rng(0)
    contents = [generator.bytes(3 * PAGE), generator.bytes(PAGE), generator.bytes(2 * PAGE - 100)]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths, contents


def mapped(written):
    paths, contents = written
    found = pages.Range(sum(len(content) for content in contents))
    at = 0
    for path, content in zip(paths, contents, strict=True):
        found.map_file(at, path, 0, len(content))
        at += len(content)
    return found


@needs_linux
def test_files_lie_side_by_side(written):
    array = np.asarray(mapped(written))
    assert array.tobytes() == b"".join(written[1])
    assert array.ctypes.data % PAGE == 0
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array[0] = 1


@needs_linux
def test_a_part_of_a_file_can_be_mapped(written):
    paths, contents = written
    found = pages.Range(2 * PAGE)
    found.map_file(0, paths[0], 2 * PAGE, PAGE)
    found.map_file(PAGE, paths[0], 0, PAGE)
    assert np.asarray(found).tobytes() == contents[0][2 * PAGE :] + contents[0][:PAGE]


def resident(array):
    """Bytes of a mapped array that are in the memory of the process."""
    first, last = array.ctypes.data, array.ctypes.data + array.nbytes
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) < last and int(match[2], 16) > first
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@needs_linux
def test_a_part_that_was_released_is_not_in_memory_and_is_read_again(tmp_path):
    content = np.random.default_rng(0).bytes(64 * PAGE + 100)
    (tmp_path / "x").write_bytes(content)
    array = pages.map_bytes(tmp_path / "x", 10, 64 * PAGE)
    assert array.tobytes() == content[10 : 10 + 64 * PAGE]
    assert resident(array) >= 64 * PAGE
    pages.release(array)
    assert resident(array) <= 2 * PAGE  # at its ends, which it shares with others
    assert array.tobytes() == content[10 : 10 + 64 * PAGE]
    pages.release(array[:10])
    pages.release(array[:0])


@needs_linux
def test_arrays_keep_the_range_alive_and_it_goes_with_the_last_of_them(written):
    found = mapped(written)
    address, size = found.address, found.size
    part = np.asarray(found)[PAGE:].reshape(-1, 4)[1:3]
    expected = b"".join(written[1])[PAGE + 4 : PAGE + 12]
    del found
    gc.collect()
    assert part.tobytes() == expected
    assert in_use(address)
    assert size == 6 * PAGE - 100
    del part
    gc.collect()
    assert not in_use(address)


def in_use(address):
    with open("/proc/self/maps") as file:
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in file]
    return any(start <= address < end for start, end in spans)


@needs_linux
def test_a_file_that_is_gone_or_a_range_that_cannot_be_is_an_error(written):
    found = mapped(written)
    with pytest.raises(FileNotFoundError):
        found.map_file(0, written[0][0].with_name("gone"), 0, PAGE)
    with pytest.raises(OSError, match="cannot map"):
        found.map_file(0, written[0][0], 1, PAGE)  # not at a page's edge
    with pytest.raises(OSError, match="cannot map"):
        pages.Range(2**62)


@needs_linux
def test_mapping_leaves_no_open_files(written):
    before = len(os.listdir("/proc/self/fd"))
    arrays = [np.asarray(mapped(written)) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert len(arrays) == 20


def test_a_file_is_mapped_from_wherever_it_begins(written):
    paths, contents = written
    for offset, size in ((0, 10), (1, 10), (PAGE - 1, 2 * PAGE), (77, 0)):
        array = pages.map_bytes(paths[0], offset, size)
        assert array.tobytes() == contents[0][offset : offset + size]
        assert type(array) is np.ndarray


# What the kernel is told


@pytest.mark.parametrize("seed", range(30))
def test_ranges_are_joined_by_whole_pages(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 40))
    addresses = generator.integers(0, 100 * PAGE, count)
    sizes = generator.choice([0, 1, 100, PAGE, 3 * PAGE, 30 * PAGE], count, p=[0.1, 0.3, 0.3, 0.1, 0.15, 0.05])
    starts, ends = pages._join_ranges(addresses, sizes)
    assert (starts % PAGE == 0).all()
    assert (starts <= ends).all()
    assert (starts[1:] > ends[:-1]).all()  # in order, and none touches the next
    asked, told = set(), set()
    for address, size in zip(addresses.tolist(), sizes.tolist(), strict=True):
        if size:
            asked |= set(range(address // PAGE, (address + size - 1) // PAGE + 1))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        told |= set(range(start // PAGE, -(-end // PAGE)))
    assert asked <= told
    # No more than was asked for, but for the pages of ranges without bytes.
    assert told - asked <= {int(address) // PAGE for address in addresses[sizes == 0]}


class Libc:
    """The real functions, written down; `refuses` are answered with -1."""

    def __init__(self, refuses=()):
        self._real, self._refuses, self.calls = system.linux_calls(), refuses, []

    def syscall(self, number, handle, ranges, count, advice, flags):
        done = -1 if "syscall" in self._refuses else self._real.syscall(number, handle, ranges, count, advice, flags)
        self.calls.append(("syscall", count, advice, done))
        return done

    def madvise(self, address, size, advice):
        done = self._real.madvise(address, size, advice)
        self.calls.append(("madvise", address, size, advice, done))
        return done


@needs_linux
def test_where_the_one_call_is_refused_each_range_is_told_by_itself(written, monkeypatch):
    found = mapped(written)
    libc = Libc(refuses={"syscall"})
    monkeypatch.setattr(pages, "linux_calls", lambda: libc)
    pages.will_need(found.address + np.array([5 * PAGE, 0]), np.array([10, 20]))
    assert libc.calls[0][0] == "syscall"
    assert libc.calls[1:] == [
        ("madvise", found.address, 20, 3, 0), ("madvise", found.address + 5 * PAGE, 10, 3, 0)
    ]  # fmt: skip
    monkeypatch.undo()
    assert np.asarray(found).tobytes() == b"".join(written[1])


@needs_linux
def test_many_ranges_take_few_calls(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(bytes(5000 * PAGE))
    array = pages.map_bytes(path, 0, 5000 * PAGE)
    libc = Libc()
    monkeypatch.setattr(pages, "linux_calls", lambda: libc)
    pages.will_need(array.ctypes.data + PAGE * np.arange(0, 5000, 2), np.full(2500, 8))
    calls = [call for call in libc.calls if call[0] == "syscall"]
    assert [call[1] for call in calls] == [1024, 1024, 452]
    pages.will_need(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len([call for call in libc.calls if call[0] == "syscall"]) == 3


def test_on_another_system_nothing_is_said(monkeypatch):
    monkeypatch.setattr(pages, "linux_calls", lambda: None)
    pages.will_need(np.array([0]), np.array([1]))
    pages.populate(0, 1)
    with pytest.raises(OSError, match="this system cannot map several files as one"):
        pages.Range(PAGE)


@needs_linux
@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "no"), OSError(errno.EPERM, "no"), AttributeError("no")])
def test_without_a_handle_of_the_process_each_range_is_told_by_itself(error, written, monkeypatch):
    def refuse(pid):
        raise error

    found = mapped(written)
    libc = Libc()
    monkeypatch.setattr(pages, "linux_calls", lambda: libc)
    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    system.own_process_handle.cache_clear()
    pages.will_need(found.address + np.array([5 * PAGE, 0]), np.array([10, 20]))
    system.own_process_handle.cache_clear()
    assert [call[0] for call in libc.calls] == ["madvise", "madvise"]


def test_whether_a_byte_is_in_memory(written, tmp_path, monkeypatch):
    path = written[0][0]
    path.read_bytes()
    seen = pages.is_cached(path, 0)
    assert seen in (True, False)  # a file system may not say
    assert not pages.is_cached(path, 10 * PAGE)  # beyond the end
    assert not pages.is_cached(path, -5)
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert not pages.is_cached(path, 0)


def test_rows_that_are_not_in_memory_are_fetched_and_others_only_looked_at_now_and_then(tmp_path, monkeypatch):
    told, looked, cached = [], [], [False]
    monkeypatch.setattr(reading, "will_need", lambda *ranges: told.append(tuple(each.tolist() for each in ranges)))
    monkeypatch.setattr(reading, "is_cached", lambda path, place: looked.append(place) or cached[0])
    monkeypatch.setattr(reading, "populate", lambda address, size: told.append((address, size)))

    def ranges(rows, count, around):
        return rows, np.full(len(rows), 10 * count)

    ahead = reading.ReadAhead(lambda row: (tmp_path, row * 10), ranges, 1000, 10)
    ahead.prepare(np.array([5, 3]), 2)
    assert told == [([5, 3], [20, 20])]
    ahead.prepare(np.zeros(0, np.int64))
    assert len(told) == 1
    cached[0] = True
    ahead.mapped(4096, 40 << 20)
    ahead.prepare(np.arange(1000))
    for thread in threading.enumerate():
        if thread.name == "elm-populate":
            thread.join()
    assert told[1:] == [(4096, 16 << 20), (4096 + (16 << 20), 16 << 20), (4096 + (32 << 20), 8 << 20)]
    assert len(looked) < 1 + 40
    count = len(looked)
    for _ in range(16):
        ahead.prepare(np.arange(1000))
    assert len(told) == 4  # each part is entered once
    assert len(looked) == count  # 16,384 rows are believed to be there
    cached[0] = False
    for _ in range(2):
        ahead.prepare(np.arange(1000))
    assert len(told) == 5
    ahead.prepare_row(7)
    assert told[-1] == ([7], [10])


def test_what_does_not_fit_into_memory_is_neither_entered_whole_nor_fetched_with_its_neighbours(tmp_path, monkeypatch):
    told, cached = [], [True]
    monkeypatch.setattr(reading, "will_need", lambda *ranges: told.append(ranges))
    monkeypatch.setattr(reading, "is_cached", lambda path, place: cached[0])
    monkeypatch.setattr(reading, "populate", lambda *part: told.append(part))
    around = []

    def ranges(rows, count, neighbours):
        around.append(neighbours)
        return rows, rows

    for rows, expected in ((10**12, 1), (1000, 128 << 10)):
        ahead = reading.ReadAhead(lambda row: (tmp_path, row), ranges, rows, 1)
        ahead.mapped(4096, 1 << 20)
        cached[0] = False
        ahead.prepare(np.arange(3))
        assert around.pop() == expected
        told.clear()
        cached[0] = True
        ahead.prepare(np.arange(3))
        for thread in threading.enumerate():
            if thread.name == "elm-populate":
                thread.join()
        assert len(told) == (0 if rows == 10**12 else 1)
