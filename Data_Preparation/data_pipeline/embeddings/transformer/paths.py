"""Which path computes a model's vectors: the fastest one that can run here and is right.

Packed by one of the kernels of `attention`, or padded, or by OpenVINO. None is trusted before
its vectors of the probe texts are those of transformers' own code (see `probe`).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Cost, Runtime
from data_pipeline.embeddings.transformer.activations import steady_activations
from data_pipeline.embeddings.transformer.attention import KERNELS, PACKED, why_not
from data_pipeline.embeddings.transformer.forward import Forward, Packed, Padded
from data_pipeline.embeddings.transformer.last_layer import layers_of, prune_last_layer
from data_pipeline.embeddings.transformer.linear import pack_linear_layers
from data_pipeline.embeddings.transformer.loading import is_causal
from data_pipeline.embeddings.transformer.native import adapter_number
from data_pipeline.embeddings.transformer.probe import Probes
from data_pipeline.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

# A multiple that keeps the kernels of the matrix products the same from pack to pack. On a CPU
# products of fewer than 16 rows are summed in another order, and a vector's last bits with them.
_ROW_MULTIPLE = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class Setup:
    """What every path needs to know."""

    config: EmbeddingConfig
    pooling: str
    device: torch.device
    dtype: str
    pad_id: int
    task: str | None = None
    """The adapter to use, of models that come with several."""

    def padded(self, model: Any) -> Padded:
        """The path that works for every model: transformers' own code over padded texts."""
        adapter = adapter_number(model, self.task)
        return Padded(model, self.pooling, self.device, is_causal(model), self.pad_id, adapter)


@dataclass(frozen=True)
class Path:
    """A way to compute vectors, and how it likes to be fed."""

    forward: Forward
    runtime: Runtime


def choose_path(model: Any, setup: Setup, probes: Probes) -> Path:
    """Set a model up for the fastest path whose vectors are right.

    Args:
        model: as transformers loaded it; is changed.
        probes: its vectors before the change.

    Raises:
        ConfigError: the path that was asked for cannot run here.
        ModelError: the path that was asked for gives wrong vectors.
    """
    cost = _cost(model)
    if setup.config.backend == "openvino":
        return _by_openvino(model, setup, probes, cost)
    common = Runtime(
        attention="padded",
        padded=True,
        mates_matter=True,
        in_flight=2 if setup.device.type == "cuda" else 1,
        batch_tokens=default_batch_tokens(setup.device),
        tunable_threads=setup.device.type == "cpu",
        cost=cost,
        trial_flops=2e11 if setup.device.type == "cpu" else 2e13,
    )
    attention = model.config._attn_implementation
    exact_rows = True
    if setup.device.type == "cpu":
        # torch's own products may sum a row in another order in a pack of another size, which probes may miss.
        exact_rows = pack_linear_layers(model)
        steady_activations(model)
    _norm_in_float32(model)
    refused: list[str] = []
    with torch.inference_mode():
        packed = _first_right(model, setup, probes, refused)
        if packed is not None:
            name, forward = packed
            if setup.config.compile:
                _compile_layers(model, name)
                if fault := probes.fault(forward, setup.dtype):
                    raise ModelError(f"--embedding.compile does not work for this model here: {fault}. Leave it out.")
            mates_matter = not exact_rows or probes.mates_matter(forward)
            multiple = forward.row_multiple
            runtime = replace(common, attention=name, padded=False, row_multiple=multiple, mates_matter=mates_matter)
            return Path(forward, runtime)
        if setup.config.attention not in {"auto", "padded"}:
            raise ModelError(
                f"--embedding.attention {setup.config.attention} is not right for this model: "
                f"{'; '.join(refused)}. Use auto."
            )
        if setup.config.compile:
            raise ConfigError("--embedding.compile is for packed texts, and this model's are padded")
        if refused:
            logger.warning("texts are padded, not packed; refused were %s", "; ".join(refused))
        model.set_attn_implementation(attention)
        padded = setup.padded(model)
        if fault := probes.fault(padded, setup.dtype):
            raise ModelError(f"no way to compute several texts together gives this model's own vectors: {fault}")
        return Path(padded, common)


