"""Projections of vectors to few dimensions: principal components, and UMAP with its extra."""

from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.types import Float32Array
from data_pipeline.utils.extras import require

_ITERATIONS = 4
_OVERSAMPLING = 6


@dataclass(frozen=True)
class Principal:
    """Principal components of vectors."""

    mean: Float32Array
    """Mean of the vectors, shape (D,)."""
    components: Float32Array
    """Directions of the largest variance, each of length 1, shape (D, K); the largest entry of each is positive."""
    variances: Float32Array
    """Shares of the total variance, 0 to 1, shape (K,)."""

    def project(self, vectors_ND: Float32Array) -> Float32Array:
        """Project vectors, shape (N, D), on the components, shape (N, K)."""
        # The mean is taken off afterwards, from few numbers.
        return np.asarray(vectors_ND @ self.components - self.mean @ self.components, dtype=np.float32)


def principal_components(vectors_ND: Float32Array, count: int = 2, seed: int = 0) -> Principal:
    """Find the first principal components (Halko et al., "Finding structure with randomness", 2011).

    Args:
        vectors_ND: finite vectors, shape (N, D).
        count: number of components; those beyond N and D are zero.
        seed: seed of the randomized search.
    """
    vectors = torch.from_numpy(np.ascontiguousarray(vectors_ND, dtype=np.float32))
    mean = vectors.mean(0) if len(vectors) else torch.zeros(vectors.shape[1])
    centered = vectors - mean
    components = torch.zeros(vectors.shape[1], count)
    shares = torch.zeros(count)
    possible = min(count, *vectors.shape)
    total = float(centered.square().sum())
    if possible and total > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = min(count + _OVERSAMPLING, *vectors.shape)
            _, singular, directions = torch.pca_lowrank(centered, width, center=False, niter=_ITERATIONS)
        largest = directions.abs().argmax(0)
        signs = torch.sign(directions[largest, torch.arange(width)])
        components[:, :possible] = (directions * torch.where(signs == 0, 1.0, signs))[:, :possible]
        shares[:possible] = singular[:possible].square() / total
    return Principal(mean.numpy(), components.numpy(), shares.numpy())


def umap_projection(vectors_ND: Float32Array, seed: int = 0) -> Float32Array:
    """Project vectors to the plane by UMAP with cosine distances, shape (N, 2).

    Args:
        vectors_ND: finite vectors, shape (N, D), at least 4 rows.
        seed: seed, which also makes UMAP run in one thread.

    Raises:
        MissingExtraError: the extra `umap` is not installed.
    """
    umap = require("umap", "umap", "the UMAP projection")
    neighbors = min(15, len(vectors_ND) - 1)
    # From random positions, since the spectral ones of UMAP fail on very few rows.
    init = "spectral" if len(vectors_ND) > 4 * neighbors else "random"
    model = umap.UMAP(n_neighbors=neighbors, metric="cosine", random_state=seed, n_jobs=1, init=init)
    return np.asarray(model.fit_transform(vectors_ND), dtype=np.float32)
