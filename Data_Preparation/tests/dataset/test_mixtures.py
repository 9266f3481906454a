import math

import numpy as np
import pytest
import torch
from support.builders import JOINED, ROWS, make

from data_pipeline import ELMDataset, interpolate, mixup


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ELMDataset(make(tmp_path_factory.mktemp("made"), JOINED))


def slow_slerp(first, second, share):
    """By the angle between two vectors, in Python's own numbers."""
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in (first, second)]
    first, second = ([x / n for x in vector] for vector, n in zip((first, second), lengths, strict=True))
    angle = math.acos(max(-1, min(1, sum(a * b for a, b in zip(first, second, strict=True)))))
    parts = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    length = lengths[0] + share * (lengths[1] - lengths[0])
    return [length * (parts[0] * a + parts[1] * b) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_batch_is_its_single_ones_and_those_are_the_formula(dataset, method, normalize):
    generator = np.random.default_rng(0)
    starts, ends = generator.permutation(ROWS)[:20], generator.permutation(ROWS)[20:40]
    starts[0], ends[0] = 3, 4
    shares = generator.uniform(size=20)
    shares[:2] = 0, 1
    batch = dataset.interpolate_embeddings(starts, ends, shares, method, normalize)
    assert (batch.shape, batch.dtype) == ((20, 256), torch.float32)
    for row in range(20):
        i, j, share = int(starts[row]), int(ends[row]), float(shares[row])
        single = dataset.interpolate_embeddings(i, j, share, method, normalize)
        assert torch.equal(single, batch[row])
        first, second = (dataset[k]["embedding"].double().tolist() for k in (i, j))
        if method == "slerp" and i != j:
            expected = torch.tensor(slow_slerp(first, second, share))
        else:
            expected = torch.tensor([(1 - share) * a + share * b for a, b in zip(first, second, strict=True)])
        expected = expected / expected.norm() if normalize else expected
        torch.testing.assert_close(single, expected.float(), atol=1e-6, rtol=0)


def test_a_single_argument_goes_with_all_the_others(dataset):
    many = dataset.interpolate_embeddings([3, 3, 3], [4, 4, 4], [0.1, 0.2, 0.3])
    assert torch.equal(dataset.interpolate_embeddings(3, 4, [0.1, 0.2, 0.3]), many)
    shares = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(dataset.interpolate_embeddings(3, [4, 4, 4], shares), many)
    way = dataset.interpolate_embeddings(3, 4, np.linspace(0, 1, 5), "slerp")
    torch.testing.assert_close(way[[0, -1]], dataset.get_batch([3, 4])["embedding"])
    # A great circle at constant speed: all steps are equally long.
    steps = (way[1:].double() - way[:-1].double()).norm(dim=1)
    torch.testing.assert_close(steps, steps.mean().expand(4), atol=1e-6, rtol=0)
    one = dataset.interpolate_embeddings([-1], [0], 0.5)
    assert one.shape == (1, 256)
    assert torch.equal(one[0], dataset.interpolate_embeddings(ROWS - 1, 0, 0.5))
    assert dataset.interpolate_embeddings([], [], 0.5).shape == (0, 256)


def test_interpolating_selected_rows_and_fewer_dimensions(dataset):
    view = dataset.select([9, 7, 5])
    assert torch.equal(view.interpolate_embeddings([0, 2], 1, 0.3), dataset.interpolate_embeddings([9, 5], 7, 0.3))
    narrow = ELMDataset(dataset.processed_dir.parent, dim=16, dtype=torch.float64)
    found = narrow.interpolate_embeddings([0, 1], [2, 3], [0.3, 0.9], "slerp")
    assert (found.shape, found.dtype) == ((2, 16), torch.float64)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_one_bad_row_of_a_batch_is_an_error(dataset):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 1.5"):
        dataset.interpolate_embeddings([1, 2], [3, 4], [0.5, 1.5])
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got nan"):
        dataset.interpolate_embeddings([1, 2], [3, 4], [math.nan, 0.5])
    with pytest.raises(ValueError, match=r"rows \[1, 2\] and \[3, 4, 5\]"):
        dataset.interpolate_embeddings([1, 2], [3, 4, 5], 0.5)
    with pytest.raises(IndexError, match="index 165"):
        dataset.interpolate_embeddings([1, 165], 3, 0.5)
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    with pytest.raises(ValueError, match="opposite vectors"):
        interpolate(vectors, torch.tensor([[0, 1.0], [1, 0], [-1, 0]]), 0.5, "slerp", True)


def test_ways_in_a_batch_do_not_change_each_other():
    # One pair is the same vector, one a hair apart, one at a right angle: each takes its own formula.
    starts = torch.tensor([[1.0, 0], [1, 0], [2, 0]])
    ends = torch.tensor([[1.0, 0], [1, 1e-7], [0, 4]])
    found = interpolate(starts, ends, torch.tensor([0.5, 0.5, 1 / 3]), "slerp", False)
    angle = math.pi / 6
    length = 2 + 2 / 3
    expected = [[1, 0], [1, 5e-8], [length * math.cos(angle), length * math.sin(angle)]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    assert starts.tolist() == [[1, 0], [1, 0], [2, 0]]


# Mixup


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mixtures_are_those_of_the_partners_and_shares_that_are_given_back(dataset, method, normalize):
    vectors = dataset.get_batch(range(40))["embedding"]
    mixed, partners, shares = mixup(vectors, 0.4, method, normalize, np.random.default_rng(0))
    assert (mixed.shape, mixed.dtype, partners.dtype, shares.dtype) == (
        (40, 256), torch.float32, torch.int64, torch.float32
    )  # fmt: skip
    assert sorted(partners.tolist()) == list(range(40))
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    expected = interpolate(vectors, vectors[partners], 1 - shares.double(), method, normalize)
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=0)
    if method == "linear" and not normalize:
        by_hand = shares[:, None] * vectors + (1 - shares)[:, None] * vectors[partners]
        torch.testing.assert_close(mixed, by_hand, atol=1e-6, rtol=0)


def test_the_same_numbers_give_the_same_mixtures_and_fresh_ones_others(dataset):
    vectors = dataset.get_batch(range(40))["embedding"]
    before = vectors.clone()
    first, second = (mixup(vectors, rng=np.random.default_rng(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(mixup(vectors)[0], mixup(vectors)[0])
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("concentration", [0.1, 0.2, 1.0, 5.0])
def test_shares_follow_the_larger_half_of_a_beta_distribution(concentration):
    rng = np.random.default_rng(0)
    shares = mixup(torch.ones(20_000, 2), concentration, rng=rng)[2].numpy()
    expected = np.random.default_rng(1).beta(concentration, concentration, 200_000)
    expected = np.maximum(expected, 1 - expected)
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(shares, quantile) == pytest.approx(np.quantile(expected, quantile), abs=0.02)


def test_mixing_one_row_or_none_and_what_cannot_be():
    mixed, partners, _ = mixup(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(mixed, torch.tensor([[3.0, 4.0]]))
    assert partners.tolist() == [0]
    assert mixup(torch.zeros(0, 5))[0].shape == (0, 5)
    for concentration in (0, -1, math.nan):
        with pytest.raises(ValueError, match="concentration must be above 0"):
            mixup(torch.ones(2, 2), concentration)
