"""Operating system functions, and fallbacks for systems without them.

Linux, macOS and Windows, glibc and musl, x86 and Arm differ in the functions that they have. These differences are
handled here, by looking for the function and never by the name of the system alone, so that callers need no branches.
None of them changes what is computed or stored.
"""

import ctypes
import errno
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

# Errors of systems that cannot fsync folders: network and FUSE mounts, Windows.
_NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOSYS}
# Processors on which Linux has the call numbers and flags of `linux_calls` and its callers; not MIPS, Alpha, SPARC.
_USUAL_NUMBERS = {"x86_64", "amd64", "aarch64", "arm64", "riscv64", "s390x", "loongarch64"}
_WINDOWS = os.name == "nt"
_REPLACE_TRIES, _REPLACE_WAIT_S = 20, 0.05


def usable_cores() -> int:
    """Return the number of cores that this process may use, within the limits of its container or batch job."""
    with suppress(AttributeError, OSError):  # macOS and Windows do not have it, and sandboxes may forbid it
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def default_cache_dir() -> Path:
    """Return `elm-data-preparation` in the cache folder of the user (XDG base directories)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "elm-data-preparation"


def is_running(process: int) -> bool:
    """Return whether a process of this machine runs; one that ended and was not waited for does not."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def fsync_path(path: Path) -> None:
    """Flush a file or folder to disk, so that a later rename cannot overtake its content.

    Folders are skipped on systems that cannot flush them (Windows, some network file systems).
    """
    folder = path.is_dir()
    # Windows flushes only files that are open for writing.
    mode = os.O_RDWR if _WINDOWS and not folder else os.O_RDONLY
    try:
        handle = os.open(path, mode)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not folder or error.errno not in _NO_FOLDER_FSYNC:
            raise


def replace(source: Path, target: Path) -> None:
    """Call `os.replace`, retrying for a second on Windows, where it fails while another program has the target open.

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


def write_at(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write bytes at a position of a file; without `pwrite` (Windows), the position of the file moves.

    Raises:
        OSError: the disk is full or fails.
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
    """Return pairs of different names that are the same file on systems that ignore case (macOS, Windows), in order."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        existing = first.setdefault(name.casefold(), name)
        if existing != name:
            pairs.append((existing, name))
    return pairs


def ignores_case(folder: Path) -> bool:
    """Return whether a folder, which need not exist, ignores the case of file names; found by trying."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".elm-case-") as file:
            path = Path(file.name)
            return path.with_name(path.name.swapcase()).exists()
    except OSError:  # the folder is read-only, which a later write reports
        return False


def remove_unused(path: Path) -> None:
    """Remove a file or folder that is no longer needed; on Windows, one that is open is left for the next call."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except PermissionError:
        if not _WINDOWS:
            raise


@cache
def linux_calls() -> Any | None:
    """Return the C library with typed functions for memory and folders; None if they are missing or differ."""
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
    except (OSError, AttributeError):  # Python cannot load libraries, or the C library lacks a function
        return None
    return libc


@cache
def own_process_handle(pid: int) -> int | None:
    """Return a pidfd of this process, cached by process id for forks; None if the system has none.

    Kernels before 5.3, some containers, and Pythons built with older headers have none.
    """
    with suppress(OSError, AttributeError):
        return os.pidfd_open(pid)
    return None
