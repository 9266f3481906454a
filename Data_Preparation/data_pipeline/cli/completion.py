"""Command `completion`: completion of commands and flags by the shell."""

import argparse
from collections.abc import Mapping
from typing import Any

from data_pipeline.cli.command import Command, local_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import present

_INSTALL = {
    "bash": "elm completion bash > ~/.local/share/bash-completion/completions/elm",
    "zsh": "elm completion zsh > ~/.zfunc/_elm      (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)",
    "tcsh": "elm completion tcsh > ~/.elm.tcsh      (with `source ~/.elm.tcsh` in ~/.tcshrc)",
}


def _completion(parsed: argparse.Namespace, given: Given) -> int:
    import shtab

    del given
    _complete_paths(parsed.whole, shtab.FILE)
    script = shtab.complete(parsed.whole, parsed.shell)
    present({"shell": parsed.shell, "script": script, "install": _INSTALL[parsed.shell]}, script)
    return 0


def _complete_paths(parser: argparse.ArgumentParser, files: Mapping[str, Any]) -> None:
    """Let the arguments of a parser and those below it that are paths be completed by names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_paths(inner, files)
        elif action.type is local_path:
            action.complete = files  # type: ignore[attr-defined]  # which shtab looks for


def _arguments(parser: argparse.ArgumentParser) -> None:
    lines = "\n".join(f"  {line}" for line in _INSTALL.values())
    parser.description = f"Print a script that completes commands and flags in a shell. To install it, run\n{lines}"
    parser.add_argument("shell", choices=tuple(_INSTALL), help="name of the shell")


COMMANDS: Mapping[str, Command] = {
    "completion": Command(
        "print a script that completes commands in bash, zsh, tcsh",
        _arguments,
        _completion,
        settings=False,
        example="elm completion bash > ~/.local/share/bash-completion/completions/elm",
        group="maintain",
    )
}
