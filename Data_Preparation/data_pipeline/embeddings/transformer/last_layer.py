"""Prunes the last layer of a model, so that it computes the pooled tokens only.

Its results for the other tokens are never used: their keys and values are needed, but not their queries,
projections and feed-forward. The result is exact where pooling takes the state of one token. It saves
the time of one layer except keys and values: 3 % of a Qwen3-Embedding, a quarter of a model of four layers.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from data_pipeline.embeddings.transformer.attention import PACKED
from data_pipeline.embeddings.transformer.pooling import Pooling

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of rotary positions, each of shape (1, T, width of a head)."""

# The forward functions below ignore their other arguments, masks and caches, which packed models do not use.


def prune_last_layer(model: Any, pooling: Pooling) -> Callable[[], None] | None:
    """Make the last layer compute the pooled tokens only, if its family is known.

    Its inputs then include `pooled_positions`, which `forward.Packed` passes to the model.

    Returns:
        Function that undoes the change; None if this model or pooling cannot be pruned.
    """
    layers = layers_of(model)
    if pooling.position is None or layers is None:
        return None
    last: Any = layers[-1]
    for fits, forward in ((_is_pre_norm, _pre_norm), (_is_post_norm, _post_norm), (_is_bert, _bert)):
        if fits(last):
            last.forward = partial(forward, last)
            return partial(delattr, last, "forward")
    return None


def layers_of(model: Any) -> nn.ModuleList | None:
    """Layers of a model, if they are an attribute with one of the usual names; else None."""
    for layers in (getattr(model, "layers", None), getattr(getattr(model, "encoder", None), "layer", None)):
        if isinstance(layers, nn.ModuleList):
            return layers
    return None


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_pre_norm(layer: Any) -> bool:
    """Whether a layer is norm, attention, norm, feed-forward and nothing else (Qwen2, Qwen3, Llama, Mistral)."""
    children = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
    return _children(layer) == children and _is_rotary(layer.self_attn)


def _is_post_norm(layer: Any) -> bool:
    """Whether a layer is attention, norm, feed-forward, norm and nothing else but dropout (Gte)."""
    children = {"self_attn", "post_attention_layernorm", "mlp", "post_mlp_layernorm"}
    dropout = {"post_attention_dropout", "post_mlp_dropout"}
    return _children(layer) == children | dropout and _is_rotary(layer.self_attn)


def _is_rotary(attention: Any) -> bool:
    """Whether `_rotary_attention` computes the same as an attention module."""
    projections = {"q_proj", "k_proj", "v_proj", "o_proj"}
    return (
        projections <= _children(attention) <= projections | {"q_norm", "k_norm"}
        and getattr(attention, "sliding_window", _window_of_model(attention)) is None
        and hasattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb")
    )


def _window_of_model(attention: Any) -> int | None:
    """Sliding window of the model's config, where Mistral's attention looks it up."""
    return getattr(getattr(attention, "config", None), "sliding_window", None)


def _pre_norm(
    layer: Any, hidden_states: Tensor, position_embeddings: Rotation, pooled_positions: Tensor, segments: Any, **_: Any
) -> Tensor:
    """Compute the layer: hidden states of shape (1, T, D) to those of the pooled tokens, (1, N, D)."""
    normed = layer.input_layernorm(hidden_states)
    attended = _rotary_attention(layer.self_attn, normed, position_embeddings, pooled_positions, segments)
    hidden = hidden_states[:, pooled_positions] + attended
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _post_norm(
    layer: Any, hidden_states: Tensor, position_embeddings: Rotation, pooled_positions: Tensor, segments: Any, **_: Any
) -> Tensor:
    """Compute the layer: hidden states of shape (1, T, D) to those of the pooled tokens, (1, N, D)."""
    attended = _rotary_attention(layer.self_attn, hidden_states, position_embeddings, pooled_positions, segments)
    hidden = layer.post_attention_layernorm(hidden_states[:, pooled_positions] + attended)
    return layer.post_mlp_layernorm(hidden + layer.mlp(hidden))


def _rotary_attention(
    attention: Any, states: Tensor, position_embeddings: Rotation, pooled_positions: Tensor, segments: Any
) -> Tensor:
    """Attention's output for the pooled tokens, shape (1, N, D), from states of shape (1, T, D)."""
    width = (-1, attention.head_dim)
    query = attention.q_proj(states[:, pooled_positions]).unflatten(-1, width)
    key, value = (project(states).unflatten(-1, width) for project in (attention.k_proj, attention.v_proj))
    if "q_norm" in _children(attention):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    cos, sin = position_embeddings
    query, _ = rotate(query, query, cos[:, pooled_positions], sin[:, pooled_positions])
    key, _ = rotate(key, key[:, :, :1], cos, sin)
    return attention.o_proj(_attend(attention, query, key, value, segments))


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, segments: Any) -> Tensor:
    """Compute packed attention with one query for each text, and join its heads; returns shape (1, N, D)."""
    segments = replace(segments, single=True)
    attend = ALL_ATTENTION_FUNCTIONS[PACKED]
    return attend(attention, query, key, value, None, scaling=attention.scaling, segments=segments)[0].flatten(-2)


def _is_bert(layer: Any) -> bool:
    """Whether a layer is attention and feed-forward, each with a norm after it (BERT, RoBERTa, XLM-R)."""
    return (
        _children(layer) == {"attention", "intermediate", "output"}
        and _children(layer.attention) == {"self", "output"}
        and {"query", "key", "value"} <= _children(layer.attention.self)
        and not getattr(layer.attention.self, "is_causal", False)
    )


def _bert(layer: Any, hidden_states: Tensor, *_: Any, pooled_positions: Tensor, segments: Any, **__: Any) -> Tensor:
    """Compute the layer: hidden states of shape (1, T, D) to those of the pooled tokens, (1, N, D)."""
    attention = layer.attention.self
    width = (-1, attention.attention_head_size)
    pooled = hidden_states[:, pooled_positions]
    projected = (attention.query(pooled), attention.key(hidden_states), attention.value(hidden_states))
    query, key, value = (states.unflatten(-1, width).transpose(1, 2) for states in projected)
    attended = _attend(attention, query, key, value, segments)
    return layer.feed_forward_chunk(layer.attention.output(attended, pooled))
