"""Interpolation between vectors, and mixup of a batch."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from data_pipeline.utils.devices import in_float64

Method = Literal["linear", "slerp"]


def interpolate(start: Tensor, end: Tensor, alpha: float | Tensor, method: Method, normalize: bool) -> Tensor:
    """Interpolate between vectors; see `ELMDataset.interpolate_embeddings`.

    Args:
        start: vectors at alpha 0, shape (..., D).
        end: vectors at alpha 1, shape (..., D).
        alpha: position between start and end, 0 to 1; one number, or one for each vector, shape (...).
        method: `linear`, or `slerp` along the great circle.
        normalize: scale the results to length 1.

    Returns:
        Shape (..., D), in the dtype of `start`; computed in float64.

    Raises:
        ValueError: alpha or method is out of range, or the path is undefined.
    """
    if method not in ("linear", "slerp"):
        raise ValueError(f"method must be linear or slerp, got {method!r}")
    first, last = in_float64(start), in_float64(end)
    share = shares_of(alpha).to(first.device)
    outside = ~((share >= 0) & (share <= 1))
    if outside.any():
        raise ValueError(f"alpha must be between 0 and 1, got {share[outside].flatten()[0].item():g}")
    share = share.unsqueeze(-1)
    path = _slerp if method == "slerp" else torch.lerp
    between = path(first, last, share)
    if normalize:
        lengths = between.norm(dim=-1, keepdim=True)
        if (lengths < 1e-12).any():
            raise ValueError("a point on the way has length 0 and no direction")
        between = between / lengths
    return between.to(start.dtype).to(start.device)


def shares_of(alpha: float | Tensor | ArrayLike) -> Tensor:
    """Positions between start and end as a float64 tensor, on a device that has float64."""
    return in_float64(alpha) if isinstance(alpha, Tensor) else torch.as_tensor(alpha, dtype=torch.float64)


def mixup(
    vectors: Tensor,
    concentration: float = 0.2,
    method: Method = "linear",
    normalize: bool = False,
    rng: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix every vector of a batch with another vector of the batch, as in mixup (Zhang et al., 2018).

    Args:
        vectors: shape (N, D).
        concentration: parameter of the Beta distribution of the shares, above 0; the smaller it is,
            the closer the mixtures are to one of the two vectors.
        method: see `interpolate`.
        normalize: scale the results to length 1.
        rng: random number generator; None for one with a fresh seed.

    Returns:
        The mixtures, shape (N, D); the partner of each row, shape (N,), int64; the share of the row
        itself in its mixture, shape (N,), from 0.5 to 1. Labels are mixed as
        `shares * labels + (1 - shares) * labels[partners]`.

    Raises:
        ValueError: concentration is not above 0, or a mixture is undefined.
    """
    if not concentration > 0:
        raise ValueError(f"concentration must be above 0, got {concentration}")
    rng = rng or np.random.default_rng()
    partners = torch.from_numpy(rng.permutation(len(vectors)))
    shares = torch.from_numpy(rng.beta(concentration, concentration, len(vectors)))
    # The pair (i, j) is as likely as (j, i): the larger share can stay with the row itself.
    shares = torch.maximum(shares, 1 - shares)
    mixed = interpolate(vectors, vectors[partners.to(vectors.device)], 1 - shares, method, normalize)
    return mixed, partners, shares.to(torch.float32)


def _slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    start_length, end_length = (vectors.norm(dim=-1, keepdim=True) for vectors in (start, end))
    if (torch.minimum(start_length, end_length) < 1e-12).any():
        raise ValueError("slerp needs vectors with a direction; one of them has length 0")
    first, second = start / start_length, end / end_length
    cosine = (first * second).sum(dim=-1, keepdim=True).clamp(-1, 1)
    if (cosine < -1 + 1e-9).any():
        raise ValueError("slerp between opposite vectors is undefined: infinitely many great circles join them")
    angle = torch.acos(cosine)
    length = torch.lerp(start_length, end_length, share)
    is_straight = angle < 1e-6  # dividing by sin(angle) would lose precision
    sine = torch.where(is_straight, torch.ones_like(angle), torch.sin(angle))
    arc = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / sine
    return torch.where(is_straight, torch.lerp(first, second, share), arc) * length
