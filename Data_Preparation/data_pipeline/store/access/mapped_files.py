"""Memory-mapped files: several mapped as one array, and hints to the kernel before rows are read.

The kernel fetches a page that is not in memory when it is touched: one page after another, each with its neighbors.
That is too slow for data larger than memory, so a reader announces the rows it is about to read (`will_need`), and the
disk fetches all of them at once.

This works on Linux only, see `utils.system.linux_calls`. Elsewhere each file is mapped on its own without hints, which
reads the same rows more slowly from a disk.
"""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import IntArray
from data_pipeline.utils.system import linux_calls, own_process_handle

_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
_MADV_WILLNEED, _MADV_DONTNEED, _MADV_POPULATE_READ = 3, 4, 22
_PROCESS_MADVISE = 440  # called by number, since glibc has no wrapper before 2.36
_MAX_RANGES = 1024  # limit of the kernel for one call


class Range:
    """Read-only address range that parts of files are mapped into side by side.

    Arrays over the range keep it alive. Addresses without a mapped file must not be read.

    Args:
        size: size in bytes.

    Raises:
        OSError: the system does not support such ranges (see `utils.system.linux_calls`), or has no room (`ulimit -v`).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._unmap: Any = getattr(linux_calls(), "munmap", None)
        self.address = _mmap(0, size, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self.address, True), "version": 3}

    def map_file(self, at: int, path: Path, offset: int, size: int) -> None:
        """Map a part of a file at a position of the range; both begin at a page boundary."""
        with path.open("rb", buffering=0) as file:
            _mmap(self.address + at, size, _PROT_READ, _MAP_SHARED | _MAP_FIXED, file.fileno(), offset)

    def __del__(self) -> None:
        if address := getattr(self, "address", 0):
            self._unmap(address, self.size)


def map_bytes(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """Map a part of a file, which may begin anywhere, as a read-only array."""
    if size == 0:
        return np.zeros(0, np.uint8)
    # Slicing a memmap object costs a microsecond more per row than slicing a plain array.
    return np.memmap(path, np.uint8, "r", offset, (size,)).view(np.ndarray)


def is_cached(path: Path, offset: int) -> bool:
    """Return whether a byte of a file is in memory; False also if the system cannot tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    handle = os.open(path, os.O_RDONLY)  # in half the time of `path.open`
    try:
        # mincore reports all pages as cached to processes that may not write the file.
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False
    finally:
        os.close(handle)


def will_need(addresses: IntArray, sizes: IntArray) -> None:
    """Start fetching ranges of mapped files, all at once, without waiting for them.

    Args:
        addresses: addresses of the first bytes, shape (N,).
        sizes: sizes in bytes, shape (N,).
    """
    libc = linux_calls()
    if libc is None or not len(addresses):
        return
    starts, ends = _join_ranges(addresses, sizes)
    ranges = np.stack([starts, ends - starts], axis=1).astype(np.uint64)
    for first in range(0, len(ranges), _MAX_RANGES):
        chunk = np.ascontiguousarray(ranges[first : first + _MAX_RANGES])
        handle = own_process_handle(os.getpid())
        done = -1
        if handle is not None:
            done = libc.syscall(_PROCESS_MADVISE, handle, chunk.ctypes.data, len(chunk), _MADV_WILLNEED, 0)
        if done < 0:  # an older kernel, or a container that forbids it
            for address, size in chunk.tolist():
                libc.madvise(address, size, _MADV_WILLNEED)


def populate(address: int, size: int) -> None:
    """Enter cached pages into the page table of the process at once, instead of by one page fault for every few."""
    if (libc := linux_calls()) is not None:
        libc.madvise(address, size, _MADV_POPULATE_READ)  # older kernels reject this, and page faults do the work


def release(array: NDArray[Any]) -> None:
    """Take the pages of a part of a mapped file out of the memory of the process; the system may still cache them.

    Args:
        array: contiguous part, which is read from the file again when it is needed.
    """
    libc = linux_calls()
    first = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if libc is not None and size > 0:
        libc.madvise(first, size, _MADV_DONTNEED)


def _join_ranges(addresses: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray]:
    """Align ranges to whole pages, sort them, and join adjacent ones; returns starts and ends."""
    order = np.argsort(addresses)
    starts = addresses[order] & -mmap.PAGESIZE
    ends = np.maximum.accumulate(addresses[order] + sizes[order])
    new = np.ones(len(starts), np.bool_)
    new[1:] = starts[1:] > ends[:-1]
    last = np.append(np.flatnonzero(new)[1:], len(starts)) - 1
    return starts[new], ends[last]


def _mmap(address: int, size: int, protection: int, flags: int, handle: int, offset: int) -> int:
    libc = linux_calls()
    if libc is None:
        raise OSError("this system cannot map several files as one array")
    mapped = libc.mmap(address, size, protection, flags, handle, offset)
    if mapped == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size} bytes: {os.strerror(error)}")
    return int(mapped)
