"""Small helpers that know nothing of the rest of the package."""

import contextlib
import hashlib
import importlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from data_pipeline.errors import MissingExtra, StoreError
from data_pipeline.system import fsync_path, replace

T = TypeVar("T")

logger = logging.getLogger(__name__)


def encodable(text: str) -> str:
    """The same text, but for halves of surrogate pairs, which JSON can spell and no file can hold: U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def shortened(text: str, limit: int = 200) -> str:
    """A text for a message, cut where it is long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: object, limit: int = 60) -> str:
    """A value for a message: its `repr`, cut where it is long."""
    return shortened(repr(value[:limit] if isinstance(value, str | bytes) else value), limit)


def refuse_single_text(texts: object, name: str) -> None:
    """Check that a list of texts is not a single one, which Python would take apart into characters.

    Raises:
        TypeError: it is.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of texts, found a single one: {shown(texts)}. Put it into a list.")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; reads it once, in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def publish(temporary: Path, final: Path) -> None:
    """Move a finished file to its real name: fsync, rename, fsync the folder.

    A crash leaves either the old `final` or the new one, never a part of it.

    Raises:
        StoreError: the system does not allow it.
    """
    fsync_path(temporary)
    try:
        replace(temporary, final)
    except PermissionError as error:
        raise StoreError(
            f"Cannot replace {final} ({error.strerror}): it is open in another program, or its folder is not yours to "
            f"write to. The finished file is kept as {temporary}. Close what reads {final.name}, or change the "
            "folder's permissions, and run again."
        ) from error
    fsync_path(final.parent)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that a crash leaves its old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    publish(temporary, path)


def atomic_write_json(path: Path, value: object) -> None:
    """Write JSON for people to read (indented), atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_bytes(path, (text + "\n").encode())


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder, or a file, for one writing process; the kernel lets go of it when the process dies.

    Raises:
        StoreError: another process is writing there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"another process is writing to {folder}; wait for it, or use another --output-dir") from None
    try:
        yield
    finally:
        lock.release()


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name to import.
        extra: extra of this package that installs it.
        why: what it is needed for, for the message.

    Raises:
        MissingExtra: it is not installed; the message has the pip line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{why} needs the package {module!r}, which is not installed. "
            f'Install it with: pip install "elm-data-preparation[{extra}]" '
            f'(in a checkout: pip install -e ".[{extra}]")'
        ) from error


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


_LINE_WITH_TOTAL = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {remaining} left\n"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}, {rate_fmt}\n"


def progress_bar(total: int | None, description: str, unit: str) -> "tqdm[Any]":
    """A bar with rate and time left on a terminal; elsewhere one line every 10 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else 10.0,
        # Redrawing with \r makes one endless line in a log file.
        bar_format=None if terminal else _LINE_WITH_TOTAL if total else _LINE_WITHOUT_TOTAL,
        leave=not terminal,
        delay=0 if terminal else 2.0,
    )


def human_bytes(count: float) -> str:
    """`1536` -> `1.5 kB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns, one row a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def configure_logging(log_file: Path | None, verbose: bool = False) -> None:
    """Set up the root logger for a script: short lines on stderr, full ones in `log_file`."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler()
    console.setLevel(logging.DEBUG if verbose else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    # These narrate every HTTP request; their warnings still come through.
    for noisy in ("httpx", "httpx2", "httpcore", "urllib3", "filelock", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
