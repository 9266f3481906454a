"""Ctrl-C: the first one ends a command in order, the second one at once."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from data_pipeline.utils.urls import without_secrets

INTERRUPTED = 130
"""Exit code, as shells report SIGINT."""

_STOPPING = b"\nStopping; what is finished is being saved. Press Ctrl-C again to stop at once.\n"


@contextmanager
def stopped_by_second_interrupt() -> Iterator[None]:
    """End the process at once by a second Ctrl-C while a block runs; the first one raises KeyboardInterrupt.

    Without effect outside the main thread, and where the program that calls it handles SIGINT by itself.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupts = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            os._exit(INTERRUPTED)
        os.write(2, _STOPPING)  # not by `sys.stderr`, which may be in the middle of a line
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def describe_interrupt(interrupt: KeyboardInterrupt, resumable: bool, arguments: Sequence[str]) -> str:
    """Return what is saved after Ctrl-C, as the notes of the stages say, and the command that goes on.

    Args:
        interrupt: the exception, with a note of each stage that was running.
        resumable: whether the command has work that goes on.
        arguments: its command line.
    """
    if not resumable:
        return "Interrupted."
    saved = getattr(interrupt, "__notes__", []) or ["what is finished is saved"]
    return "\n".join(["Interrupted.", *(f"  {note}" for note in saved), "Go on with:", f"  {command_line(arguments)}"])


def command_line(arguments: Sequence[str]) -> str:
    """Return the command line of this process for a shell, without users, passwords and queries in URLs."""
    program = Path(sys.argv[0]).name
    words = [program] if program in {"elm", "elm-data"} else ["elm"]
    if program == "__main__.py":
        words = [sys.executable, "-m", "data_pipeline.cli"]
    return shlex.join([*words, *(without_secrets(argument) for argument in arguments)])
