"""Loads models that were published with Python code of their own with transformers' code instead.

Their config is translated, and one of their adapters is merged into their weights.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from data_pipeline.embeddings.recipes.modules import read_json
from data_pipeline.errors import ModelError
from data_pipeline.user_files import visible


def native_config(folder: Path, trust_remote_code: bool) -> Any:
    """Config for transformers' own code, of a model that names other code; None to leave it to transformers.

    Raises:
        ModelError: only code that comes with the model can run it, and it is not allowed.
    """
    settings = read_json(folder / "config.json")
    family, code = str(settings.get("model_type", "")), (settings.get("auto_map") or {}).get("AutoModel")
    if family in {"gte", "new"}:
        translated = _gte_settings(settings)
        family = "gte"
    elif family == "xlm-roberta" and settings.get("position_embedding_type") == "rotary":
        translated = _jina_settings(settings)
        family = "jina_embeddings_v3"
    elif family == "nomic_bert" and "n_embd" in settings:
        translated = _nomic_settings(settings)
    else:
        translated = {} if family in transformers.CONFIG_MAPPING or not code else None
        family = ""
    if translated is None and not trust_remote_code:
        reason = "cannot run with these settings" if family else "does not know"
        raise ModelError(
            f"{folder} is a model of the type {settings.get('model_type')!r}, which transformers "
            f"{transformers.__version__} {reason}: only Python code that comes with the model ({code}) can, and that "
            "is not run unless you allow it. Read that code, then set embedding.trust_remote_code; or choose "
            "another model."
        )
    if not family or translated is None:
        return None
    kind = transformers.CONFIG_MAPPING[family]
    names = {field.name for field in dataclasses.fields(kind)} - {"rope_parameters", "transformers_version", "dtype"}
    return kind(**{name: value for name, value in settings.items() if name in names} | translated)


def _gte_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Translate settings of Alibaba's code for gte (also Snowflake's copy of it); None without an equivalent."""
    if settings.get("rope_parameters"):
        return {"rope_parameters": dict(settings["rope_parameters"])}
    supported = {"position_embedding_type": "rope", "layer_norm_type": "layer_norm"}
    if any(settings.get(name, value) != value for name, value in supported.items()):
        return None
    if settings.get("logn_attention_scale") or settings.get("logn_attention_clip1"):
        return None
    theta = float(settings.get("rope_theta", 10_000.0))
    scaling = settings.get("rope_scaling")
    if scaling is None:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None:
        return None
    # Fixed NTK scaling multiplies the base by the factor, then divides all frequencies by factor ** (2 / head width).
    factor, width = float(scaling["factor"]), settings["hidden_size"] // settings["num_attention_heads"]
    linear = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / width)}
    return {"rope_parameters": linear}


def _jina_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Translate settings of jina-embeddings-v3, whose config names XLM-RoBERTa; None if there is no equivalent."""
    if settings.get("hidden_act", "gelu") != "gelu" or settings.get("emb_pooler"):
        return None
    theta = float(settings.get("rotary_emb_base", 10_000.0))
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def _nomic_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Translate settings of Nomic's code (nomic-embed-text v1, v1.5); None without an equivalent (v2, with experts)."""
    supported = {
        "activation_function": "swiglu", "causal": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
        "moe_every_n_layers": 0, "parallel_block": False, "prenorm": False, "qkv_proj_bias": False,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None, "use_rms_norm": False,
    }  # fmt: skip
    if any(settings.get(name, value) != value for name, value in supported.items()):
        return None
    theta = float(settings.get("rotary_emb_base", 10_000.0))
    return {
        "hidden_size": settings["n_embd"],
        "num_hidden_layers": settings["n_layer"],
        "num_attention_heads": settings["n_head"],
        "intermediate_size": settings["n_inner"],
        "max_position_embeddings": settings["n_positions"],
        "layer_norm_eps": settings.get("layer_norm_epsilon", 1e-12),
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }


def weights_with_adapter(folder: Path, settings: dict[str, Any], task: str | None) -> dict[str, Tensor]:
    """Load the weights of jina-embeddings-v3, merged with one of its adapters.

    Args:
        folder: folder of the model.
        settings: content of its `config.json`.
        task: name of the adapter; None for no adapter.

    Raises:
        ModelError: the weights have no adapters.
    """
    scale = settings.get("lora_alpha", 1) / settings.get("lora_rank", 4)
    number = None if task is None else settings["lora_adaptations"].index(task)
    stored: dict[str, Tensor] = {}
    for path in visible(folder.glob("*.safetensors"), folder):
        stored |= load_file(path)
    weights: dict[str, Tensor] = {}
    mark = ".parametrizations.weight."
    for name, weight in stored.items():
        layer, _, kind = name.removeprefix("roberta.").partition(mark)
        if kind == "original":
            low, high = (stored[name.replace("original", f"0.lora_{part}")] for part in "AB")
            merged = weight.float()
            if number is not None:
                low, high = low[number].float(), high[number].float()
                # Shapes: (rank, in) and (out, rank) for linear layers, (ids, rank) and (rank, out) for embeddings.
                merged = merged + scale * (low @ high if "embeddings" in layer else high @ low)
            weights[f"{layer}.weight"] = merged
        elif not kind:
            weights[layer] = weight
    if task is not None and not any(mark in name for name in stored):
        raise ModelError(
            f"{folder} names the adapter {task!r}, but its weights hold none. Set embedding.task to base to use "
            "no adapter."
        )
    return weights


def add_peft_adapter(model: Any, folder: Path) -> None:
    """Merge a LoRA adapter in the format of PEFT into a model's weights, without PEFT itself.

    Raises:
        ModelError: it is not a plain LoRA adapter of this model.
    """
    settings = read_json(folder / "adapter_config.json")
    unsupported = [
        name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if settings.get(name)
    ]
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or unsupported:
        raise ModelError(
            f"{folder} is not a plain LoRA adapter: peft_type {settings.get('peft_type')!r}, bias "
            f"{settings.get('bias')!r}{''.join(f', {name}' for name in unsupported)}. Set embedding.task to "
            "another adapter."
        )
    rank = settings["r"]
    scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    stored = load_file(folder / "adapter_model.safetensors")
    layers = dict(model.named_modules())
    n_used = 0
    for name, low in stored.items():
        for low_key, high_key in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
            layer = layers.get(name.removeprefix("base_model.model.").removeprefix("roberta.").removesuffix(low_key))
            high = stored.get(name.removesuffix(low_key) + high_key)
            if not name.endswith(low_key) or layer is None or high is None:
                continue
            change = scale * (high.float() @ low.float())
            with torch.no_grad():
                layer.weight.copy_(layer.weight.float() + (change.T if "embedding" in low_key else change))
            n_used += 2
    if not stored or n_used != len(stored):
        raise ModelError(
            f"{folder} has {len(stored)} weights, of which {n_used} belong to layers of the {type(model).__name__} "
            "beside it: the adapter is for another model, or for another version of transformers."
        )


def adapter_number(model: Any, task: str | None) -> int | None:
    """Number of an adapter for code that comes with the model; None where it is merged or there is none."""
    names = getattr(model.config, "lora_adaptations", None) or []
    # transformers' own classes accept the number and ignore it.
    runs_own_code = type(model).__module__.startswith("transformers_modules")
    return list(names).index(task) if runs_own_code and task in names else None
