"""Chooses the path that computes a model's vectors: the fastest one that runs on this machine and is correct.

A path is packed with one of the kernels of `attention`, padded, or OpenVINO. It is used only if its
vectors of the probe texts equal those of transformers' own code (see `probe`).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Cost, Runtime
from data_pipeline.embeddings.transformer.activations import use_deterministic_activations
from data_pipeline.embeddings.transformer.attention import KERNELS, PACKED, unavailable_reason
from data_pipeline.embeddings.transformer.forward import Forward, Packed, Padded
from data_pipeline.embeddings.transformer.last_layer import layers_of, prune_last_layer
from data_pipeline.embeddings.transformer.linear import pack_linear_layers
from data_pipeline.embeddings.transformer.loading import is_causal
from data_pipeline.embeddings.transformer.native import adapter_number
from data_pipeline.embeddings.transformer.probe import Probes
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers
from data_pipeline.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

# Packs of a multiple of so many rows use the same kernels of matrix products. On a CPU, products of fewer
# than 16 rows are summed in another order, which changes the last bits of vectors.
_ROW_MULTIPLE = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class Setup:
    """Settings of a model that are common to all paths."""

    config: EmbeddingConfig
    layers: SentenceLayers
    device: torch.device
    dtype: str
    pad_id: int
    task: str | None = None
    """Name of the adapter, for models with several; None for no adapter."""
    folder: Path | None = None
    """Folder of the model, which may hold exports for other engines."""

    def padded(self, model: Any) -> Padded:
        """The path that works for every model: transformers' own code with padded texts."""
        adapter = adapter_number(model, self.task)
        return Padded(model, self.layers, self.device, is_causal(model), self.pad_id, adapter)


@dataclass(frozen=True)
class EmbeddingPath:
    """A forward pass, and its requirements for packs."""

    forward: Forward
    runtime: Runtime


def choose_path(model: Any, setup: Setup, probes: Probes) -> EmbeddingPath:
    """Prepare a model for the fastest path whose vectors are correct.

    Args:
        model: the model as transformers loaded it; changed in place.
        setup: settings of the model.
        probes: its vectors before the change.

    Raises:
        ConfigError: the path that the config sets cannot run on this machine.
        ModelError: the path that the config sets gives wrong vectors.
    """
    cost = _cost(model)
    if setup.config.backend in _OTHER_ENGINES:
        return _OTHER_ENGINES[setup.config.backend](model, setup, probes, cost)
    common = Runtime(
        attention="padded",
        padded=True,
        batch_dependent=True,
        in_flight=2 if setup.device.type == "cuda" else 1,
        batch_tokens=default_batch_tokens(setup.device),
        tunable_threads=setup.device.type == "cpu",
        cost=cost,
        trial_flops=2e11 if setup.device.type == "cpu" else 2e13,
    )
    attention = model.config._attn_implementation
    rows_are_independent = True
    if setup.device.type == "cpu":
        # The order in which torch's own products sum a row may depend on the size of the pack, which probes may miss.
        rows_are_independent = pack_linear_layers(model)
        use_deterministic_activations(model)
    _norm_in_float32(model)
    rejected: list[str] = []
    with torch.inference_mode():
        packed = _first_correct(model, setup, probes, rejected)
        if packed is not None:
            name, forward = packed
            if setup.config.compile:
                _compile_layers(model, name)
                if fault := probes.fault(forward, setup.dtype):
                    raise ModelError(
                        f"embedding.compile does not work for this model on this machine: {fault}. Leave it out."
                    )
            batch_dependent = not rows_are_independent or probes.is_batch_dependent(forward)
            multiple = forward.row_multiple
            runtime = replace(
                common, attention=name, padded=False, row_multiple=multiple, batch_dependent=batch_dependent
            )
            return EmbeddingPath(forward, runtime)
        if setup.config.attention not in {"auto", "padded"}:
            raise ModelError(
                f"embedding.attention {setup.config.attention} is not correct for this model: "
                f"{'; '.join(rejected)}. Use auto."
            )
        if setup.config.compile:
            raise ConfigError("embedding.compile is for packed texts, and this model's are padded")
        if rejected:
            logger.warning("Texts are padded instead of packed, because paths were rejected: %s", "; ".join(rejected))
        model.set_attn_implementation(attention)
        padded = setup.padded(model)
        if fault := probes.fault(padded, setup.dtype):
            raise ModelError(f"no way of computing several texts together gives this model's own vectors: {fault}")
        return EmbeddingPath(padded, common)


def _first_correct(model: Any, setup: Setup, probes: Probes, rejected: list[str]) -> tuple[str, Packed] | None:
    """The first packed path whose vectors are correct; adds the reasons against the others to `rejected`."""
    for name, forward, undo in _packed_paths(model, setup, rejected):
        fault = probes.fault(forward, setup.dtype)
        if fault is None:
            return name, forward
        undo()
        rejected.append(f"{name}{' with a pruned last layer' if forward.pruned else ''}: {fault}")
        logger.debug("Path rejected: %s", rejected[-1])
    return None


