"""Memory-mapped files: several mapped as one array, and hints to the kernel before rows are read.

A page that is not in memory is fetched when it is touched, one page after the other, each with
neighbours that nobody asked for. Data larger than memory must never be read like that: a reader
announces what it is about to read (`will_need`), and the disk works on all of it at once.

On Linux only, see `system.linux_calls`. Elsewhere each file is mapped on its own and no hints are
given: the same rows, read more slowly from a disk.
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
_MADV_WILLNEED, _MADV_POPULATE_READ = 3, 22
_PROCESS_MADVISE = 440  # by its number, the same everywhere: the C library has no name for it before glibc 2.36
_MAX_RANGES = 1024  # that the kernel takes in one call


class Range:
    """A range of addresses into which parts of files are mapped side by side; read-only.

    Arrays of it keep it alive. What no file was mapped to must not be touched.

    Args:
        size: in bytes.

    Raises:
        OSError: the system has no such ranges (see `system.linux_calls`), or no room for it (`ulimit -v`).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._unmap: Any = getattr(linux_calls(), "munmap", None)
        self.address = _mmap(0, size, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (self.address, True), "version": 3}

    def map_file(self, at: int, path: Path, offset: int, size: int) -> None:
        """Put a part of a file at a place in the range; both begin at a page's edge."""
        handle = os.open(path, os.O_RDONLY)
        try:
            _mmap(self.address + at, size, _PROT_READ, _MAP_SHARED | _MAP_FIXED, handle, offset)
        finally:
            os.close(handle)

    def __del__(self) -> None:
        if address := getattr(self, "address", 0):
            self._unmap(address, self.size)


def map_bytes(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """A part of one file, wherever it begins, as a read-only array; nothing is read yet."""
    if size == 0:
        return np.zeros(0, np.uint8)
    # As a plain array: every row cut from a memmap object costs a microsecond more.
    return np.memmap(path, np.uint8, "r", offset, (size,)).view(np.ndarray)


def is_cached(path: Path, offset: int) -> bool:
    """Whether a byte of a file is in memory; False also where the system does not say."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        # Not by mincore: it tells those who may not write the file that all of it is in memory.
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False
    finally:
        os.close(handle)


def will_need(addresses: IntArray, sizes: IntArray) -> None:
    """Let the disk fetch ranges of mapped files, all at once; returns while it works.

    Args:
        addresses: of the first bytes, shape (N,).
        sizes: in bytes, shape (N,).
    """
    libc = linux_calls()
    if libc is None or not len(addresses):
        return
    starts, ends = _joined(addresses, sizes)
    ranges = np.stack([starts, ends - starts], axis=1).astype(np.uint64)
    for first in range(0, len(ranges), _MAX_RANGES):
        some = np.ascontiguousarray(ranges[first : first + _MAX_RANGES])
        handle = own_process_handle(os.getpid())
        done = -1
        if handle is not None:
            done = libc.syscall(_PROCESS_MADVISE, handle, some.ctypes.data, len(some), _MADV_WILLNEED, 0)
        if done < 0:  # an older kernel, or a container that forbids it
            for address, size in some.tolist():
                libc.madvise(address, size, _MADV_WILLNEED)


def populate(address: int, size: int) -> None:
    """Enter pages that are in memory into the process's table at once, instead of by a fault for each few."""
    if (libc := linux_calls()) is not None:
        libc.madvise(address, size, _MADV_POPULATE_READ)  # an older kernel refuses, and faults do the work


def _joined(addresses: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray]:
    """Ranges by whole pages, in order, those that touch joined: starts and ends."""
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
        raise OSError("This system cannot map several files as one.")
    found = libc.mmap(address, size, protection, flags, handle, offset)
    if found == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size} bytes: {os.strerror(error)}")
    return int(found)
