"""Section with the health of the vectors: lengths, spread, what fewer dimensions or bits lose, and outliers."""

import numpy as np

from data_pipeline.report.blocks import Block, Fact, Facts, Fold, Section, Text, Texts, Verdict
from data_pipeline.report.figures import bars, curves, histograms
from data_pipeline.report.measures import (
    NEIGHBORS,
    agreement_of_codings,
    agreement_of_cuts,
    dense_rows,
    draw_queries,
    effective_dimension,
    isolated_rows,
    random_cosines,
)
from data_pipeline.report.neighbors import Neighbors, nearest_of
from data_pipeline.report.opened import Sample
from data_pipeline.report.projection import Principal
from data_pipeline.types import Float32Array
from data_pipeline.utils import shortened

_BINS = 60
_SHOWN = 20
_TEXT_CHARS = 600
_AROUND = 2
_ANISOTROPIC, _VERY_ANISOTROPIC = 0.5, 0.8
_EQUAL = 1e-3


def health_section(
    sample: Sample, neighbors: Neighbors, principal: Principal, *, is_unit: bool, seed: int = 0
) -> Section:
    """Describe the vectors of a sample.

    Args:
        sample: rows with their vectors.
        neighbors: their nearest neighbours.
        principal: their principal components.
        is_unit: whether the vectors are said to have length 1.
        seed: seed of the draws.
    """
    vectors, rng = sample.vectors, np.random.default_rng(seed)
    assert vectors is not None
    norms, cosines = np.linalg.norm(vectors, axis=1), random_cosines(vectors, rng)
    blocks: list[Block] = [
        Facts(_facts(sample, vectors, norms, cosines, principal, rng, is_unit)),
        _cosines(cosines, neighbors),
    ]
    if np.ptp(norms) > _EQUAL:
        edges = np.linspace(norms.min(), norms.max(), _BINS + 1)
        alt = f"from {norms.min():.4g} to {norms.max():.4g}"
        blocks.append(
            histograms("Lengths of the vectors", alt, edges, {"rows": np.histogram(norms, edges)[0]}, "length")
        )
    blocks += _losses(vectors, rng)
    blocks += [_isolated(sample, neighbors), _dense(sample, neighbors)]
    return Section("vectors", "Health of the vectors", blocks, f"Measured on {sample.described}.")


def _facts(
    sample: Sample,
    vectors: Float32Array,
    norms: Float32Array,
    cosines: Float32Array,
    principal: Principal,
    rng: np.random.Generator,
    is_unit: bool,
) -> list[Fact]:
    mean, off = float(cosines.mean()) if len(cosines) else 0.0, float(np.abs(norms - 1).max(initial=0))
    zeros, dim = int((norms == 0).sum()) - sample.non_finite, vectors.shape[1]
    return [
        Fact("Lengths", f"{norms.min(initial=np.inf):.4f} to {norms.max(initial=0):.4f}",
             "bad" if is_unit and off > 0.01 else "good" if is_unit else "note",
             "should be 1; run elm verify" if is_unit and off > 0.01 else ""),
        Fact("Without direction", f"{zeros:,} vectors are zero, {sample.non_finite:,} are not finite",
             "bad" if zeros or sample.non_finite else "good", "run elm verify" if zeros or sample.non_finite else ""),
        Fact("Anisotropy", f"{mean:.3f}, the mean cosine of random pairs", _judged(mean),
             "cosines tell little apart; compare them by rank" if mean > _ANISOTROPIC else ""),
        Fact("Effective dimension", f"{effective_dimension(vectors, rng):,.1f} of {dim:,} (participation ratio)"),
        Fact("First two components", f"{principal.variances[:2].sum():.1%} of the variance"),
    ]  # fmt: skip


def _judged(anisotropy: float) -> Verdict:
    return "bad" if anisotropy > _VERY_ANISOTROPIC else "check" if anisotropy > _ANISOTROPIC else "good"


def _cosines(cosines: Float32Array, neighbors: Neighbors) -> Block:
    nearest = neighbors.cosines[:, 0] if neighbors.cosines.size else np.zeros(0)
    low = float(min(cosines.min(initial=1), nearest.min(initial=1)))
    edges = np.linspace(np.floor(low * 10) / 10, 1, _BINS + 1)
    counts = {"random pairs": np.histogram(cosines, edges)[0], "nearest neighbour": np.histogram(nearest, edges)[0]}
    means = {
        name: float(values.mean()) if len(values) else 0.0
        for name, values in (("random pairs", cosines), ("nearest", nearest))
    }
    alt = "; ".join(f"{name}: mean {mean:.3f}" for name, mean in means.items())
    return histograms("Cosines of random pairs, and of rows with their nearest neighbour", alt, edges, counts, "cosine")


def _losses(vectors: Float32Array, rng: np.random.Generator) -> list[Block]:
    """Neighbours that stay with fewer dimensions and fewer bits."""
    queries = draw_queries(len(vectors), rng)
    whole = nearest_of(vectors, queries, NEIGHBORS)
    if not whole.rows.size:
        return []
    cuts = {**agreement_of_cuts(vectors, queries, whole), vectors.shape[1]: 1.0}
    codings = agreement_of_codings(vectors, queries, whole)
    of, count = "share that stays", whole.rows.shape[1]
    alt = "; ".join(f"{cut} dimensions: {value:.0%}" for cut, value in cuts.items())
    ordered = sorted(cuts.items())
    line = {"leading dimensions": ([str(cut) for cut, _ in ordered], [round(value, 4) for _, value in ordered])}
    blocks: list[Block] = [
        curves(
            f"The {count} nearest neighbours: how many stay with fewer leading dimensions", alt, line, "dimensions", of
        )
    ]
    words = {"int8": "int8, a quarter of the bytes", "ubinary": "binary, a 32nd of the bytes"}
    kept = {words[name]: round(value, 4) for name, value in codings.items()}
    alt = "; ".join(f"{name}: {value:.0%}" for name, value in kept.items())
    return [*blocks, bars(f"The {count} nearest neighbours: how many stay in fewer bits", alt, kept, of)]


def _isolated(sample: Sample, neighbors: Neighbors) -> Block:
    texts = [
        Text(_cut(sample, row), sample.ids[row], f"cosine {neighbors.cosines[row, 0]:.3f} to its nearest neighbour")
        for row in isolated_rows(neighbors, _SHOWN).tolist()
    ]
    caption = f"The {len(texts)} most isolated texts"
    return Fold(caption, [Texts(caption, texts)])


def _dense(sample: Sample, neighbors: Neighbors) -> Block:
    texts = []
    for row in dense_rows(neighbors, _SHOWN).tolist():
        around = neighbors.rows[row, :_AROUND].tolist()
        others = "".join(f"\n\n{sample.ids[other]}: {_cut(sample, other, 200)}" for other in around)
        note = f"mean cosine {neighbors.cosines[row].mean():.3f} to its {neighbors.rows.shape[1]} nearest neighbours"
        texts.append(Text(_cut(sample, row, 200) + others, sample.ids[row], note))
    caption = f"The {len(texts)} densest spots, each with its nearest texts"
    return Fold(caption, [Texts(caption, texts)])


def _cut(sample: Sample, row: int, limit: int = _TEXT_CHARS) -> str:
    return shortened(sample.texts[row], limit)
