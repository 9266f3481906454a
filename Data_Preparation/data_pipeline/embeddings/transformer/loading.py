"""Loads a tokenizer and a model from files, and chooses the device and the precision."""

import logging
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer, normalizers

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.model_files import ModelFiles
from data_pipeline.embeddings.recipes.modules import read_json, read_text_settings
from data_pipeline.embeddings.recipes.recipe import Recipe
from data_pipeline.embeddings.transformer import native
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.utils import converted_errors
from data_pipeline.utils.devices import half_or_float32, is_out_of_memory

logger = logging.getLogger(__name__)

_SENTENCE = "One short sentence."
# Code that comes with a model, written for another version of transformers, fails in any of these ways.
_FAILURES = (
    OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError,
)  # fmt: skip


def load_tokenizer(files: ModelFiles, config: EmbeddingConfig) -> tuple[Tokenizer, int, int]:
    """Load the tokenizer of a model, without truncation or padding.

    Returns:
        The tokenizer, its own maximum length in tokens, and the id of the padding token.

    Raises:
        ModelError: it cannot be loaded, is not a fast one, or needs code that comes with the model.
    """
    own_config = native.native_config(files.folder, config.trust_remote_code)
    failures = (OSError, ValueError, KeyError, ImportError)
    with converted_errors(failures, ModelError, f"cannot load the tokenizer in {files.folder}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            files.folder, trust_remote_code=config.trust_remote_code, local_files_only=True, config=own_config
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{files.folder} has no fast tokenizer (tokenizer.json), which this package needs")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    ids, expected = backend.encode(_SENTENCE).ids, tokenizer(_SENTENCE)["input_ids"]
    if ids != expected:  # the tokenizer's Python code adds special tokens that its file does not
        raise ModelError(
            f"tokenizer.json of {files.folder} gives {ids} for {_SENTENCE!r}, transformers gives {expected}: "
            "vectors would be of other tokens than the model expects. Update transformers, or the tokenizer's files."
        )
    if read_text_settings(files.folder).get("do_lower_case"):
        backend.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        )
    return backend, int(tokenizer.model_max_length), int(tokenizer.pad_token_id or 0)


def end_token_id(encoder: Tokenizer, recipe: Recipe, name: str) -> int | None:
    """Id of the token that every text must end with, for models that pool the last token; else None.

    Raises:
        ModelError: the tokenizer does not append the token that the model's recipe names.
    """
    if "last_token" not in recipe.pooling.split("+"):
        return None
    appended = encoder.encode("").ids
    if recipe.end_token is None:
        return appended[-1] if appended else None
    expected = encoder.token_to_id(recipe.end_token)
    if expected is None or not appended or appended[-1] != expected:
        raise ModelError(
            f"the tokenizer of {name} must end every text with {recipe.end_token} (id {expected}); "
            f"it appends {appended}. Update transformers, or the model's tokenizer files."
        )
    return expected


def load_model(
    files: ModelFiles,
    dtype: str,
    device: torch.device,
    trust_remote_code: bool,
    task: str | None = None,
    kind: str | None = None,
) -> Any:
    """Load a model for inference, with transformers' own choice of attention.

    Args:
        files: files of the model.
        dtype: dtype of its weights.
        device: device to load it on.
        trust_remote_code: run code that comes with the model where transformers has none for it.
        task: name of the adapter to add to the weights; None for no adapter.
        kind: name of transformers' class to load it by; None for the model without a head.

    Raises:
        ModelError: it cannot be loaded, lacks weights, does not fit into memory, or needs code that
            comes with the model.
    """
    # transformers' progress bar for loading weights takes a second.
    transformers.utils.logging.disable_progress_bar()
    settings = read_json(files.folder / "config.json")
    own_config = native.native_config(files.folder, trust_remote_code)
    # Weights are local; only code that the config names may have to be fetched from the hub, if it is allowed.
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": not trust_remote_code}
    if own_config is None and not trust_remote_code and "AutoModel" in (settings.get("auto_map") or {}):
        logger.warning("The code that comes with %s is not run, but transformers' own for its type", files.folder)
    source: Path | None = files.folder
    loader = getattr(transformers, kind) if kind else _model_class(settings)
    with converted_errors(_FAILURES, ModelError, f"cannot load the model in {files.folder}"):
        if own_config is not None:
            options = {"config": own_config, "local_files_only": True}
            if settings.get("lora_adaptations"):
                # Not from the folder, whose weights have other names and no adapter applied.
                source, loader = None, transformers.JinaEmbeddingsV3Model
                options["state_dict"] = native.weights_with_adapter(files.folder, settings, task)
        model, info = loader.from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options
        )
        missing = sorted(name for name in info["missing_keys"] if "pooler" not in name.split("."))
        if missing:
            raise ModelError(
                f"{files.folder} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} for one: its "
                "vectors would be random. The files are incomplete, or are those of another kind of model."
            )
        if task is not None and source is not None and native.adapter_number(model, task) is None:
            if settings.get("lora_adaptations"):
                raise ModelError(
                    f"{files.folder} names the adapter {task!r}, but transformers' {type(model).__name__} has no place "
                    "for it. Set embedding.task to base to use no adapter."
                )
            native.add_peft_adapter(model, files.folder / task)
    _use_bidirectional_attention(model)
    try:
        return model.to(device).eval()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"the model does not fit into the memory of {device}: {error}. Choose a smaller one."
        ) from error


