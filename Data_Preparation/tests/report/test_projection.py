import numpy as np
import pytest

from data_pipeline.report.projection import principal_components, umap_projection


def stretched(rows, dim, seed=0):
    """Vectors with variances that fall by half from one direction to the next, in random directions."""
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (rng.normal(size=(rows, dim)) * 0.5 ** np.arange(dim) @ directions + 3).astype(np.float32)


def test_components_are_those_of_the_full_decomposition():
    vectors = stretched(500, 24)
    found = principal_components(vectors, 3)
    centered = vectors - vectors.mean(0)
    _, singular, directions = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(found.components.T * directions[:3], axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(found.variances, (singular**2 / (singular**2).sum())[:3], rtol=1e-4)
    np.testing.assert_allclose(found.project(vectors), centered @ found.components, atol=1e-4)


def test_signs_and_seed_are_fixed():
    vectors = stretched(200, 12)
    one, other = principal_components(vectors), principal_components(vectors.copy())
    assert one.components.tobytes() == other.components.tobytes()
    assert (one.components[np.abs(one.components).argmax(0), [0, 1]] > 0).all()


@pytest.mark.parametrize("vectors", [np.ones((5, 3)), np.ones((1, 3)), np.zeros((0, 3)), np.ones((4, 1))])
def test_too_little_to_project_gives_zeros(vectors):
    found = principal_components(vectors.astype(np.float32))
    assert found.project(vectors.astype(np.float32)).tolist() == [[0, 0]] * len(vectors)
    assert found.variances.tolist() == [0, 0]


@pytest.mark.slow
def test_umap_separates_two_groups_and_is_the_same_again():
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(2, 16), 30, axis=0) * 10 + rng.normal(size=(60, 16))
    found = umap_projection(groups.astype(np.float32), seed=3)
    assert found.shape == (60, 2)
    assert found.tobytes() == umap_projection(groups.astype(np.float32), seed=3).tobytes()
    centers = found[:30].mean(0), found[30:].mean(0)
    inside = max(
        np.linalg.norm(found[:30] - centers[0], axis=1).max(), np.linalg.norm(found[30:] - centers[1], axis=1).max()
    )
    assert np.linalg.norm(centers[0] - centers[1]) > inside
