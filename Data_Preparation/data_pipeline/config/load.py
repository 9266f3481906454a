"""Merges file, environment and command line into a `Config`, by pydantic-settings."""

import argparse
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from data_pipeline.config import Config, explain, preset_path, read_config_file
from data_pipeline.errors import ConfigError

_DEFAULT_FACTORY = re.compile(r"\(default factory:[^)]*\)")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class _Settings(Config, BaseSettings):
    """`Config` that can also be read from the environment and from flags."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="ELM_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )


def add_flags(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Give a parser one flag for every field of `Config`, by its dotted name.

    Returns:
        A function that takes from the parsed arguments the fields that were given.
    """
    source = CliSettingsSource[Any](_Settings, root_parser=parser)
    for action in parser._actions:
        if action.help and "(default factory:" in action.help:  # the name of a function tells nobody anything
            action.help = _DEFAULT_FACTORY.sub(f"(default: {action.dest.removesuffix('_dir')})", action.help)

    def given(arguments: argparse.Namespace) -> dict[str, Any]:
        try:
            return dict(source(parsed_args=arguments)())
        except SettingsError as error:
            raise _not_json(error) from error

    return given


def spell_out_switches(arguments: Sequence[str]) -> list[str]:
    """Arguments with switches as argparse takes them: `--a.b false` and `--a.b=false` become `--no-a.b`."""
    switches = {f"--{name}" for name in _switches(Config)}
    found: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        name, equals, value = argument.partition("=")
        if name in switches and (equals or (rest and rest[0].lower() in _TRUTH)):
            value = (value if equals else rest.popleft()).lower()
            if value not in _TRUTH:
                raise ConfigError(f"{name} takes true or false, found {value!r}")
            argument = name if _TRUTH[value] else f"--no-{name.removeprefix('--')}"
        found.append(argument)
    return found


def _switches(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that are true or false."""
    for name, field in model.model_fields.items():
        if field.annotation is bool:
            yield prefix + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _switches(field.annotation, f"{prefix}{name}.")


def load_config(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Merge defaults, a file, the environment (`ELM_...`) and flags into one config.

    Args:
        file: YAML file; None for none.
        flags: dotted names or nested mappings, `{"embedding.batch_size": 4}`; they win over all.

    Raises:
        ConfigError: every bad name and value, each with its path.
    """
    nested: dict[str, Any] = {}
    for name, value in (flags or {}).items():
        *sections, field = name.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        if isinstance(value, Mapping):
            section.setdefault(field, {}).update(value)
        else:
            section[field] = value
    return merge(read_config_file(file) if file else {}, nested)


def load_preset(name: str, flags: Mapping[str, Any] | None = None) -> Config:
    """The config of a preset, with environment and flags merged in; see `load_config`.

    Raises:
        ConfigError: no preset has that name, or a value is wrong.
    """
    return load_config(preset_path(name), {"preset": name, **(flags or {})})


def merge(file: Mapping[str, Any], flags: Mapping[str, Any]) -> Config:
    """Build the config from a file's content and flags, both as nested mappings.

    Raises:
        ConfigError: every bad name and value, each with its path.
    """

    class Merged(_Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del init_settings, dotenv_settings, file_secret_settings
            return (
                InitSettingsSource(settings_cls, dict(flags)),
                env_settings,
                InitSettingsSource(settings_cls, dict(file)),
            )

    try:
        return Config.model_validate(Merged().model_dump())
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    except SettingsError as error:
        raise _not_json(error) from error


def _not_json(error: SettingsError) -> ConfigError:
    return ConfigError(f"a setting is not valid JSON: {error}: {error.__cause__ or error.__context__}")