def _first_right(model: Any, setup: Setup, probes: Probes, refused: list[str]) -> tuple[str, Packed] | None:
    """The first packed path whose vectors are right; why the others are not is added to `refused`."""
    for name, forward, undo in _packed_paths(model, setup, refused):
        fault = probes.fault(forward, setup.dtype)
        if fault is None:
            return name, forward
        undo()
        refused.append(f"{name}{' with a pruned last layer' if forward.pruned else ''}: {fault}")
        logger.debug("refused: %s", refused[-1])
    return None


def _packed_paths(model: Any, setup: Setup, refused: list[str]) -> Iterator[tuple[str, Packed, Callable[[], None]]]:
    """Packed paths to try in turn, the model set up for each, and what undoes it."""
    asked = setup.config.attention
    if _rope_type(model) in {"dynamic", "longrope"}:
        refused.append("packing: the model's positions depend on the longest text of a pack")
        return
    if adapter_number(model, setup.task) is not None:
        refused.append("packing: the model wants an adapter's number for every text of a batch")
        return
    for name in KERNELS if asked == "auto" else {asked} & set(KERNELS):
        if missing := why_not(name, setup.device, setup.dtype):
            if name == asked:
                raise ConfigError(f"--embedding.attention {name} is not possible: {missing}. Use auto.")
            continue
        try:
            model.set_attn_implementation(PACKED)
        except (ValueError, AttributeError) as error:
            refused.append(f"{name}: {error}")
            continue
        multiple = _ROW_MULTIPLE.get(setup.device.type, 1)
        if setup.config.compile:  # one shape, compiled once
            multiple = setup.config.batch_tokens or default_batch_tokens(setup.device)
        path = Packed(model, setup.pooling, KERNELS[name], setup.device, multiple, _first_position(model), pruned=False)
        if undo := prune_last_layer(model, setup.pooling):
            yield name, replace(path, pruned=True), undo
        yield name, path, lambda: None


def _by_openvino(model: Any, setup: Setup, probes: Probes, cost: Cost) -> Path:
    from data_pipeline.embeddings.transformer.openvino import DEFAULT_BATCH_TOKENS, OpenVinoForward

    if setup.device.type != "cpu":
        raise ConfigError(f"--embedding.backend openvino is for CPUs, the device is {setup.device}")
    forward = OpenVinoForward(model, setup.pooling, is_causal(model), setup.pad_id, setup.dtype, setup.config.threads)
    if fault := probes.fault(forward, setup.dtype):
        raise ModelError(f"--embedding.backend openvino is not right for this model: {fault}. Use torch.")
    runtime = Runtime(
        attention="openvino", padded=True, mates_matter=True, batch_tokens=DEFAULT_BATCH_TOKENS, cost=cost
    )
    return Path(forward, runtime)


def default_batch_tokens(device: torch.device) -> int:
    """Tokens of a pack: enough to keep a GPU busy, or what stays in a CPU's caches."""
    if device.type == "cpu":
        return 4096
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory > 60e9:
        return 32_768
    return 16_384


def _compile_layers(model: Any, attention: str) -> None:
    """Compile each layer but the last; they are alike, so that one compilation serves them all."""
    if attention == "segments":
        raise ConfigError(
            "--embedding.compile goes with the attentions flash_attention_2 and varlen: "
            "segments calls another number of kernels for every pack"
        )
    layers = layers_of(model)
    if layers is None:
        raise ConfigError("--embedding.compile does not know where this model keeps its layers")
    for layer in list(layers)[:-1]:
        layer.compile()


def _norm_in_float32(model: Any) -> None:
    """Keep the result of a model's final norm in float32, not rounded to the model's precision."""
    for name in ("norm", "final_norm"):
        norm = getattr(model, name, None)
        if isinstance(norm, nn.Module):
            norm.float()
            norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _rope_type(model: Any) -> str | None:
    """Kind of rotary positions, where the model has them."""
    settings = getattr(model.config, "rope_parameters", None)
    return settings.get("rope_type") if isinstance(settings, dict) else None


def _first_position(model: Any) -> int:
    """Position of a text's first token: RoBERTa's begin after the padding's."""
    embeddings: Any = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def _cost(model: Any) -> Cost:
    """Products with the weights of linear layers, and of attention: half of those where causal."""
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
