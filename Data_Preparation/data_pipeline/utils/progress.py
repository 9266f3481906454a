"""Progress bars, batches, and logging of commands."""

import logging
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE_WITH_TOTAL = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {remaining} left\n"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}, {rate_fmt}\n"


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group items into lists of `size`; the last list may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def progress_bar(total: int | None, description: str, unit: str) -> "tqdm[Any]":
    """Make a progress bar with rate and time left; without a terminal it writes a line every 10 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else 10.0,
        # Redrawing with \r would make one endless line in a log file.
        bar_format=None if terminal else _LINE_WITH_TOTAL if total else _LINE_WITHOUT_TOTAL,
        leave=not terminal,
        delay=0 if terminal else 2.0,
    )


def configure_logging(log_file: Path | None, verbose: bool = False) -> None:
    """Configure the root logger of a command: messages on stderr, with times and levels in `log_file`."""
    console = logging.StreamHandler()
    console.setLevel(logging.DEBUG if verbose else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    file_format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=file_format, handlers=handlers, force=True)
    # These log every HTTP request.
    for noisy in ("httpx", "httpx2", "httpcore", "urllib3", "filelock", "fsspec", "aiobotocore", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
