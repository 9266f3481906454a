"""Progress bars, batches, and logging of commands."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from data_pipeline.utils.terminal import is_quiet, printable
from data_pipeline.utils.text import human_bytes, human_time

T = TypeVar("T")

_LINE_EVERY_S = 60.0
_DELAY_S = 2.0


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Group items into lists of `size`; the last list may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


class Progress(tqdm):  # type: ignore[type-arg]  # it is not generic at run time
    """Progress of some work: a bar on a terminal, and a line a minute in a log file or a notebook.

    Made by `progress_bar`. The bar of a terminal is followed by lines in the log file of the command.
    """

    def __init__(self, total: int | None, description: str, unit: str, tokens: Callable[[], int] | None) -> None:
        terminal = sys.stderr.isatty()
        self._terminal, self._tokens, self._logged = terminal, tokens, time.monotonic()
        self._has_written = False
        super().__init__(
            total=total,
            desc=description,
            unit=unit,
            unit_scale=True,
            dynamic_ncols=terminal,
            mininterval=0.1 if terminal else _LINE_EVERY_S,
            maxinterval=10.0 if terminal else _LINE_EVERY_S,
            miniters=None if terminal else 1,
            leave=not terminal,
            delay=0 if terminal else _DELAY_S,
            disable=is_quiet(),
            file=sys.stderr,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write a line."""
        if self._terminal:
            if rate := self._tokens_per_s():
                self.postfix = rate
            super().display(msg, pos)
            if time.monotonic() - self._logged < _LINE_EVERY_S:
                return
        else:
            # Redrawing with \r would make one endless line in a log file.
            self.fp.write(f"{self.line()}\n")
            self.fp.flush()
            self._has_written = True
        self._logged = time.monotonic()
        _write_to_log_files(self.line())

    def close(self) -> None:
        """End the progress; a log file gets a last line, if it got one before."""
        if not (self._terminal or self.disable):
            if self._has_written and self.n > self.last_print_n:
                self.display()
            self.last_print_t = -math.inf  # so that tqdm writes nothing more
        super().close()

    def line(self) -> str:
        """Return the progress in a line: what is done, the rate, tokens per second where they are known, time left."""
        values = self.format_dict
        rate = values["rate"] or (self.n / values["elapsed"] if values["elapsed"] else 0.0)
        done = self._counted(self.n)
        if self.total:
            done = f"{done}/{self._counted(self.total)}"
        parts = [done if self.unit == "B" else f"{done} {self._units}"]
        parts.append(f"{human_bytes(rate)}/s" if self.unit == "B" else f"{_rounded(rate)} {self._units}/s")
        if tokens := self._tokens_per_s():
            parts.append(tokens)
        if self.total and rate:
            parts.append(f"{human_time(max(0.0, self.total - self.n) / rate)} left")
        return f"{self.desc.removesuffix(': ')}: {', '.join(parts)}"

    @property
    def _units(self) -> str:
        return self.unit if self.unit.endswith("s") else f"{self.unit}s"

    def _counted(self, number: float) -> str:
        return human_bytes(number) if self.unit == "B" else f"{number:,.0f}"

    def _tokens_per_s(self) -> str:
        """Return the tokens per second of this process; empty where they are not known."""
        elapsed = time.time() - getattr(self, "start_t", time.time())  # which the first drawing is before
        tokens = self._tokens() if self._tokens is not None else 0
        return f"{_rounded(tokens / elapsed)} tokens/s" if tokens and elapsed > 0 else ""


def _rounded(number: float) -> str:
    return str(tqdm.format_sizeof(number)) if number >= 1000 else f"{number:.3g}"


def _write_to_log_files(line: str) -> None:
    root = logging.getLogger()
    if not root.isEnabledFor(logging.INFO):
        return
    record = logging.LogRecord(__name__, logging.INFO, __file__, 0, line, None, None)
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def progress_bar(
    total: int | None, description: str, unit: str, tokens: Callable[[], int] | None = None
) -> "tqdm[Any]":
    """Make a progress bar with rate and time left; without a terminal it writes a line a minute.

    Args:
        total: units of the whole work; None if it is not known.
        description: activity, such as `Embedding train`.
        unit: what is counted, such as `row`; `B` for bytes.
        tokens: returns the number of tokens that were computed so far.
    """
    return Progress(total, description, unit, tokens)


class _PrintableFormatter(logging.Formatter):
    """Formatter that escapes control characters, which texts and ids in messages may hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(super().format(record))


def configure_logging(log_file: Path | None, verbose: bool = False) -> None:
    """Configure the root logger of a command: messages on stderr, with times and levels in `log_file`.

    With `--quiet` (`terminal.is_quiet`), only errors are written to stderr.
    """
    console = logging.StreamHandler()
    console.setLevel(logging.ERROR if is_quiet() else logging.DEBUG if verbose else logging.INFO)
    console.setFormatter(_PrintableFormatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    # These log every HTTP request.
    for noisy in ("httpx", "httpx2", "httpcore", "urllib3", "filelock", "fsspec", "aiobotocore", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
