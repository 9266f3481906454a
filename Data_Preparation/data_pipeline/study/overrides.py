"""The config of a study: one YAML file composed by Hydra, and overrides in Hydra's words.

`key=value`, `+key=value` and `++key=value` are the same here: whether a key is in the file already is the file's
affair, and a key that does not exist is refused by the models. Words of the older pipeline are understood.
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
from data_pipeline.utils import require

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
        overrides: `section.key=value` in Hydra's grammar, of which `+`, `++` and `~` are known.
        file: instead of the one that comes with the package; what it leaves out is as in that.

    Raises:
        ConfigError: a file that cannot be read, or every bad name and value, each with its path.
        MissingExtra: Hydra is not installed.
    """
    file = (file or CONFIG_FILE).absolute()
    if not file.is_file() or file.suffix != ".yaml":
        raise ConfigError(f"{file} is no .yaml file; leave it out to use {CONFIG_FILE}")
    values = _composed(file, as_hydra_reads_them(overrides))
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    selector_config(config.selection.name, config.selection.params)
    for name, parameters in config.measures.items():
        configured_measure(name, parameters)
    return config


def config_file(file: Path | None, folder: Path | None) -> Path | None:
    """The file that `--config FILE` or `--config-dir FOLDER` names.

    Raises:
        ConfigError: both are given.
    """
    if file is not None and folder is not None:
        raise ConfigError("--config and --config-dir both name the config file; leave one out")
    return folder / "config.yaml" if folder is not None else file


def as_hydra_reads_them(overrides: Sequence[str]) -> list[str]:
    """Overrides of new or older spelling in the words of `conf/config.yaml`, each added or replaced.

    Raises:
        ConfigError: one is no `key=value`.
    """
    found = []
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None or (match["rest"] is None and match["sign"] != "~"):
            raise ConfigError(f"{text!r} is no setting; write section.key=value, such as selection.name=kcenter")
        key = _new_name(match["key"])
        if match["sign"] == "~":
            found.append(f"~{key}{match['rest'] or ''}")
        else:
            found.append(f"++{key}{_quoted(match['rest'])}")
    keys = {text.lstrip("+").partition("=")[0] for text in found}
    if "embedding.model_name" in keys and "embedding.weights" not in keys:
        # The packaged weights belong to the file's model, not to another one.
        found.append("++embedding.weights=hub")
    return found


def _new_name(key: str) -> str:
    section, dot, rest = key.partition(".")
    key = _OLDER_SECTIONS.get(section, section) + dot + rest
    return _OLDER_KEYS.get(key, key)


def _quoted(rest: str) -> str:
    """A path with signs that mean something to Hydra, such as `it's (1).csv`, as one text."""
    value = rest.removeprefix("=")
    if "/" in value and value[0] not in "[{'\"" and re.search(r"[^\w./:$@%+\\-]", value) and "${" not in value:
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"='{escaped}'"
    return rest


def _composed(file: Path, overrides: list[str]) -> dict[str, Any]:
    """As nested mappings; leaves no state of Hydra behind."""
    hydra = require("hydra", "study", "the config of a study")
    omegaconf = require("omegaconf", "study", "the config of a study")
    from hydra.errors import HydraException

    try:
        with hydra.initialize_config_dir(config_dir=str(file.parent), version_base="1.3"):
            composed = hydra.compose(file.stem, overrides)
        values: dict[str, Any] = omegaconf.OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, omegaconf.errors.OmegaConfBaseException) as error:
        raise ConfigError(f"{file} with {' '.join(overrides) or 'no overrides'}: {error}") from error
    return values
