"""Command `elm`: the table of all commands, and the conversion of errors to exit codes."""

import argparse
import difflib
import logging
import os
import re
import select
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from data_pipeline.cli import (
    annotation,
    append,
    corpus,
    explore,
    models,
    plan,
    report,
    selection,
    semantic_dedup,
    sources,
    sparse,
    status,
    study,
    versions,
    weak_labels,
)
from data_pipeline.cli.command import FAILED, Command, local_path
from data_pipeline.cli.flags import Given, add_setting_flags, spell_out_switches
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

_BAD_INPUT, _INTERRUPTED, _READER_GONE = 2, 130, 141  # the last two as shells report SIGINT and SIGPIPE

COMMANDS: Mapping[str, Command] = {
    **corpus.COMMANDS,
    **append.COMMANDS,
    **sparse.COMMANDS,
    **status.COMMANDS,
    **versions.COMMANDS,
    **sources.COMMANDS,
    **models.COMMANDS,
    **plan.COMMANDS,
    **report.COMMANDS,
    **annotation.COMMANDS,
    **weak_labels.COMMANDS,
    **selection.COMMANDS,
    **semantic_dedup.COMMANDS,
    **explore.COMMANDS,
    **study.COMMANDS,
}
"""Commands by name; a name of two words is a command within a group."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 bad input."""
    try:
        return _run(arguments)
    finally:
        # Before the interpreter does it at exit, and reports a closed pipe as an error.
        _flush_output()


def _run(arguments: Sequence[str] | None) -> int:
    parsers, given = _parsers()
    try:
        spelled = spell_out_switches(sys.argv[1:] if arguments is None else arguments)
        parsed, unknown = parsers[""].parse_known_args(spelled)
        if unknown:
            return _report(ConfigError(_unknown_argument(parsers[parsed.command], unknown[0])), _BAD_INPUT)
        return COMMANDS[parsed.command].run(parsed, given[parsed.command])
    except (
        ConfigError,
        SourceError,
        MissingExtraError,
        NotFoundError,
        SelectionError,
        StaleStageError,
        WrongEmbedderError,
    ) as error:
        return _report(error, _BAD_INPUT)
    except DeviceHungError as error:
        _report(error, FAILED)
        logging.shutdown()
        sys.stderr.flush()
        # A thread waits forever for the GPU, and a regular exit would wait for the thread.
        os._exit(FAILED)
    except (DataPipelineError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            return _READER_GONE
        return _report(error, FAILED)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume", file=sys.stderr)
        return _INTERRUPTED


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


class _Parser(argparse.ArgumentParser):
    """Parser that suggests the nearest command for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Print the message without the usage, which is a page long, and exit."""
        wrong = re.search(r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            names = re.findall(r"[\w-]+", wrong[2])
            message = f"unknown command {wrong[1]!r}{_nearest(wrong[1], names)}; `{self.prog} --help` lists all"
        print(f"error: {message}", file=sys.stderr)
        if not wrong:
            print(f"`{self.prog} --help` lists the flags", file=sys.stderr)
        sys.exit(_BAD_INPUT)


def _parsers() -> tuple[dict[str, _Parser], dict[str, Given]]:
    """Return the parsers by command (`elm` itself under an empty name), and the functions that return settings."""
    whole = _Parser(prog="elm", description="Turn text into training-ready embedding datasets.", allow_abbrev=False)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    parsers, given, groups = {"": whole}, dict[str, Given](), dict[str, Any]()
    for name, command in COMMANDS.items():
        *group, last = name.split()
        target = groups.get(group[0]) if group else commands
        if target is None:
            within = ", ".join(other.split()[1] for other in COMMANDS if other.startswith(f"{group[0]} "))
            about = f"{group[0]}: {within}"
            parent = commands.add_parser(group[0], help=about, description=about, allow_abbrev=False)
            target = groups[group[0]] = parent.add_subparsers(required=True, metavar="COMMAND")
        sub = target.add_parser(
            last,
            help=command.help,
            description=f"{command.help[:1].upper()}{command.help[1:]}.",
            epilog=f"example:\n  {command.example}" if command.example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=name)
        if command.settings:
            about = "YAML file with settings, instead of a preset"
            sub.add_argument("--config", type=local_path, metavar="FILE", help=about)
        command.add_arguments(sub)
        given[name] = _no_settings
        if command.settings:
            sub.usage = _usage(sub)
            given[name] = add_setting_flags(sub)
        parsers[name] = sub
    return parsers, given


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command, with one placeholder for all settings."""
    words = parser.format_usage().removeprefix("usage: ").split()
    return f"{' '.join(words)} [--SECTION.SETTING VALUE ...]"


def _unknown_argument(parser: argparse.ArgumentParser, argument: str) -> str:
    near = _nearest(argument.partition("=")[0], parser._option_string_actions)
    return f"unknown argument {argument!r}{near}; `{parser.prog} --help` lists all"


def _nearest(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _no_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    del parsed
    return {}


def _report(error: Exception, code: int) -> int:
    logger.debug("failed", exc_info=error)
    print(f"error: {error}", file=sys.stderr)
    return code
