"""Flags of the command line, generated from the config models."""

import argparse
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_pipeline.config import Config
from data_pipeline.errors import ConfigError

Given = Callable[[argparse.Namespace], dict[str, Any]]
"""Function that returns the settings given on the command line, as nested mappings, from parsed arguments."""

_SWITCH_VALUES = {
    "true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_METAVARS: Mapping[type, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def add_setting_flags(parser: argparse.ArgumentParser) -> Given:
    """Add a flag for every setting of `Config` by its dotted name, grouped by section.

    Returns:
        A function that returns the given settings from parsed arguments.
    """
    folders = parser.add_argument_group("folders and preset")
    names = []
    for name, field in Config.model_fields.items():
        section = _section(field)
        if section is None:
            _add_flag(folders, [f"--{name}"], name, field, hidden=name in {"data_dir", "logs_dir"})
            names.append(name)
            continue
        if f"--{name}" not in parser._option_string_actions:  # such as --split of `elm search`
            parser.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
            names.append(name)
        group = parser.add_argument_group(name, _first_sentence(section.__doc__))
        for dotted, inner_field in _plain_fields(section, name):
            _add_flag(group, [f"--{dotted}"], dotted, inner_field)
            names.append(dotted)

    def given(parsed: argparse.Namespace) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name in names:
            if not hasattr(parsed, name):
                continue
            section, _, field = name.rpartition(".")
            value = getattr(parsed, name)
            if _section(Config.model_fields.get(name)) is not None:
                settings.setdefault(name, {}).update(_from_json(name, value))
            else:
                target = settings.setdefault(section, {}) if section else settings
                target[field] = value
        return settings

    return given


def add_model_flags(parser: argparse.ArgumentParser, model: type[BaseModel], title: str) -> Given:
    """Add a flag for every field of a flat model, such as `--learning-rate` for `learning_rate`."""
    group = parser.add_argument_group(title, _first_sentence(model.__doc__))
    prefix = f"{model.__name__}."  # separates them from flags of the same name
    for name, field in model.model_fields.items():
        _add_flag(group, [f"--{name.replace('_', '-')}"], prefix + name, field)

    def given(parsed: argparse.Namespace) -> dict[str, Any]:
        return {name: getattr(parsed, prefix + name) for name in model.model_fields if hasattr(parsed, prefix + name)}

    return given


def spell_out_switches(arguments: Sequence[str]) -> list[str]:
    """Rewrite switches as argparse expects them: `--a.b false` and `--a.b=false` become `--no-a.b`."""
    switches = {f"--{name}" for name in _switches(Config)}
    spelled: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        name, equals, value = argument.partition("=")
        if name in switches and (equals or (rest and rest[0].lower() in _SWITCH_VALUES)):
            value = (value if equals else rest.popleft()).lower()
            if value not in _SWITCH_VALUES:
                raise ConfigError(f"{name} takes true or false, found {value!r}")
            argument = name if _SWITCH_VALUES[value] else f"--no-{name.removeprefix('--')}"
        spelled.append(argument)
    return spelled


def _add_flag(group: Any, spellings: list[str], dest: str, field: FieldInfo, hidden: bool = False) -> None:
    kind, optional = _kind(field.annotation)
    default = field.get_default(call_default_factory=True)
    options: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS}
    options["help"] = argparse.SUPPRESS if hidden else _help(field, default)
    if kind is bool:
        group.add_argument(*spellings, action=argparse.BooleanOptionalAction, **options)
    elif get_origin(kind) in (list, tuple):
        inner, _ = _kind(get_args(kind)[0])
        group.add_argument(*spellings, nargs="+", metavar=_METAVARS.get(inner, "VALUE"), **options)
    elif get_origin(kind) is dict:
        group.add_argument(*spellings, nargs="+", action=_Pairs, metavar="KEY:TYPE", **options)
    else:
        group.add_argument(*spellings, type=_or_none if optional else str, metavar=_metavar(kind), **options)


def _help(field: FieldInfo, default: object) -> str:
    text = " ".join((field.description or "").split()).replace("%", "%%")
    if field.is_required():
        return text
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    if field.default_factory is not None and isinstance(default, Path):
        shown = default.name
    return text if default in (None, "", {}) else f"{text} (default: {shown})"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return _METAVARS.get(kind, "VALUE")


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type inside `Annotated` and `| None`, and whether None is allowed."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        types = [part for part in get_args(annotation) if part is not NoneType]
        return _kind(types[0])[0], len(types) < len(get_args(annotation))
    return annotation, False


def _section(field: FieldInfo | None) -> type[BaseModel] | None:
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _plain_fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Iterate over the fields of a section and of the sections in it, with their dotted names."""
    for name, field in section.model_fields.items():
        inner = _section(field)
        if inner is None:
            yield f"{prefix}.{name}", field
        else:
            yield from _plain_fields(inner, f"{prefix}.{name}")


def _switches(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Iterate over the dotted names of boolean fields."""
    for name, field in model.model_fields.items():
        section = _section(field)
        if _kind(field.annotation)[0] is bool:
            yield prefix + name
        elif section is not None:
            yield from _switches(section, f"{prefix}{name}.")


def _or_none(text: str) -> str | None:
    return None if text == "null" else text


class _Pairs(argparse.Action):
    """Action that parses `year:int author:str`, or one JSON object."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the pairs as a mapping."""
        texts = [str(value) for value in values or ()]
        if len(texts) == 1 and texts[0].lstrip().startswith("{"):
            setattr(namespace, self.dest, _from_json(self.dest, texts[0]))
            return
        pairs = [text.partition(":") for text in texts]
        if bad := [text for text, (key, colon, kind) in zip(texts, pairs, strict=True) if not (key and colon and kind)]:
            raise ConfigError(f"--{self.dest} takes KEY:TYPE, such as year:int, found {bad[0]!r}")
        setattr(namespace, self.dest, {key: kind for key, _, kind in pairs})


def _from_json(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"a setting is not valid JSON: {name}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} takes a JSON object, found {text!r}")
    return value


def _first_sentence(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if text else ""
