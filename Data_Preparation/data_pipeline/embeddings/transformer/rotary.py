"""Rotary positions on a CPU with the bits of transformers' own and half of its passes over memory.

transformers builds the rotated halves of queries and keys in new memory before it multiplies them. Here each half is
multiplied where it lies. The function that a family's attention calls is a name in the module of the family; it is
replaced in the attention layers of one model only, and only if it gives the same bits for trial values.
"""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

_NAME = "apply_rotary_pos_emb"

Rotate = Callable[..., tuple[Tensor, Tensor]]


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys; has the interface of transformers' function.

    Args:
        q: queries, shape (1, heads, T, E).
        k: keys, shape (1, their own heads, T, E).
        cos: cosines of the angles, shape (1, T, E).
        sin: sines of the angles, shape (1, T, E).
        unsqueeze_dim: where the dimension of heads is inserted into cosines and sines.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _rotated(q, cos, sin), _rotated(k, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].sub_(x[..., half:] * sin[..., :half])
    out[..., half:].add_(x[..., :half] * sin[..., half:])
    return out


def fuse_rotary_positions(model: nn.Module) -> None:
    """Make the attention layers of a float32 model on the CPU rotate with fewer passes, where the bits are the same."""
    usable: dict[Any, bool] = {}
    for module in model.modules():
        forward: Any = type(module).forward
        own: Any = getattr(forward, "__globals__", {}).get(_NAME)
        if own is None or not isinstance(forward, FunctionType) or _NAME not in forward.__code__.co_names:
            continue
        if forward.__closure__ is None and usable.setdefault(own, _gives_same_bits(own)):
            names = {**forward.__globals__, _NAME: rotate}
            copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__)
            copy.__kwdefaults__ = forward.__kwdefaults__
            module.forward = MethodType(copy, module)


def _gives_same_bits(own: Rotate) -> bool:
    # Computed numbers instead of random ones, so that the state of torch's generator stays the same.
    values = torch.linspace(-3, 5, 2 * 5 * 16).sin_()
    q, k = values.view(1, 2, 5, 16), values.view(1, 2, 5, 16)[:, :1].cos()
    angles = torch.linspace(0, 9, 5 * 16).view(1, 5, 16)
    try:
        expected = own(q, k, angles.cos(), angles.sin())
    except (TypeError, ValueError, RuntimeError, IndexError):  # a family whose function takes something else
        return False
    return all(torch.equal(a, b) for a, b in zip(rotate(q, k, angles.cos(), angles.sin()), expected, strict=True))
