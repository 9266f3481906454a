"""Attention over packed texts: many texts in one row, and none sees another.

One function is registered with transformers under a name of its own. Names that are not in the
library's table of masks get none, and extra arguments reach the function: it is told where each
text lies, and hands the work to one of three kernels, which compute the same.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Shapes: T tokens of all texts, N texts, H heads, L tokens of one text, E width of a head.

PACKED = "elm_packed"
"""The name under which transformers knows `packed_attention`."""


@dataclass(frozen=True)
class Segments:
    """Where the texts of a pack lie. Filler at its end, if there is any, lies there like one more text."""

    texts: int
    """Number of texts, N; filler is none."""
    lengths: tuple[int, ...]
    """Tokens of each text and of the filler, in order; their sum is T."""
    longest: int
    """Tokens of the longest."""
    cu_seqlens: Tensor
    """Where each text and the filler begin, and where all ends, int32, on the device."""
    kernel: "Kernel"
    single: bool = False
    """Queries are one a text, not one a token; each sees all of its text."""

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """Neighbours of equal length: where they begin, how many they are, how long each is."""
        found: list[tuple[int, int, int]] = []
        start = 0
        for length in self.lengths[: self.texts if self.single else None]:
            if found and found[-1][2] == length:
                found[-1] = (found[-1][0], found[-1][1] + 1, length)
            else:
                found.append((start, 1, length))
            start += length
        return found


@dataclass(frozen=True, slots=True)
class Rule:
    """Which keys a query sees."""

    causal: bool
    window: int | None
    """Itself and so many neighbours less one; on both sides unless causal."""
    scale: float | None

    @property
    def sides(self) -> tuple[int, int]:
        """Keys to the left and to the right; -1 for all."""
        reach = -1 if self.window is None else self.window - 1
        return reach, 0 if self.causal else reach


Kernel = Callable[[Tensor, Tensor, Tensor, Segments, Rule], Tensor]
"""Queries (T or N, H, E), keys and values (T, H of their own, E) -> like the queries."""


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
    """Attention inside each text; the interface of transformers' attention functions.

    Args:
        query: shape (1, H, T, E), or (1, H, N, E) where `segments.single`.
        key: shape (1, H of its own, T, E).
        value: like key.
        segments: where the texts lie. Where `single`, queries beyond the texts are surplus.

    Returns:
        Shape (1, T or N, H, E); zeros for surplus queries.

    Raises:
        ValueError: the model wants something that is not computed here.
    """
    wanted = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if segments is None or attention_mask is not None or wanted:
        raise ValueError(f"packed attention knows no {', '.join(wanted) or 'mask, and needs segments'}")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    if not segments.single:
        return segments.kernel(queries, keys, values, segments, Rule(causal, sliding_window, scaling))[None], None
    found = segments.kernel(queries[: segments.texts], keys, values, segments, Rule(False, None, scaling))
    surplus = found.new_zeros(len(queries) - segments.texts, *found.shape[1:])
    return torch.cat([found, surplus])[None], None


transformers.AttentionInterface.register(PACKED, packed_attention)


def by_segment(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Plain attention, one call for each run of texts of equal length: runs anywhere."""
    found = torch.empty_like(query)
    heads, width = query.shape[1:]
    place = 0
    for start, count, length in segments.runs:
        queries = 1 if segments.single else length
        here, there = slice(place, place + count * queries), slice(start, start + count * length)
        # (count, heads, tokens, width), views all of them
        q = query[here].reshape(count, queries, heads, width).transpose(1, 2)
        if segments.single:
            # On a CPU products of fewer than 4 rows are summed in an order that depends on their neighbours.
            q = q.expand(-1, -1, 4, -1)
        k, v = (x[there].reshape(count, length, -1, width).transpose(1, 2) for x in (key, value))
        mask = _window_mask(length, rule, query.device)
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=rule.causal and mask is None, scale=rule.scale,
            enable_gqa=k.shape[1] != heads,
        )  # fmt: skip
        found[here] = out[:, :, :queries].transpose(1, 2).reshape(-1, heads, width)
        place += count * queries
    return found


def _window_mask(length: int, rule: Rule, device: torch.device) -> Tensor | None:
    """Which keys each query sees, where a window is shorter than the text."""
    if rule.window is None or length <= rule.window:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    left, right = rule.sides
    return (distance <= left) & (-distance <= right)


def varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """Attention over variable lengths that comes with torch (CUDA)."""
    starts, ends, longest = _bounds(query, segments)
    # One split, or the order of a sum would depend on the other texts; AMD's kernel has no such choice.
    splits = {} if torch.version.hip else {"num_splits": 1}
    found: Tensor = _varlen_attn()(
        query, key, value, starts, ends, longest, segments.longest,
        scale=rule.scale, window_size=rule.sides, enable_gqa=query.shape[1] != key.shape[1], **splits,
    )  # fmt: skip
    return found


def flash_attention_2(query: Tensor, key: Tensor, value: Tensor, segments: Segments, rule: Rule) -> Tensor:
    """The flash-attn package (extra `gpu`)."""
    from flash_attn import flash_attn_varlen_func

    starts, ends, longest = _bounds(query, segments)
    found: Tensor = flash_attn_varlen_func(
        query, key, value, starts, ends, longest, segments.longest,
        softmax_scale=rule.scale, causal=rule.causal, window_size=rule.sides,
    )  # fmt: skip
    return found


def _bounds(query: Tensor, segments: Segments) -> tuple[Tensor, Tensor, int]:
    """Where the queries of each text begin, where its keys do, and the most queries a text has."""
    if not segments.single:
        return segments.cu_seqlens, segments.cu_seqlens, segments.longest
    starts = torch.arange(segments.texts + 1, dtype=torch.int32, device=query.device)
    return starts, segments.cu_seqlens[: segments.texts + 1], 1


@cache
def _varlen_attn() -> Callable[..., Any]:
    """The function of torch, which took other arguments before torch 2.12.

    Raises:
        ImportError: this torch has none, or one without windows and grouped queries.
    """
    from torch.nn.attention.varlen import varlen_attn

    missing = {"window_size", "enable_gqa", "num_splits", "scale"} - set(inspect.signature(varlen_attn).parameters)
    if missing:
        raise ImportError(f"varlen_attn of torch {torch.__version__} has no {', '.join(sorted(missing))}")
    return varlen_attn


KERNELS: dict[str, Kernel] = {"flash_attention_2": flash_attention_2, "varlen": varlen, "segments": by_segment}
"""By name, the fastest first."""


def why_not(name: str, device: torch.device, dtype: str) -> str | None:
    """What keeps a kernel from running here; None if nothing is known to."""
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
