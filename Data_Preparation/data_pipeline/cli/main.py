"""Command `elm`: the table of all commands, and the conversion of errors to exit codes."""

import argparse
import io
import logging
import os
import select
import sys
from collections.abc import Mapping, Sequence

from data_pipeline.cli import (
    annotation,
    append,
    completion,
    corpus,
    doctor,
    dropped,
    explore,
    heads,
    info,
    models,
    plan,
    report,
    search,
    selection,
    semantic_dedup,
    show,
    sources,
    sparse,
    status,
    study,
    versions,
    weak_labels,
)
from data_pipeline.cli.command import FAILED, Command
from data_pipeline.cli.flags import Given, spell_out_switches
from data_pipeline.cli.interrupt import INTERRUPTED, describe_interrupt, stopped_by_second_interrupt
from data_pipeline.cli.output import complain, complain_of, output_of
from data_pipeline.cli.parsers import build_parsers, unknown_argument
from data_pipeline.errors import (
    ConfigError,
    DataPipelineError,
    DeviceHungError,
    MissingExtraError,
    NotFoundError,
    SelectionError,
    SourceError,
    StaleStageError,
    WrongEmbedderError,
)

logger = logging.getLogger(__name__)

_BAD_INPUT, _READER_GONE = 2, 141  # the second as shells report SIGPIPE

_ERRORS_OF_INPUT = (
    ConfigError, SourceError, MissingExtraError, NotFoundError, SelectionError, StaleStageError, WrongEmbedderError,
)  # fmt: skip

COMMANDS: Mapping[str, Command] = {
    **corpus.COMMANDS,
    **append.COMMANDS,
    **sparse.COMMANDS,
    **semantic_dedup.COMMANDS,
    **sources.COMMANDS,
    **models.COMMANDS,
    **plan.COMMANDS,
    **info.COMMANDS,
    **search.COMMANDS,
    **show.COMMANDS,
    **dropped.COMMANDS,
    **report.COMMANDS,
    **explore.COMMANDS,
    **status.COMMANDS,
    **doctor.COMMANDS,
    **heads.COMMANDS,
    **annotation.COMMANDS,
    **weak_labels.COMMANDS,
    **selection.COMMANDS,
    **study.COMMANDS,
    **versions.COMMANDS,
    **completion.COMMANDS,
}
"""Commands by name; a name of two words is a command within a group."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    finally:
        # Before the interpreter does it at exit, and reports a closed pipe as an error.
        _flush_output()


def _run(arguments: Sequence[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the encoding of the terminal lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    parsers, given = build_parsers(COMMANDS)
    try:
        parsed, unknown = parsers[""].parse_known_args(spell_out_switches(arguments))
        if unknown:
            complain(f"error: {unknown_argument(parsers[parsed.command], unknown[0])}")
            return _BAD_INPUT
    except ConfigError as error:
        complain(f"error: {error}")
        return _BAD_INPUT
    try:
        with output_of(as_json=parsed.json is True, quiet=parsed.quiet), stopped_by_second_interrupt():
            return _execute(COMMANDS[parsed.command], parsed, given[parsed.command], arguments)
    except DeviceHungError:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # A thread waits forever for the GPU, and a regular exit would wait for the thread.
        os._exit(FAILED)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            return _READER_GONE
        complain(f"error: {error}")
        return FAILED


def _execute(command: Command, parsed: argparse.Namespace, given: Given, arguments: Sequence[str]) -> int:
    """Run a command, and print its error, if there is one."""
    try:
        return command.run(parsed, given)
    except _ERRORS_OF_INPUT as error:
        return _report(error, _BAD_INPUT)
    except DeviceHungError as error:
        _report(error, FAILED)
        raise
    except BrokenPipeError:
        raise
    except (DataPipelineError, OSError) as error:
        return _report(error, FAILED)
    except KeyboardInterrupt as interrupt:
        complain(describe_interrupt(interrupt, resumable=command.group != "look", arguments=arguments))
        return INTERRUPTED


def _flush_output() -> None:
    """Write out what was printed, unless its reader has gone, such as `head` after its last line."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_is_gone() -> bool:
    """Return whether standard output is a pipe that nothing reads; False also if the system cannot tell."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _report(error: Exception, code: int) -> int:
    logger.debug("failed", exc_info=error)
    complain_of(error)
    return code
