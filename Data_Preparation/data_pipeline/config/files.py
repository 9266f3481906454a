"""YAML configuration files and the bundled presets."""

from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import ConfigError

CONFIGS_FOLDER = Path(__file__).parents[2] / "configs"


def preset_names() -> list[str]:
    """Return the names of the bundled presets, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def presets_folder() -> Path:
    """Return the folder of the presets: `configs/presets/` of a checkout, or its copy in an installed package."""
    return (CONFIGS_FOLDER if CONFIGS_FOLDER.is_dir() else Path(__file__).parents[1] / "configs") / "presets"


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML configuration file (safe loader: values only, no code).

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, found {type(content).__name__}")
    return content


def preset_path(name: str) -> Path:
    """Return the path of a preset.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}; expected one of {', '.join(preset_names())}")
    return presets_folder() / f"{name}.yaml"
