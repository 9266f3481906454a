"""The last layer, computed for the pooled tokens only.

What it gives for the other tokens is never used: their keys and values are needed, their queries,
projections and feed-forward are not. Exact where pooling takes one token's state. Saves one layer's
share less keys and values: 3 % of a Qwen3-Embedding, a quarter of a model of four layers.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from data_pipeline.embeddings.transformer.attention import PACKED
from data_pipeline.embeddings.transformer.pooling import SINGLE_TOKEN


def prune_last_layer(model: Any, pooling: str) -> Callable[[], None] | None:
    """Make the last layer give pooled tokens only, where its family is known.

    Its input then carries `pooled_places`, which `forward.Packed` hands to the model.

    Returns:
        What undoes it; None if this model or pooling cannot be pruned.
    """
    if pooling not in SINGLE_TOKEN:
        return None
    layers = layers_of(model)
    if layers is None:
        return None
    last: Any = layers[-1]
    for fits, forward in ((_is_pre_norm, _pre_norm), (_is_post_norm, _post_norm), (_is_bert, _bert)):
        if fits(last):
            last.forward = partial(forward, last)
            return partial(delattr, last, "forward")
    return None


def layers_of(model: Any) -> nn.ModuleList | None:
    """A model's layers, where it keeps them in one of the usual places."""
    for found in (getattr(model, "layers", None), getattr(getattr(model, "encoder", None), "layer", None)):
        if isinstance(found, nn.ModuleList):
            return found
    return None


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_pre_norm(layer: Any) -> bool:
    """Qwen2, Qwen3, Llama, Mistral: norm, attention, norm, feed-forward, nothing else."""
    if _children(layer) != {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}:
        return False
    return _is_rotary(layer.self_attn)


def _is_post_norm(layer: Any) -> bool:
    """Gte: attention, norm, feed-forward, norm, nothing else but dropout."""
    children = {"self_attn", "post_attention_layernorm", "mlp", "post_mlp_layernorm"}
    dropout = {"post_attention_dropout", "post_mlp_dropout"}
    return _children(layer) == children | dropout and _is_rotary(layer.self_attn)


def _is_rotary(attention: Any) -> bool:
    """Whether `_rotary_attention` is what it computes."""
    projections = {"q_proj", "k_proj", "v_proj", "o_proj"}
    return (
        projections <= _children(attention) <= projections | {"q_norm", "k_norm"}
        and getattr(attention, "sliding_window", _window_of_model(attention)) is None
        and hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb")
    )


def _window_of_model(attention: Any) -> int | None:
    """Mistral's attention asks the model's settings, and has no window of its own."""
    return getattr(getattr(attention, "config", None), "sliding_window", None)


def _pre_norm(
    layer: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    pooled_places: Tensor,
    segments: Any,
    **others: Any,
) -> Tensor:
    """Hidden states of shape (1, T, D) -> (1, N, D)."""
    del others  # masks and caches, which packed models do not have
    normed = layer.input_layernorm(hidden_states)
    attended = _rotary_attention(layer.self_attn, normed, position_embeddings, pooled_places, segments)
    hidden = hidden_states[:, pooled_places] + attended
    out: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return out


def _post_norm(
    layer: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    pooled_places: Tensor,
    segments: Any,
    **others: Any,
) -> Tensor:
    """Hidden states of shape (1, T, D) -> (1, N, D)."""
    del others
    attended = _rotary_attention(layer.self_attn, hidden_states, position_embeddings, pooled_places, segments)
    hidden = layer.post_attention_layernorm(hidden_states[:, pooled_places] + attended)
    out: Tensor = layer.post_mlp_layernorm(hidden + layer.mlp(hidden))
    return out


def _rotary_attention(
    attention: Any, states: Tensor, position_embeddings: tuple[Tensor, Tensor], pooled_places: Tensor, segments: Any
) -> Tensor:
    """States of shape (1, T, D) -> what attention adds to the pooled ones, (1, N, D)."""
    width = (-1, attention.head_dim)
    query = attention.q_proj(states[:, pooled_places]).unflatten(-1, width)
    key, value = (project(states).unflatten(-1, width) for project in (attention.k_proj, attention.v_proj))
    if "q_norm" in _children(attention):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    cos, sin = position_embeddings
    query, _ = rotate(query, query, cos[:, pooled_places], sin[:, pooled_places])
    key, _ = rotate(key, key[:, :, :1], cos, sin)
    found, _ = ALL_ATTENTION_FUNCTIONS[PACKED](
        attention, query, key, value, None, scaling=attention.scaling, segments=replace(segments, single=True)
    )
    out: Tensor = attention.o_proj(found.flatten(-2))
    return out


def _is_bert(layer: Any) -> bool:
    """BERT, RoBERTa, XLM-R: attention, feed-forward, norms after each."""
    return (
        _children(layer) == {"attention", "intermediate", "output"}
        and _children(layer.attention) == {"self", "output"}
        and {"query", "key", "value"} <= _children(layer.attention.self)
        and not getattr(layer.attention.self, "is_causal", False)
    )


def _bert(
    layer: Any, hidden_states: Tensor, *positional: Any, pooled_places: Tensor, segments: Any, **others: Any
) -> Tensor:
    """Hidden states of shape (1, T, D) -> (1, N, D)."""
    del positional, others  # masks and caches, which packed models do not have
    attention = layer.attention.self
    width = (-1, attention.attention_head_size)
    pooled = hidden_states[:, pooled_places]
    query, key, value = (
        project(states).unflatten(-1, width).transpose(1, 2)
        for project, states in (
            (attention.query, pooled), (attention.key, hidden_states), (attention.value, hidden_states),
        )
    )  # fmt: skip
    found, _ = ALL_ATTENTION_FUNCTIONS[PACKED](
        attention, query, key, value, None, scaling=attention.scaling, segments=replace(segments, single=True)
    )
    out: Tensor = layer.feed_forward_chunk(layer.attention.output(found.flatten(-2), pooled))
    return out
