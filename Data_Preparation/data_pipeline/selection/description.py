"""What a subset is like beside all rows: how well it covers them, and where it drifts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.selection.features import Features
from data_pipeline.selection.vectors import Vectors, squared
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import in_float64

_SAMPLE = 6000  # rows, at most, whose distances give the MMD
_NEAR = 0.95  # cosine from which two rows count as near duplicates


def describe(features: Features, rows: IntArray, *, others: Features | None = None, seed: int = 0) -> dict[str, Any]:
    """Numbers of a subset, as JSON values; those whose feature is not there are left out.

    | name | what it is |
    |---|---|
    | `kcenter_radius`, `mean_distance` | largest and mean Euclidean distance of a row to its nearest selected one |
    | `mean_deviation` | length of the difference of the mean vectors |
    | `mmd2` | squared maximum mean discrepancy, RBF kernel of median width, of a sample (Gretton et al., 2012) |
    | `label_shares`, `label_drift` | share of each label; total variation distance to that of all rows, 0 to 1 |
    | `mean_tokens`, `length_ratio` | of a selected row; beside that of all rows |
    | `length_drift` | Kolmogorov-Smirnov distance of the token counts, 0 to 1 |
    | `overlap_with_random` | share that a random subset of the size has in common; `overlap_expected`: by chance |
    | `near_duplicates_of_others` | selected rows of a cosine of 0.95 or more to a row of `others`; and of all rows |

    Args:
        features: of all rows.
        rows: the subset, positions among them.
        others: rows kept apart, such as the dev split; with embeddings of the same model.
        seed: of samples.

    Raises:
        SelectionError: an embedding is NaN or infinite.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {"rows": len(rows), "of": len(features)}
    if features.embeddings is not None:
        vectors = _opened(features.vectors())
        found |= _coverage(vectors, rows) | {"mmd2": _mmd2(vectors, rows, rng)}
    if features.labels is not None:
        found |= _labels(features.labels, rows)
    if features.token_counts is not None:
        found |= _lengths(features.token_counts, rows)
    random = np.random.default_rng([seed, 1]).choice(len(features), len(rows), replace=False)
    found["overlap_with_random"] = len(np.intersect1d(random, rows)) / max(1, len(rows))
    found["overlap_expected"] = len(rows) / len(features)
    if others is not None and features.embeddings is not None:
        near = near_rows(features.vectors(), others.vectors())
        found["near_duplicates_of_others"] = {"selected": int(near[rows].sum()), "all": int(near.sum())}
    return {name: _rounded(value) for name, value in found.items()}


def _opened(source: NDArray[Any] | torch.Tensor, unit: bool = False) -> Vectors:
    return Vectors(source, source.device if isinstance(source, torch.Tensor) else torch.device("cpu"), unit)


def _coverage(vectors: Vectors, rows: IntArray) -> dict[str, float]:
    chosen = vectors.rows(rows)
    norms = squared(chosen)
    largest = total = 0.0
    for _, block in vectors.blocks():
        # Products, not differences: a block by block matrix of distances, of which only the smallest is kept.
        nearest = torch.addmm(norms, block, chosen.T, alpha=-2).amin(dim=1) + squared(block)
        distances = nearest.clamp_(min=0).sqrt_()
        largest = max(largest, float(distances.max()))
        total += float(in_float64(distances).sum())
    deviation = vectors.mean() - in_float64(chosen).mean(dim=0).cpu().numpy()
    return {
        "kcenter_radius": largest,
        "mean_distance": total / len(vectors),
        "mean_deviation": float(np.linalg.norm(deviation)),
    }


def _mmd2(vectors: Vectors, rows: IntArray, rng: np.random.Generator) -> float | None:
    """None where there are too few rows."""
    sides = [np.arange(len(vectors)), rows]
    sides = [np.sort(rng.choice(side, min(_SAMPLE, len(side)), replace=False)) for side in sides]
    if min(map(len, sides)) < 2:
        return None
    one, other = (vectors.rows(side) for side in sides)
    width = torch.pdist(one[:1000]).median().square()
    if not width:
        return 0.0

    def kernel(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(left, right).square() / width)

    def within(side: torch.Tensor) -> float:
        count = len(side)
        return float((in_float64(kernel(side, side)).sum() - count) / (count * (count - 1)))

    # Rows that are on both sides are no draws of their own: their kernel of 1 with themselves is left out.
    shared = len(np.intersect1d(sides[0], sides[1]))
    across = (float(in_float64(kernel(one, other)).sum()) - shared) / (len(one) * len(other) - shared)
    return within(one) + within(other) - 2 * across


def _labels(labels: IntArray, rows: IntArray) -> dict[str, Any]:
    values = np.unique(labels)
    whole, part = (np.array([(side == value).mean() for value in values]) for side in (labels, labels[rows]))
    return {
        "label_shares": {str(value): float(share) for value, share in zip(values.tolist(), part, strict=True)},
        "label_drift": float(np.abs(whole - part).sum() / 2),
    }


def _lengths(token_counts: IntArray, rows: IntArray) -> dict[str, float]:
    whole, part = np.sort(token_counts), np.sort(token_counts[rows])
    points = np.unique(whole)
    steps = [np.searchsorted(side, points, side="right") / len(side) for side in (whole, part)]
    return {
        "mean_tokens": float(part.mean()),
        "length_ratio": float(part.mean() / max(whole.mean(), 1e-12)),
        "length_drift": float(np.abs(steps[0] - steps[1]).max()),
    }


def near_rows(vectors: NDArray[Any] | torch.Tensor, others: NDArray[Any] | torch.Tensor) -> NDArray[np.bool_]:
    """Which rows have a cosine of 0.95 or more to one of the others, shape (N,).

    Args:
        vectors: shape (N, D).
        others: shape (M, D), of the same model.
    """
    near = np.zeros(len(vectors), bool)
    apart = _opened(others, unit=True)
    for place, block in _opened(vectors, unit=True).blocks():
        for _, kept in apart.blocks():
            near[place] |= ((block @ kept.T).amax(dim=1) >= _NEAR).cpu().numpy()
    return near


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
