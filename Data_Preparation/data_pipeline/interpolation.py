"""Vectors on the way from one vector to another."""

from typing import Literal

import torch
from torch import Tensor

Method = Literal["linear", "slerp"]


def interpolate(start: Tensor, end: Tensor, alpha: float, method: Method, normalize: bool) -> Tensor:
    """The vector at a share of the way; see `ELMDataset.interpolate_embeddings`.

    Args:
        start: shape (D,); alpha 0.
        end: shape (D,); alpha 1.
        alpha: how far, 0 to 1.
        method: `linear`, or `slerp` along the great circle.
        normalize: scale the result to length 1.

    Returns:
        Shape (D,), in the dtype of `start`; computed in float64.

    Raises:
        ValueError: alpha or method is out of range, or the way is undefined.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if method not in ("linear", "slerp"):
        raise ValueError(f"method must be linear or slerp, got {method!r}")
    way = _slerp if method == "slerp" else torch.lerp
    between = way(start.to(torch.float64), end.to(torch.float64), alpha)
    if normalize:
        length = between.norm()
        if length < 1e-12:
            raise ValueError(f"the point at alpha {alpha} has length 0 and no direction")
        between = between / length
    return between.to(start.dtype)


def _slerp(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    lengths = start.norm(), end.norm()
    if min(lengths) < 1e-12:
        raise ValueError("slerp needs vectors with a direction; one of them has length 0")
    first, second = start / lengths[0], end / lengths[1]
    cosine = torch.dot(first, second).clamp(-1, 1)
    if cosine < -1 + 1e-9:
        raise ValueError("slerp between opposite vectors is not defined: every great circle joins them")
    angle = torch.acos(cosine)
    length = torch.lerp(lengths[0], lengths[1], alpha)
    if angle < 1e-6:  # sin(angle) would cancel; the arc is straight here
        return torch.lerp(first, second, alpha) * length
    return (torch.sin((1 - alpha) * angle) * first + torch.sin(alpha * angle) * second) / torch.sin(angle) * length
