"""Description of a subset relative to all rows: how well it covers them, and how its distribution shifts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.selection.features import Features
from data_pipeline.selection.vectors import VectorBlocks, squared
from data_pipeline.types import IntArray
from data_pipeline.utils.devices import in_float64

_MMD_ROWS = 6000  # sampled for the MMD at most, whose cost is quadratic
_NEAR_DUPLICATE = 0.95  # cosine


def describe(features: Features, rows: IntArray, *, others: Features | None = None, seed: int = 0) -> dict[str, Any]:
    """Describe a subset in numbers, as JSON values; numbers whose feature is missing are left out.

    | name | meaning |
    |---|---|
    | `kcenter_radius`, `mean_distance` | largest and mean Euclidean distance of a row to its nearest selected row |
    | `mean_deviation` | length of the difference of the mean embeddings |
    | `mmd2` | squared maximum mean discrepancy, RBF kernel of median width, of a sample (Gretton et al., 2012) |
    | `label_shares`, `label_drift` | share of each label; total variation distance to that of all rows, 0 to 1 |
    | `mean_tokens`, `length_ratio` | mean tokens of a selected row; ratio to the mean of all rows |
    | `length_drift` | Kolmogorov-Smirnov distance of the token counts, 0 to 1 |
    | `overlap_with_random` | fraction shared with a random subset of the same size; `overlap_expected`: by chance |
    | `near_duplicates_of_others` | rows with a cosine of 0.95 or more to a row of `others`, selected and all |

    Args:
        features: Features of all rows.
        rows: Shape (K,), positions of the selected rows.
        others: Features of rows kept apart, such as the dev split, with embeddings of the same model.
        seed: Seed of the samples.

    Raises:
        SelectionError: An embedding is NaN or infinite.
    """
    rng = np.random.default_rng(seed)
    numbers: dict[str, Any] = {"rows": len(rows), "of": len(features)}
    if features.embeddings is not None:
        vectors = _open_blocks(features.vectors())
        numbers |= _coverage(vectors, rows) | {"mmd2": _mmd2(vectors, rows, rng)}
    if features.labels is not None:
        numbers |= _label_shift(features.labels, rows)
    if features.token_counts is not None:
        numbers |= _length_shift(features.token_counts, rows)
    random = np.random.default_rng([seed, 1]).choice(len(features), len(rows), replace=False)
    numbers["overlap_with_random"] = len(np.intersect1d(random, rows)) / max(1, len(rows))
    numbers["overlap_expected"] = len(rows) / len(features)
    if others is not None and features.embeddings is not None:
        near = near_rows(features.vectors(), others.vectors())
        numbers["near_duplicates_of_others"] = {"selected": int(near[rows].sum()), "all": int(near.sum())}
    return {name: _rounded(value) for name, value in numbers.items()}


def _open_blocks(source: NDArray[Any] | torch.Tensor, unit: bool = False) -> VectorBlocks:
    return VectorBlocks(source, source.device if isinstance(source, torch.Tensor) else torch.device("cpu"), unit)


def _coverage(vectors: VectorBlocks, rows: IntArray) -> dict[str, float]:
    selected = vectors.rows(rows)
    norms = squared(selected)
    largest = total = 0.0
    for _, block in vectors.blocks():
        # Products, not differences: the matrix of distances is never larger than a block by the selected rows.
        nearest = torch.addmm(norms, block, selected.T, alpha=-2).amin(dim=1) + squared(block)
        distances = nearest.clamp_(min=0).sqrt_()
        largest = max(largest, float(distances.max()))
        total += float(in_float64(distances).sum())
    deviation = vectors.mean() - in_float64(selected).mean(dim=0).cpu().numpy()
    return {
        "kcenter_radius": largest,
        "mean_distance": total / len(vectors),
        "mean_deviation": float(np.linalg.norm(deviation)),
    }


def _mmd2(vectors: VectorBlocks, rows: IntArray, rng: np.random.Generator) -> float | None:
    """Squared maximum mean discrepancy between all rows and the selected ones; None with fewer than two rows."""
    sides = [np.arange(len(vectors)), rows]
    sides = [np.sort(rng.choice(side, min(_MMD_ROWS, len(side)), replace=False)) for side in sides]
    if min(map(len, sides)) < 2:
        return None
    all_rows, selected = (vectors.rows(side) for side in sides)
    width = torch.pdist(all_rows[:1000]).median().square()
    if not width:
        return 0.0

    def kernel(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.cdist(left, right).square() / width)

    def within(side: torch.Tensor) -> float:
        count = len(side)
        return float((in_float64(kernel(side, side)).sum() - count) / (count * (count - 1)))

    # Rows on both sides are not independent draws: their kernel of 1 with themselves is left out.
    shared = len(np.intersect1d(sides[0], sides[1]))
    across = (float(in_float64(kernel(all_rows, selected)).sum()) - shared) / (len(all_rows) * len(selected) - shared)
    return within(all_rows) + within(selected) - 2 * across


def _label_shift(labels: IntArray, rows: IntArray) -> dict[str, Any]:
    values = np.unique(labels)
    whole, part = (np.array([(side == value).mean() for value in values]) for side in (labels, labels[rows]))
    return {
        "label_shares": {str(value): float(share) for value, share in zip(values.tolist(), part, strict=True)},
        "label_drift": float(np.abs(whole - part).sum() / 2),
    }


def _length_shift(token_counts: IntArray, rows: IntArray) -> dict[str, float]:
    whole, part = np.sort(token_counts), np.sort(token_counts[rows])
    points = np.unique(whole)
    steps = [np.searchsorted(side, points, side="right") / len(side) for side in (whole, part)]
    return {
        "mean_tokens": float(part.mean()),
        "length_ratio": float(part.mean() / max(whole.mean(), 1e-12)),
        "length_drift": float(np.abs(steps[0] - steps[1]).max()),
    }


def near_rows(vectors: NDArray[Any] | torch.Tensor, others: NDArray[Any] | torch.Tensor) -> NDArray[np.bool_]:
    """Whether each row has a cosine of 0.95 or more to one of the other rows.

    Args:
        vectors: Shape (N, D).
        others: Shape (M, D), embeddings of the same model.

    Returns:
        Shape (N,).
    """
    near = np.zeros(len(vectors), bool)
    other_blocks = _open_blocks(others, unit=True)
    for block_slice, block in _open_blocks(vectors, unit=True).blocks():
        for _, other_block in other_blocks.blocks():
            near[block_slice] |= ((block @ other_block.T).amax(dim=1) >= _NEAR_DUPLICATE).cpu().numpy()
    return near


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
