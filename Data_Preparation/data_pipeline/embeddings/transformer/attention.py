"""Attention over packed texts: many texts in one row, each of which attends to itself only.

One function is registered with transformers under a name of its own. For names that are not in its
table of masks, the library makes no mask and passes extra arguments on: the function receives the
segments of the texts, and calls one of three kernels, which give equal results.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Shapes: T tokens of all texts, N texts, H heads, L tokens of one text, E width of a head.

PACKED = "elm_packed"
"""Name of `packed_attention` in transformers."""


@dataclass(frozen=True)
class Segments:
    """Segments of a pack: its texts, and the filler at its end, if any, as one more segment."""

    texts: int
    """Number of texts, N, without the filler."""
    lengths: tuple[int, ...]
    """Number of tokens of each text and of the filler, in order; their sum is T."""
    longest: int
    """Number of tokens of the longest segment."""
    cu_seqlens: Tensor
    """Start of each segment and the end of the last one, int32, on the device."""
    kernel: "Kernel"
    """Kernel that computes the attention."""
    single: bool = False
    """There is one query for each text instead of one for each token; it attends to the whole text."""

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """Start, number and length of neighbouring texts of equal length."""
        runs, start = [], 0
        for length, equal in groupby(self.lengths[: self.texts if self.single else None]):
            count = len(list(equal))
            runs.append((start, count, length))
            start += count * length
        return runs


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for the keys that a query attends to."""

    causal: bool
    window: int | None
    """Number of keys on each side of the query (on the left only if causal), itself included; None for all."""
    scale: float | None
    """Factor of the products of queries and keys; None for the default."""

    @property
    def sides(self) -> tuple[int, int]:
        """Number of keys to the left and to the right of the query; -1 for all."""
        reach = -1 if self.window is None else self.window - 1
        return reach, 0 if self.causal else reach


Kernel = Callable[[Tensor, Tensor, Tensor, Segments, Rule], Tensor]
"""Takes queries (T or N, H, E), and keys and values (T, their own H, E); returns the shape of the queries."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention inside each text; has the interface of transformers' attention functions.

    Args:
        query: shape (1, H, T, E), or (1, H, N, E) if `segments.single`.
        key: shape (1, its own H, T, E).
        value: shape of `key`.
        segments: segments of the pack. If `single`, queries beyond the number of texts are surplus.

    Returns:
        Shape (1, T or N, H, E); zeros for surplus queries. And None, for the attention weights.

    Raises:
        ValueError: the model needs a mask, or a feature that is not supported.
    """
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if segments is None or attention_mask is not None or unsupported:
        raise ValueError(f"packed attention supports no {', '.join(unsupported) or 'mask, and needs segments'}")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    if not segments.single:
        return segments.kernel(queries, keys, values, segments, Rule(causal, sliding_window, scaling))[None], None
    attended = segments.kernel(queries[: segments.texts], keys, values, segments, Rule(False, None, scaling))
    surplus = attended.new_zeros(len(queries) - segments.texts, *attended.shape[1:])
    return torch.cat([attended, surplus])[None], None


transformers.AttentionInterface.register(PACKED, packed_attention)


def by_segment(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Kernel with torch's own attention, one call for each run of texts of equal length; works on any device."""
    attended = torch.empty_like(query)
    heads, width = query.shape[1:]
    first_query = 0
    for start, count, length in segments.runs:
        queries = 1 if segments.single else length
        query_rows = slice(first_query, first_query + count * queries)
        key_rows = slice(start, start + count * length)
        # Views of shape (count, heads, tokens, width).
        q = query[query_rows].reshape(count, queries, heads, width).transpose(1, 2)
        if segments.single:
            # On a CPU, products of fewer than 4 rows are summed in an order that depends on their neighbours.
            q = q.expand(-1, -1, 4, -1)
        k, v = (x[key_rows].reshape(count, length, -1, width).transpose(1, 2) for x in (key, value))
        mask = _window_mask(length, rule, query.device)
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=rule.causal and mask is None, scale=rule.scale,
            enable_gqa=k.shape[1] != heads,
        )  # fmt: skip
        attended[query_rows] = out[:, :, :queries].transpose(1, 2).reshape(-1, heads, width)
        first_query += count * queries
    return attended


def _window_mask(length: int, rule: Rule, device: torch.device) -> Tensor | None:
    """Whether each query attends to each key, shape (length, length); None where the window covers the whole text."""
    if rule.window is None or length <= rule.window:
        return None
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    left, right = rule.sides
    return (distance <= left) & (-distance <= right)


def varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Kernel of torch for variable lengths (CUDA)."""
    starts, ends, longest = _bounds(query, segments)
    # With one split, the order of a sum does not depend on the other texts; AMD's kernel has no such argument.
    splits = {} if torch.version.hip else {"num_splits": 1}
    return _varlen_attn()(
        query, key, value, starts, ends, longest, segments.longest,
        scale=rule.scale, window_size=rule.sides, enable_gqa=query.shape[1] != key.shape[1], **splits,
    )  # fmt: skip


def flash_attention_2(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Kernel of the flash-attn package (extra `gpu`)."""
    from flash_attn import flash_attn_varlen_func

    starts, ends, longest = _bounds(query, segments)
    return flash_attn_varlen_func(
        query, key, value, starts, ends, longest, segments.longest,
        softmax_scale=rule.scale, causal=rule.causal, window_size=rule.sides,
    )  # fmt: skip


def _bounds(query: Tensor, segments: Segments) -> tuple[Tensor, Tensor, int]:
    """Starts of the queries of each text, starts of its keys, and the maximum number of queries of a text."""
    if not segments.single:
        return segments.cu_seqlens, segments.cu_seqlens, segments.longest
    starts = torch.arange(segments.texts + 1, dtype=torch.int32, device=query.device)
    return starts, segments.cu_seqlens[: segments.texts + 1], 1


@cache
def _varlen_attn() -> Callable[..., Any]:
    """Import torch's function, which had other arguments before torch 2.12.

    Raises:
        ImportError: this torch does not have it, or lacks windows and grouped queries.
    """
    from torch.nn.attention.varlen import varlen_attn

    missing = {"window_size", "enable_gqa", "num_splits", "scale"} - set(inspect.signature(varlen_attn).parameters)
    if missing:
        raise ImportError(f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(missing))}")
    return varlen_attn


KERNELS: dict[str, Kernel] = {"flash_attention_2": flash_attention_2, "varlen": varlen, "segments": by_segment}
"""Kernels by name, the fastest first."""


def unavailable_reason(name: str, device: torch.device, dtype: str) -> str | None:
    """Why a kernel cannot run on a device in a dtype; None if no reason is known."""
    if name == "segments":
        return None
    if device.type != "cuda":
        return f"the device is {device}, not a CUDA GPU"
    if dtype == "float32":
        return "the dtype is float32, it needs float16 or bfloat16"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    if name == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        return 'flash-attn is not installed (pip install "elm-data-preparation[gpu]")'
    if name == "varlen":
        try:
            _varlen_attn()
        except ImportError as error:
            return str(error)
    return None
