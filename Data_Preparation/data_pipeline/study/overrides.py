"""The config of a study: one YAML file composed by Hydra, and overrides in the grammar of Hydra.

`key=value`, `+key=value` and `++key=value` are equivalent here: a key need not be in the file, and the models reject
unknown keys. Names of an older pipeline are translated.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_pipeline.config import explain
from data_pipeline.errors import ConfigError
from data_pipeline.selection.registry import selector_config
from data_pipeline.stages.measure import configured_measure
from data_pipeline.study.config import StudyConfig
from data_pipeline.study.sweep import hydra_value
from data_pipeline.utils import converted_errors, require

CONFIG_FILE = Path(__file__).parent / "conf" / "config.yaml"

_OLDER_SECTIONS = {"track": "tracking", "train": "training"}
_OLDER_KEYS = {
    "data.max_length": "training.max_length",
    "selection.params.n_clusters": "selection.params.clusters",
    "training.batch": "training.batch_size",
    "training.lr": "training.learning_rate",
}
_OVERRIDE = re.compile(r"(?P<sign>\+{0,2}|~)(?P<key>[\w.@-]+)(?P<rest>=.*)?", re.DOTALL)


def load_study(overrides: Sequence[str] = (), file: Path | None = None) -> StudyConfig:
    """Merge a config file and overrides.

    Args:
        overrides: `section.key=value` in the grammar of Hydra, with `+`, `++` and `~`.
        file: Config file; None for that of the package. Settings it leaves out have their defaults.

    Raises:
        ConfigError: The file cannot be read, or names or values are invalid; all of them are listed.
        MissingExtraError: Hydra is not installed.
    """
    file = (file or CONFIG_FILE).absolute()
    if not file.is_file() or file.suffix != ".yaml":
        raise ConfigError(f"config file: no .yaml file at {file}. Leave it out to use that of the package")
    values = _composed(file, hydra_overrides(overrides))
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    selector_config(config.selection.name, config.selection.params)
    for name, parameters in config.measures.items():
        configured_measure(name, parameters)
    return config


def config_file(file: Path | None, folder: Path | None) -> Path | None:
    """The config file that `--config FILE` or `--config-dir FOLDER` names; None for that of the package.

    Raises:
        ConfigError: Both are given.
    """
    if file is not None and folder is not None:
        raise ConfigError("--config and --config-dir both name the config file. Leave one out")
    return folder / "config.yaml" if folder is not None else file


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides with the names of `conf/config.yaml`, as Hydra takes them: each key is added or replaced.

    Raises:
        ConfigError: One is not of the form `key=value`.
    """
    result = []
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None or (match["rest"] is None and match["sign"] != "~"):
            raise ConfigError(f"{text!r} is not a setting; expected section.key=value, such as selection.name=kcenter")
        key = _new_name(match["key"])
        if match["sign"] == "~":
            result.append(f"~{key}{match['rest'] or ''}")
        else:
            result.append(f"++{key}{_quoted(match['rest'])}")
    keys = {text.lstrip("+").partition("=")[0] for text in result}
    if "embedding.model_name" in keys and "embedding.weights" not in keys:
        # The packaged weights belong to the model in the file, not to another one.
        result.append("++embedding.weights=hub")
    return result


def _new_name(key: str) -> str:
    section, dot, rest = key.partition(".")
    key = _OLDER_SECTIONS.get(section, section) + dot + rest
    return _OLDER_KEYS.get(key, key)


def _quoted(rest: str) -> str:
    """Quote a path with characters that Hydra interprets, such as `it's (1).csv`."""
    value = rest.removeprefix("=")
    if "/" in value and value[0] not in "[{'\"" and re.search(r"[^\w./:$@%+\\-]", value) and "${" not in value:
        return f"={hydra_value(value)}"
    return rest


def _composed(file: Path, overrides: list[str]) -> dict[str, Any]:
    """Compose the file and the overrides to nested mappings, leaving no state of Hydra behind."""
    hydra = require("hydra", "study", "the config of a study")
    omegaconf = require("omegaconf", "study", "the config of a study")
    from hydra.errors import HydraException

    failures = (HydraException, omegaconf.errors.OmegaConfBaseException)
    with converted_errors(failures, ConfigError, f"{file} with {' '.join(overrides) or 'no overrides'}"):
        with hydra.initialize_config_dir(config_dir=str(file.parent), version_base="1.3"):
            composed = hydra.compose(file.stem, overrides)
        return omegaconf.OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
