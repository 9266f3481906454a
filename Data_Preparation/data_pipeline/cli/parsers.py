"""Parsers of the command line, built from the table of commands."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from data_pipeline import __version__
from data_pipeline.cli.command import Command, local_path
from data_pipeline.cli.flags import Given, add_setting_flags
from data_pipeline.cli.output import complain

_BAD_INPUT = 2
_GROUPS = {
    "make": "make a dataset",
    "look": "look at it",
    "enrich": "enrich it",
    "maintain": "maintain it",
}


class Parser(argparse.ArgumentParser):
    """Parser that suggests the nearest command for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Print the message without the usage, which is a page long, and exit."""
        wrong = re.search(r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            names = re.findall(r"[\w-]+", wrong[2])
            message = f"unknown command {wrong[1]!r}{_nearest(wrong[1], names)}; `{self.prog} --help` lists all"
        complain(f"error: {message}")
        if not wrong:
            complain(f"`{self.prog} --help` lists the flags")
        sys.exit(_BAD_INPUT)


class _WholeParser(Parser):
    """Parser of `elm` itself, whose help lists the commands by what they are for."""

    commands: Mapping[str, Command]

    def format_help(self) -> str:
        """Return the list of commands."""
        lines = [f"usage: {self.prog} COMMAND ...", "", f"{self.description}"]
        for group, title in _GROUPS.items():
            listed = _listed({name: command for name, command in self.commands.items() if command.group == group})
            lines += ["", title, *(f"  {name:<17} {about}".rstrip() for name, about in listed)]
        lines += [
            "",
            f"`{self.prog} COMMAND --help` lists the flags of a command, with an example; --json prints a result for",
            f"machines, --quiet only errors. `{self.prog} --version` prints the version.",
        ]
        return "\n".join(lines) + "\n"


def _listed(commands: Mapping[str, Command]) -> list[tuple[str, str]]:
    """Return names and descriptions; the commands of a group of two words share a line."""
    listed: dict[str, str] = {}
    for name, command in commands.items():
        group, _, last = name.partition(" ")
        about = f"{listed[group]}, {last}" if last and group in listed else last or command.help
        listed[group] = about
    return list(listed.items())


def build_parsers(commands: Mapping[str, Command]) -> tuple[dict[str, Parser], dict[str, Given]]:
    """Build the parsers of all commands.

    Args:
        commands: commands by name; a name of two words is a command within a group.

    Returns:
        The parsers by command, that of `elm` itself under an empty name; and the functions that return the settings
        of a command line.
    """
    whole = _WholeParser(
        prog="elm", description="Turn text into training-ready embedding datasets.", allow_abbrev=False
    )
    whole.commands = commands
    whole.add_argument("--version", action="version", version=f"elm {__version__}", help="print the version")
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    parsers: dict[str, Parser] = {"": whole}
    given, groups = dict[str, Given](), dict[str, Any]()
    for name, command in commands.items():
        *group, last = name.split()
        target = groups.get(group[0]) if group else subparsers
        if target is None:
            within = ", ".join(other.split()[1] for other in commands if other.startswith(f"{group[0]} "))
            about = f"{group[0]}: {within}"
            parent = subparsers.add_parser(group[0], help=about, description=about, allow_abbrev=False)
            target = groups[group[0]] = parent.add_subparsers(required=True, metavar="COMMAND")
        parsers[name] = sub = target.add_parser(
            last,
            help=command.help,
            description=f"{command.help[:1].upper()}{command.help[1:]}.",
            epilog=f"example:\n  {command.example}" if command.example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=name, whole=whole)
        given[name] = _add_arguments(sub, command)
    return parsers, given


def unknown_argument(parser: Parser, argument: str) -> str:
    """Return the message for an argument that a command does not have."""
    near = _nearest(argument.partition("=")[0], parser._option_string_actions)
    return f"unknown argument {argument!r}{near}; `{parser.prog} --help` lists all"


def _add_arguments(parser: Parser, command: Command) -> Given:
    if command.settings:
        about = "YAML file with settings, instead of a preset"
        parser.add_argument("--config", type=local_path, metavar="FILE", help=about)
    command.add_arguments(parser)
    if "--json" not in parser._option_string_actions:
        parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="print only errors, and JSON with --json")
    if not command.settings:
        return _no_settings
    parser.usage = _usage(parser)
    return add_setting_flags(parser)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command, with one placeholder for all settings."""
    words = parser.format_usage().removeprefix("usage: ").split()
    return f"{' '.join(words)} [--SECTION.SETTING VALUE ...]"


def _nearest(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _no_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    del parsed
    return {}
