"""What this operating system offers, and what is done where it does not.

Linux, macOS and Windows, glibc and musl, x86 and Arm differ in what they have. Every such difference
is decided here, by looking for the function and never by the name of the system alone, so that a
caller has one way to go. None of it changes what is computed or stored.
"""

import ctypes
import errno
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

# Of file systems and systems that do not push folders to the disk: network and FUSE mounts, Windows.
_NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSYS}
# Linux has the numbers of calls and flags that `linux_calls` and its callers use on these; not on MIPS, Alpha, SPARC.
_USUAL_NUMBERS = {"x86_64", "amd64", "aarch64", "arm64", "riscv64", "s390x", "loongarch64"}
_WINDOWS = os.name == "nt"
_REPLACE_TRIES, _REPLACE_WAIT_S = 20, 0.05


def usable_cores() -> int:
    """Cores that this process may use: those of its container or batch job, where the system says."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        try:
            return max(1, len(affinity(0)))
        except OSError:  # a sandbox that forbids it
            pass
    return os.cpu_count() or 1


def fsync_path(path: Path) -> None:
    """Push a file or folder to the disk, so that a later rename cannot outrun its content.

    A folder is left to the system where that has no way to push it (Windows, some network file systems).
    """
    folder = path.is_dir()
    # Windows pushes only what is open for writing.
    mode = os.O_RDWR if _WINDOWS and not folder else os.O_RDONLY
    try:
        handle = os.open(path, mode | binary_flag())
    except OSError as error:
        if folder and error.errno in _NO_FOLDER_FSYNC:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in _NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """`os.replace`; Windows refuses while another program has the target open, so it is tried for a second there.

    Raises:
        OSError: the file cannot be replaced.
    """
    for tries_left in reversed(range(_REPLACE_TRIES if _WINDOWS else 1)):
        try:
            os.replace(source, target)
        except PermissionError:
            if not tries_left:
                raise
            time.sleep(_REPLACE_WAIT_S)
        else:
            return


def binary_flag() -> int:
    """For `os.open`: no translation of line ends, which Windows does unless told not to."""
    return int(getattr(os, "O_BINARY", 0))


def write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of some bytes at a place in a file; moves the file's position where there is no `pwrite` (Windows).

    Raises:
        OSError: the disk is full, or fails.
    """
    left = memoryview(data)
    while left:
        if hasattr(os, "pwrite"):
            written = os.pwrite(handle, left, offset)
        else:
            os.lseek(handle, offset, os.SEEK_SET)
            written = os.write(handle, left)
        left, offset = left[written:], offset + written


def same_file_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that are one file where case does not count (macOS, Windows), in order."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        known = first.setdefault(name.casefold(), name)
        if known != name:
            pairs.append((known, name))
    return pairs


def ignores_case(folder: Path) -> bool:
    """Whether names that differ in case only are one file in a folder, or where it would be made; found by trying."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".elm-case-") as file:
            path = Path(file.name)
            return path.with_name(path.name.swapcase()).exists()
    except OSError:  # nothing can be written there, which is an error of its own later
        return False


def remove_unused(path: Path) -> None:
    """Remove a file that is not needed any more; Windows keeps one that a reader has open until the next time."""
    try:
        path.unlink()
    except PermissionError:
        if not _WINDOWS:
            raise


@cache
def linux_calls() -> Any | None:
    """The C library's calls for memory and folders, typed; None where they are missing or mean something else."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    if platform.machine().lower() not in _USUAL_NUMBERS:
        return None
    size, pointer, number, long = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_long
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = pointer
        libc.mmap.argtypes = [pointer, size, number, number, number, long]
        libc.munmap.argtypes = [pointer, size]
        libc.madvise.argtypes = [pointer, size, number]
        libc.syscall.restype = long
        libc.syscall.argtypes = [long, long, pointer, size, long, long]
    except (OSError, AttributeError):  # a Python that cannot load libraries, a C library without one of them
        return None
    return libc


@cache
def own_process_handle(pid: int) -> int | None:
    """A handle of this very process for calls that want one, another one after a fork; None where there is none.

    Kernels before 5.3, containers that forbid it, and Pythons built with older headers have none.
    """
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None
