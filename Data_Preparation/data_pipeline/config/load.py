"""The only loader of the configuration: merges defaults, file, environment and flags into a `Config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from data_pipeline.config import Config, explain, preset_path, read_config_file
from data_pipeline.errors import ConfigError


class _Settings(Config, BaseSettings):
    """`Config` that is also read from the environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="ELM_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )


def load_config(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Merge defaults, a file, the environment (`ELM_...`) and flags into one configuration.

    Args:
        file: YAML file, or None.
        flags: dotted names or nested mappings, `{"embedding.batch_size": 4}`; these have the highest priority.

    Raises:
        ConfigError: names or values are invalid; the message lists all of them, each with its path.
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
    """Load a preset and merge the environment and flags into it; see `load_config`.

    Raises:
        ConfigError: no preset has that name, or a value is invalid.
    """
    return load_config(preset_path(name), {"preset": name, **(flags or {})})


def merge(file: Mapping[str, Any], flags: Mapping[str, Any]) -> Config:
    """Build the configuration from the content of a file and flags, both as nested mappings.

    Raises:
        ConfigError: names or values are invalid; the message lists all of them, each with its path.
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