def _model_class(settings: Mapping[str, Any]) -> Any:
    """Class that loads a model: for encoder-decoders (T5), only the encoder, whose states are pooled."""
    encoders = {
        "t5": "T5EncoderModel",
        "mt5": "MT5EncoderModel",
        "umt5": "UMT5EncoderModel",
        "longt5": "LongT5EncoderModel",
        "t5gemma": "T5GemmaEncoderModel",
    }
    return getattr(transformers, encoders.get(str(settings.get("model_type")), "AutoModel"))


def _use_bidirectional_attention(model: torch.nn.Module) -> None:
    """Make the attention of a decoder bidirectional where its config says so (gte-Qwen2, Llama embedders).

    transformers makes the mask from the config, but attention without a mask asks the layers.
    """
    if getattr(model.config, "is_causal", True) is False:
        modules: Iterable[Any] = model.modules()
        for module in modules:
            if getattr(module, "is_causal", False):
                module.is_causal = False


def choose_device(device: str, setting: str = "embedding.device") -> str:
    """Choose a device: for `auto` cuda, else mps, else cpu; any other name is checked.

    Args:
        device: `auto`, or the name of a device.
        setting: name of the setting, for messages.

    Raises:
        ConfigError: the device does not exist.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{setting} {device}: {str(error).splitlines()[0]}. Use auto or cpu.") from error
    return device


def choose_dtype(dtype: str, device_type: str, fp16_overflows: bool, fp8: bool = False) -> str:
    """Choose a dtype: for `auto` float32 on a CPU, else float16, or bfloat16 where the model overflows float16.

    Args:
        dtype: `auto`, or the name of a dtype.
        device_type: cpu, cuda or mps.
        fp16_overflows: whether the model is known to give non-finite values in float16.
        fp8: whether products are computed in float8, and everything else in bfloat16.

    Raises:
        ConfigError: float16 on a CPU, where it is slower and less exact than float32, or another dtype
            than bfloat16 together with float8.
    """
    if fp8:
        if dtype not in {"auto", "bfloat16"}:
            raise ConfigError(f"embedding.fp8 needs embedding.dtype auto or bfloat16, got {dtype}")
        return "bfloat16"
    if dtype == "float16" and device_type == "cpu":
        raise ConfigError("embedding.dtype float16 is for GPUs; on a CPU use auto, float32 or bfloat16")
    if dtype == "bfloat16" and device_type == "cpu" and not _cpu_has_bfloat16():
        _warn_about_emulated_bfloat16()
    if dtype != "auto":
        return dtype
    if device_type == "cpu":
        return "float32"
    if not fp16_overflows:
        return "float16"
    return half_or_float32(device_type) if device_type == "mps" else "bfloat16"


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; decides about a warning only."""
    tests: list[Any] = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    if platform.machine().lower() in {"aarch64", "arm64"}:  # on x86 it is also true of AVX-512 without bfloat16
        tests.append(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None))
    return any(test() for test in tests if test is not None)


@cache
def _warn_about_emulated_bfloat16() -> None:
    """Log a warning, once in a process."""
    logger.warning(
        "This CPU has no bfloat16 instructions (AVX512-BF16, AMX, Arm BF16) and emulates them: "
        "embedding.dtype bfloat16 works, but is slower here than float32. "
        "Use embedding.dtype float32 unless the vectors must be those of bfloat16."
    )


def is_causal(model: torch.nn.Module) -> bool:
    """Whether no token attends to a later one in any layer."""
    flags = [bool(module.is_causal) for module in model.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flags)
