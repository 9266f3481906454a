import numpy as np
import pytest

from data_pipeline.embeddings.probes import PROBES, SKETCH_TOLERANCE, short_sketch, sketch_loss, sketch_of


def vectors(seed=0, dim=384):
    return np.random.default_rng(seed).standard_normal((len(PROBES), dim)).astype(np.float32)


def turned(source, loss):
    """Vectors at a cosine of 1 - loss to others."""
    lengths = np.linalg.norm(source, axis=1, keepdims=True)
    other = vectors(1, source.shape[1])
    other -= source * (source * other).sum(axis=1, keepdims=True) / lengths**2
    other *= lengths / np.linalg.norm(other, axis=1, keepdims=True)
    return ((1 - loss) * source + np.sqrt(1 - (1 - loss) ** 2) * other).astype(np.float32)


@pytest.mark.parametrize("dim", [16, 384, 3072])
@pytest.mark.parametrize("loss", [1e-4, 1e-3, 1e-2, 0.3])
def test_a_sketch_keeps_the_cosine_of_two_models(dim, loss):
    source = vectors(dim=dim)
    found = sketch_loss(sketch_of(source), sketch_of(turned(source, loss)))
    assert 0.5 * loss < found < 2 * loss


def test_rounding_and_lengths_do_not_count():
    source = vectors()
    noisy = (source * 7 * (1 + np.random.default_rng(2).normal(0, 2**-8, source.shape))).astype(np.float32)  # bfloat16
    assert sketch_loss(sketch_of(source), sketch_of(noisy)) < SKETCH_TOLERANCE / 10
    assert sketch_of(source) == sketch_of(source)
    assert len(sketch_of(source)) == 512


def test_the_same_vectors_have_the_same_sketch_in_every_version():
    source = np.arange(1, 3 * 8 + 1, dtype=np.float32).reshape(3, 8)
    assert short_sketch(sketch_of(source)) == "9a3043c36ccf"


@pytest.mark.parametrize("other", ["", "AAAA", "not base64", sketch_of(vectors())[:-8], sketch_of(vectors()[:2])])
def test_what_cannot_be_compared_is_another_model(other):
    assert sketch_loss(sketch_of(vectors()), other) == 2.0


def test_zeros_and_nan_are_another_model():
    source = vectors()
    spoiled = source.copy()
    spoiled[1] = 0
    assert sketch_loss(sketch_of(source), sketch_of(spoiled)) >= 1
    spoiled[1] = np.nan
    assert sketch_loss(sketch_of(source), sketch_of(spoiled)) == 2.0
