"""Writes the reference of commands, and the pages of the API reference, which exist on the site only.

Commands and their arguments come from the parsers, public names from `data_pipeline.__all__` and from those of its
rooms, so that nothing that is added can be missing.
"""

import argparse
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

ROOMS: Mapping[str, str] = {
    "stages": "Running jobs",
    "dataset": "Datasets and loaders",
    "embeddings": "Embedders",
    "config": "Settings",
    "download": "Sources",
    "heads": "Heads",
    "judge": "Judges",
    "selection": "Selection",
    "report": "Reports",
    "study": "The study",
    "integrations.ml_filter": "ML-Filter's file pipelines",
    "integrations.datatrove_steps": "Steps for datatrove",
    "store": "Files on disk",
    "testing": "Fakes for tests",
    "errors": "Errors",
    "types": "Records and types",
    "user_files": "Files of users",
    "utils": "Helpers",
}
"""Rooms with public names, and the titles of their pages."""

_MERGED = {"execution": "stages"}  # functions of a stage, run by an engine


@dataclass(frozen=True)
class PublicName:
    """Name that users import."""

    module: str
    """Module to import it from: `data_pipeline`, or a room of it."""
    name: str
    value: Any
    path: str
    """Dotted path of its definition."""
    former_of: str = ""
    """Present name, if this is a former one."""

    @property
    def summary(self) -> str:
        """First line of its docstring; empty for values without one."""
        has_own = inspect.isclass(self.value) or inspect.isroutine(self.value)
        return (inspect.getdoc(self.value) or "").split("\n")[0] if has_own else ""


def public_names() -> dict[str, list[PublicName]]:
    """Public names by room, those of `data_pipeline` itself first; each object stands once, and former names last."""
    rooms: dict[str, list[PublicName]] = {room: [] for room in ROOMS}
    seen: dict[int, str] = {}
    modules = ["data_pipeline", *(f"data_pipeline.{room}" for room in ROOMS)]
    for module in map(import_module, modules):
        for name in _names_of(module):
            value = getattr(module, name)
            documented = inspect.isclass(value) or inspect.isroutine(value)
            present = getattr(value, "__name__", name)
            if documented and present != name and present in _names_of(module):
                continue  # a former name, which the present one has below it
            if documented and id(value) in seen:
                continue
            seen[id(value)] = name
            defined = inspect.unwrap(value) if inspect.isroutine(value) else value
            path = f"{defined.__module__}.{defined.__qualname__}" if documented else f"{module.__name__}.{name}"
            room = _room_of(path if module.__name__ == "data_pipeline" else module.__name__)
            rooms[room].append(PublicName(module.__name__, name, value, path))
    rooms["stages"].sort(key=lambda name: inspect.isclass(name.value))  # what is run before what it returns
    return rooms


def former_names(module: types.ModuleType) -> dict[str, str]:
    """Names that a module keeps for code of earlier versions, and the present ones."""
    former = {}
    for name in _names_of(module):
        present = getattr(getattr(module, name), "__name__", name)
        if present != name and present in _names_of(module):
            former[name] = present
    return former


