"""Commands, and the configuration that they run with."""

import argparse
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import say as say
from data_pipeline.config import Config, preset_names, preset_path, read_config_file
from data_pipeline.config.load import load_config
from data_pipeline.errors import ConfigError
from data_pipeline.utils import configure_logging
from data_pipeline.utils.urls import is_url, without_secrets

logger = logging.getLogger(__name__)

FAILED = 1
"""Exit code of a run that failed."""

# Short flags of the original scripts, and the settings that they set.
_ALIASES: Mapping[str, str] = {
    "source": "corpus.source",
    "limit": "corpus.limit",
    "languages": "filters.languages",
    "min_tokens": "preprocess.min_tokens",
    "max_tokens": "preprocess.max_tokens",
    "batch_size": "embedding.batch_size",
    "model_name": "embedding.model_name",
    "precision": "embedding.precision",
    "output_dir": "data_dir",
    "logs_folder": "logs_dir",
    "normalize": "embedding.normalize",
    "decontaminate": "decontamination.paths",
    "on_changed": "corpus.on_changed",
    "workers": "execution.workers",
    "devices": "execution.devices",
}


@dataclass(frozen=True)
class Command:
    """Command of the command line."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Given], int]
    settings: bool = True
    """Whether the command has a flag for every field of `Config`."""
    example: str = ""
    """Example of a command line."""
    group: Literal["make", "look", "enrich", "maintain"] = "look"
    """Group in the list of all commands."""


def configure(parsed: argparse.Namespace, given: Given, log_name: str | None = None) -> Config:
    """Build the config of a command line, configure logging, and log the chosen preset."""
    flags = given(parsed)
    for alias, name in _ALIASES.items():
        if getattr(parsed, alias, None) is not None:
            _set(flags, name, getattr(parsed, alias))
    if getattr(parsed, "no_flash_attention", False):
        _set(flags, "embedding.attention", "segments")
    if getattr(parsed, "no_fp16", False):
        _set(flags, "embedding.dtype", "float32")
    embedding = flags.get("embedding", {})
    if "model_name" in embedding:
        # The packaged weights belong to the model of the preset only.
        embedding.setdefault("weights", "hub")
    if parsed.config is not None and flags.get("preset"):
        raise ConfigError(
            "--config and --preset exclude each other: a preset is a file of settings too. Leave one out."
        )
    preset, message = (
        _resolve_preset(flags.get("preset") or os.environ.get("ELM_PRESET") or "auto")
        if parsed.config is None
        else ("", f"settings: {parsed.config}")
    )
    flags["preset"] = preset
    config = load_config(preset_path(preset) if preset else parsed.config, flags)
    if log_name is None:
        configure_logging(None)
    else:
        has_log = not getattr(parsed, "dry_run", False)
        configure_logging(parsed.log_file or config.logs_dir / log_name if has_log else None)
        logger.info(message)
    return config


def configure_existing(parsed: argparse.Namespace, given: Given, log_name: str | None = None) -> Config:
    """Build the config of a command for existing data; without a corpus name, the only corpus on disk is used.

    Data at a URL is brought up to date first.
    """
    from data_pipeline.stages.pipeline import find_corpus
    from data_pipeline.working_copy.opened import refresh

    config = configure(parsed, given, log_name)
    refresh(config)
    in_file = read_config_file(parsed.config).get("corpus", {}) if parsed.config else {}
    named = "name" in given(parsed).get("corpus", {}) or "name" in in_file or "ELM_CORPUS__NAME" in os.environ
    return find_corpus(config, named)


def _resolve_preset(name: str) -> tuple[str, str]:
    if name != "auto":
        return name, f"preset {name}"
    from data_pipeline.machine import choose_preset, gpu_memory_bytes

    preset, reason = choose_preset(gpu_memory_bytes())
    others = ", ".join(name for name in preset_names() if name != preset)
    return preset, f"{reason}: using preset {preset}. Choose another with --preset NAME ({others})."


def _set(flags: dict[str, Any], name: str, value: Any) -> None:
    section, _, field = name.rpartition(".")
    target = flags.setdefault(section, {}) if section else flags
    if field in target:
        raise ConfigError(f"{name} is given twice, as {value!r} and as {target[field]!r}; leave one of the flags out")
    target[field] = value


def local_path(text: str) -> Path:
    """Read a path of this machine from the command line."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{without_secrets(text)} is a URL; expected a path on this machine")
    return Path(text)


def shown_path(path: Path) -> Path:
    """Return a path relative to the current folder, if it is inside."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all commands that work on a data folder."""
    parser.add_argument("--output-dir", metavar="FOLDER", help="folder of all outputs, or its URL (data_dir)")
    parser.add_argument(
        "--logs-dir",
        type=local_path,
        metavar="FOLDER",
        dest="logs_folder",
        help="folder of logs (logs_dir; default: logs in --output-dir)",
    )


def decontamination_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the short form of the setting with the evaluation sets."""
    parser.add_argument(
        "--decontaminate", nargs="+", metavar="PATH",
        help="drop rows that repeat items of these files, folders and hub datasets (decontamination.paths)",
    )  # fmt: skip