def _packed_paths(model: Any, setup: Setup, rejected: list[str]) -> Iterator[tuple[str, Packed, Callable[[], None]]]:
    """Packed paths to try in turn, with the model prepared for each, and a function that undoes the preparation."""
    attention = setup.config.attention
    rotary = getattr(model.config, "rope_parameters", None)
    if isinstance(rotary, dict) and rotary.get("rope_type") in {"dynamic", "longrope"}:
        rejected.append("packing: the model's positions depend on the longest text of a pack")
        return
    if adapter_number(model, setup.task) is not None:
        rejected.append("packing: the model needs the number of an adapter for every text of a batch")
        return
    for name in KERNELS if attention == "auto" else {attention} & set(KERNELS):
        if reason := unavailable_reason(name, setup.device, setup.dtype):
            if name == attention:
                raise ConfigError(f"embedding.attention {name} is not possible: {reason}. Use auto.")
            continue
        try:
            model.set_attn_implementation(PACKED)
        except (ValueError, AttributeError) as error:
            rejected.append(f"{name}: {error}")
            continue
        multiple = _ROW_MULTIPLE.get(setup.device.type, 1)
        if setup.config.compile:  # one shape, compiled once
            multiple = setup.config.batch_tokens or default_batch_tokens(setup.device)
        path = Packed(model, setup.layers, KERNELS[name], setup.device, multiple, _first_position(model), pruned=False)
        if undo := prune_last_layer(model, setup.layers.pooling):
            yield name, replace(path, pruned=True), undo
        yield name, path, lambda: None


def _openvino_path(model: Any, setup: Setup, probes: Probes, cost: Cost) -> EmbeddingPath:
    from data_pipeline.embeddings.transformer.openvino import DEFAULT_BATCH_TOKENS, OpenVinoForward

    if setup.device.type != "cpu":
        raise ConfigError(f"embedding.backend openvino is for CPUs, the device is {setup.device}")
    forward = OpenVinoForward(
        model, setup.layers, is_causal(model), setup.pad_id, setup.dtype, setup.config.threads, setup.folder
    )
    if fault := probes.fault(forward, setup.dtype):
        raise ModelError(f"embedding.backend openvino is not correct for this model: {fault}. Use torch.")
    runtime = Runtime(
        attention="openvino", padded=True, batch_dependent=True, batch_tokens=DEFAULT_BATCH_TOKENS, cost=cost
    )
    return EmbeddingPath(forward, runtime)


def _onnx_path(model: Any, setup: Setup, probes: Probes, cost: Cost) -> EmbeddingPath:
    from data_pipeline.embeddings.transformer.onnx import DEFAULT_BATCH_TOKENS, OnnxForward

    del model  # only its vectors of the probe texts are needed
    if setup.device.type != "cpu" or setup.dtype != "float32" or setup.folder is None:
        raise ConfigError(
            f"embedding.backend onnx computes in float32 on a CPU, not in {setup.dtype} on {setup.device}"
        )
    forward = OnnxForward(setup.folder, setup.layers, setup.pad_id, setup.config.threads)
    if fault := probes.fault(forward, setup.dtype):
        raise ModelError(f"embedding.backend onnx is not correct for this model: {fault}. Use torch.")
    runtime = Runtime(attention="onnx", padded=True, batch_dependent=True, batch_tokens=DEFAULT_BATCH_TOKENS, cost=cost)
    return EmbeddingPath(forward, runtime)


_OTHER_ENGINES = {"openvino": _openvino_path, "onnx": _onnx_path}


def default_batch_tokens(device: torch.device) -> int:
    """Default number of tokens in a pack: enough to keep a GPU busy, or few enough for a CPU's caches."""
    if device.type == "cpu":
        return 4096
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory > 60e9:
        return 32_768
    return 16_384


def _compile_layers(model: Any, attention: str) -> None:
    """Compile every layer but the last; because they are alike, one compilation is enough for all."""
    if attention == "segments":
        raise ConfigError(
            "embedding.compile needs embedding.attention flash_attention_2 or varlen: "
            "segments calls another number of kernels for every pack"
        )
    layers = layers_of(model)
    if layers is None:
        raise ConfigError(
            "embedding.compile does not support this model: its layers are not in one of the usual attributes"
        )
    for layer in list(layers)[:-1]:
        layer.compile()


def _norm_in_float32(model: Any) -> None:
    """Keep the result of a model's final norm in float32 instead of rounding it to the model's precision."""
    for name in ("norm", "final_norm"):
        norm = getattr(model, name, None)
        if isinstance(norm, nn.Module):
            norm.float()
            norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _first_position(model: Any) -> int:
    """Position of the first token of a text; in RoBERTa, positions start after that of the padding."""
    embeddings: Any = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def _cost(model: Any) -> Cost:
    """Cost of the products with weights and of attention, which a causal mask halves."""
    weights = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("pooler")
    )
    config = model.config
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    width = heads * int(getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0))
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    return Cost(linear=2.0 * weights, quadratic=(2.0 if is_causal(model) else 4.0) * width * layers)