def _names_of(module: types.ModuleType) -> list[str]:
    """The names in `__all__`, or else the classes and functions that a module defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return [name for name in listed if not isinstance(getattr(module, name), types.ModuleType)]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(value)) and value.__name__ == name
    ]  # fmt: skip


def _room_of(path: str) -> str:
    inner = path.removeprefix("data_pipeline.")
    room = next((room for room in ROOMS if f"{inner}.".startswith(f"{room}.")), inner.split(".")[0])
    room = _MERGED.get(room, room)
    if room not in ROOMS:
        raise LookupError(f"{path} is public, and docs/generate_reference.py has no page for the room {room}")
    return room


def api_pages() -> dict[str, str]:
    """Content of the pages of the API reference, by their path on the site."""
    rooms = {room: names for room, names in public_names().items() if names}
    pages = {f"api/{room}.md": _api_page(room, names) for room, names in rooms.items()}
    return {"api/index.md": _api_index(rooms), **pages}


def _api_index(rooms: Mapping[str, list[PublicName]]) -> str:
    parts = [
        "# Python API",
        "Everything that `from data_pipeline import ...` gives, and the public names of its rooms. What is not listed "
        "here may change without notice.",
    ]
    for room, names in rooms.items():
        rows = [
            f"| [`{name.name}`]({room}.md#{name.path}) | {_cell(name.summary)} |"
            for name in names
            if name.module == "data_pipeline"
        ]
        if rows:
            table = "\n".join(["| name | what it is |", "|---|---|", *rows])
            parts.append(f"## [{ROOMS[room]}]({room}.md)\n\n{table}")
    rest = [room for room, names in rooms.items() if all(name.module != "data_pipeline" for name in names)]
    parts.append("## Rooms\n\n" + "\n".join(f"- [{ROOMS[room]}]({room}.md): `data_pipeline.{room}`" for room in rest))
    former = former_names(import_module("data_pipeline"))
    rows = [f"| `{name}` | `{present}` |" for name, present in former.items()]
    table = "\n".join(["| former name | present name |", "|---|---|", *rows])
    parts.append(f"## Former names\n\nCode that was written for earlier versions keeps working.\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _api_page(room: str, names: list[PublicName]) -> str:
    parts = [f"# {ROOMS[room]}"]
    if doc := inspect.getdoc(import_module(f"data_pipeline.{room}")):
        parts.append(doc.split("\n\n")[0])
    for name in names:
        shown = f"{name.module}.{name.name}"
        parts.append(f"::: {name.path}\n    options:\n      heading: {shown}\n      toc_label: {name.name}")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Every command with its arguments, as the parsers have them."""
    from data_pipeline.cli.main import COMMANDS

    parts = [
        "# Commands",
        "Written by `make docs` from the parsers; do not edit.",
        "Commands marked with *settings* also take a preset (`--preset`), a file of settings (`--config FILE`) and "
        "every setting as a flag (`--embedding.dim 256`); [Configuration](configuration.md) lists them. Exit codes: "
        "`0` done, `1` failed on the way, `2` wrong input, `130` interrupted.",
        "\n".join(_rows_of_commands(COMMANDS)),
    ]
    for name, command in COMMANDS.items():
        parts += _command_parts(name, command)
    return "\n\n".join(parts) + "\n"


def _rows_of_commands(commands: Mapping[str, Any]) -> Iterator[str]:
    yield "| command | what it does | |\n|---|---|---|"
    for name, command in commands.items():
        anchor = f"elm {name}".replace(" ", "-")
        yield f"| [`elm {name}`](#{anchor}) | {_cell(command.help)} | {'*settings*' if command.settings else ''} |"


def _command_parts(name: str, command: Any) -> Iterator[str]:
    parser = argparse.ArgumentParser(prog=f"elm {name}", add_help=False)
    command.add_arguments(parser)
    yield f"## elm {name}"
    yield f"{command.help[:1].upper()}{command.help[1:]}."
    if command.example:
        yield f"```text layout\n{command.example.strip()}\n```"
    rows = [_argument_row(action) for action in parser._actions if action.help is not argparse.SUPPRESS]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows])
    if command.settings:
        yield "*Settings*: `--config FILE`, `--preset NAME`, and [every setting](configuration.md)."


def _argument_row(action: argparse.Action) -> str:
    value = _placeholder(action)
    spelled = [f"`{f'{option} {value}'.strip()}`" for option in action.option_strings] or [f"`{value}`"]
    text = _SETTING.sub(_linked_setting, _cell((action.help or "") % {**vars(action), "prog": "elm"}))
    default = action.default
    notes = ["required"] if action.required and action.option_strings else []
    if value and default not in (None, argparse.SUPPRESS, "", [], ()) and "default" not in text:
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        notes.append(f"default: {shown}")
    note = f" ({'; '.join(notes)})" if notes else ""
    names = ", ".join(spelled).replace("|", "\\|")
    return f"| {names} | {text}{note} |"


_SETTING = re.compile(r"(?<=\()\w+(?:\.\w+)*(?=[);])")


def _linked_setting(name: re.Match[str]) -> str:
    """A setting that is named in brackets, as a link to its section."""
    section, _, field = name[0].rpartition(".")
    model: Any = import_module("data_pipeline").Config
    for part in filter(None, section.split(".")):
        if part not in model.model_fields:
            return name[0]
        model = model.model_fields[part].annotation
    if field not in getattr(model, "model_fields", {}):
        return name[0]
    anchor = section.replace(".", "") or "the-main-job"
    return f"[`{name[0]}`](configuration.md#{anchor})"


def _placeholder(action: argparse.Action) -> str:
    """What stands for the values of an argument; empty for a switch."""
    if action.nargs == 0:
        return ""
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    one = name if isinstance(name, str) else name[0]
    return {"?": f"[{one}]", "+": f"{one} ...", "*": f"[{one} ...]"}.get(str(action.nargs), one)


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    joined = " ".join(text.split()).replace("|", "\\|")
    parts = joined.split("`")
    return "`".join(part.replace("<", "&lt;") if number % 2 == 0 else part for number, part in enumerate(parts))
