"""The command `elm`, and the scripts: a table from command to library function."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.cli import annotation, corpus, selection, study, weak_labels
from data_pipeline.cli.command import FAILED, Command, Given
from data_pipeline.config.load import add_flags, spell_out_switches
from data_pipeline.errors import (
    ConfigError,
    DataPipelineError,
    DeviceHung,
    MissingExtra,
    NotFound,
    SelectionError,
    SourceError,
    StaleStage,
    WrongEmbedder,
)

logger = logging.getLogger(__name__)

_BAD_INPUT, _INTERRUPTED = 2, 130

COMMANDS: Mapping[str, Command] = {
    **corpus.COMMANDS,
    **annotation.COMMANDS,
    **weak_labels.COMMANDS,
    **selection.COMMANDS,
    **study.COMMANDS,
}
"""A name of two words is a command within a group."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="elm", description="Turn text into training-ready embedding data sets.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    groups: dict[str, Any] = {}
    given: dict[str, Given] = {}
    for name, command in COMMANDS.items():
        *group, last = name.split()
        target = groups.get(group[0]) if group else commands
        if target is None:
            within = ", ".join(other.split()[1] for other in COMMANDS if other.startswith(f"{group[0]} "))
            about = f"{group[0]}: {within}"
            parent = commands.add_parser(group[0], help=about, description=about, allow_abbrev=False)
            target = groups[group[0]] = parent.add_subparsers(required=True, metavar="COMMAND")
        sub = target.add_parser(last, help=command.help, description=command.help, allow_abbrev=False)
        sub.set_defaults(command=name)
        command.add_arguments(sub)
        if command.settings:
            sub.add_argument("--config", type=Path, help="YAML file with settings, instead of a preset")
            given[name] = add_flags(sub)
        else:
            given[name] = _no_settings
    try:
        parsed = parser.parse_args(spell_out_switches(sys.argv[1:] if arguments is None else arguments))
        return COMMANDS[parsed.command].run(parsed, given[parsed.command])
    except (ConfigError, SourceError, MissingExtra, NotFound, SelectionError, StaleStage, WrongEmbedder) as error:
        return _complain(error, _BAD_INPUT)
    except DeviceHung as error:
        _complain(error, FAILED)
        logging.shutdown()
        sys.stderr.flush()
        # A thread waits for the GPU for ever, and Python would wait for the thread.
        os._exit(FAILED)
    except (DataPipelineError, OSError) as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on where it stopped", file=sys.stderr)
        return _INTERRUPTED


def _no_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    del parsed
    return {}


def _complain(error: Exception, code: int) -> int:
    logger.debug("failed", exc_info=error)
    print(f"error: {error}", file=sys.stderr)
    return code
