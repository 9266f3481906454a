import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional

from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.metrics.dynamics import DynamicsConfig, forgetting_events, training_dynamics
from data_pipeline.metrics.small_head import class_numbers, open_inputs, trained_heads

QUICK = DynamicsConfig(epochs=3, seeds=(0, 1))


def two_classes(rows=300, dim=6, seed=0):
    """Rows on both sides of a plane, some of them close to it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dim)).astype(np.float32) * 3 + 5
    return vectors, (vectors[:, 0] + vectors[:, 1] > 10).astype(np.int64)


def heads_of(vectors, labels, config, seed=0):
    inputs = open_inputs(vectors, "cpu")
    numbers, classes = class_numbers(labels, len(vectors))
    return inputs, trained_heads(inputs, np.arange(len(vectors)), numbers, classes, config, seed)


@pytest.mark.parametrize("hidden", [0, 5])
def test_el2n_and_grand_are_those_of_autograd(hidden):
    vectors, labels = two_classes(60)
    labels[:20] += 2
    config = DynamicsConfig(epochs=2, early_epoch=2, seeds=(7,), hidden=hidden)
    found = training_dynamics(vectors, labels, config)
    _, heads = heads_of(vectors, labels, config, 7)
    *_, head = heads
    numbers = np.unique(labels, return_inverse=True)[1]
    for row, (vector, label) in enumerate(zip(torch.from_numpy(vectors), torch.from_numpy(numbers), strict=True)):
        logits = head(vector[None])
        loss = functional.cross_entropy(logits, label[None])
        gradients = torch.autograd.grad(loss, list(head.last.parameters()))
        length = torch.cat([part.flatten() for part in gradients]).norm().item()
        error = logits.softmax(dim=1)[0].detach().numpy() - np.eye(4)[label]
        assert found["grand"][row] == pytest.approx(length, rel=1e-4)
        assert found["el2n"][row] == pytest.approx(np.linalg.norm(error), rel=1e-4)
        assert found["loss"][row] == pytest.approx(loss.item(), rel=1e-4)


def test_of_a_linear_head_grand_is_the_gradient_of_all_weights():
    vectors, labels = two_classes(40)
    inputs, heads = heads_of(vectors, labels, QUICK)
    head = next(heads)
    assert {name for name, _ in head.named_parameters()} == {"last.weight", "last.bias"}
    standardised = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    np.testing.assert_allclose(head.inner(torch.from_numpy(vectors)).numpy(), standardised, atol=1e-5)
    np.testing.assert_allclose(inputs.mean.numpy(), vectors.mean(axis=0), rtol=1e-5)


def test_forgetting_and_margin_by_the_looks_themselves():
    vectors, labels = two_classes(200)
    config = DynamicsConfig(epochs=6, seeds=(3, 4), learning_rate=1)  # so high that rows are forgotten
    found = training_dynamics(vectors, labels, config)
    expected, margins = np.zeros(200), np.zeros(200)
    for seed in config.seeds:
        rights = []
        for head in heads_of(vectors, labels, config, seed)[1]:
            logits = head(torch.from_numpy(vectors)).detach().numpy()
            rights.append(logits.argmax(axis=1) == labels)
            margins += (logits[:, 1] - logits[:, 0]) * (2 * labels - 1) / 12
        for row in range(200):
            seen = [right[row] for right in rights]
            events = sum(seen[look] and not seen[look + 1] for look in range(5))
            expected[row] += (events if any(seen) else 6) / 2
    assert found["forgetting"].tolist() == expected.tolist()
    assert expected.max() > 0
    np.testing.assert_allclose(found["margin"], margins, rtol=1e-4, atol=1e-4)


@given(st.lists(st.text("01", min_size=4, max_size=4), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_forgetting_events(histories):
    rights = np.array([[look == "1" for look in history] for history in histories]).T
    assert forgetting_events(rights).tolist() == [history.count("10") if "1" in history else 4 for history in histories]


def test_every_row_gets_a_number():
    # An earlier system stopped after 1000 steps and gave rows it had not seen a 0.
    vectors, labels = two_classes(900, dim=3)
    found = training_dynamics(vectors, labels, DynamicsConfig(epochs=1, seeds=(0,), batch_size=8))
    for column in ("el2n", "grand", "loss"):
        assert found[column].shape == (900,)
        assert found[column].dtype == np.float64
        assert (found[column] > 0).all()
    assert np.isfinite(np.stack(list(found.values()))).all()


def test_wrong_labels_are_the_hardest():
    vectors, labels = two_classes(600)
    wrong = np.random.default_rng(1).choice(600, 12, replace=False)
    labels[wrong] = 1 - labels[wrong]
    found = training_dynamics(vectors, labels, DynamicsConfig(early_epoch=3))
    for column, sign in (("el2n", 1), ("loss", 1), ("forgetting", 1), ("margin", -1)):
        scores = sign * found[column]
        assert np.median(scores[wrong]) > np.quantile(scores, 0.95)


def test_scores_are_means_over_seeds_and_repeatable(tmp_path):
    vectors, labels = two_classes()
    both = training_dynamics(vectors, labels, QUICK)
    each = [training_dynamics(vectors, labels, DynamicsConfig(epochs=3, seeds=(seed,))) for seed in (0, 1)]
    assert not np.array_equal(each[0]["el2n"], each[1]["el2n"])
    for column, values in both.items():
        np.testing.assert_allclose(values, (each[0][column] + each[1][column]) / 2, rtol=1e-12)
    np.save(tmp_path / "v.npy", vectors)
    torch.rand(3)  # the global state is not looked at
    state = torch.get_rng_state()
    for same in (np.load(tmp_path / "v.npy", mmap_mode="r"), torch.from_numpy(vectors)):
        again = training_dynamics(same, labels, QUICK)
        assert all(np.array_equal(again[column], both[column]) for column in both)
    assert torch.equal(torch.get_rng_state(), state)


def test_enormous_numbers_are_numbers():
    vectors, labels = two_classes()
    found = training_dynamics(vectors * np.float32(1e37), labels, QUICK)
    same = training_dynamics(vectors, labels, QUICK)
    assert all(np.isfinite(found[column]).all() for column in found)
    np.testing.assert_allclose(found["el2n"], same["el2n"], rtol=1e-2)


def test_labels_are_any_whole_numbers():
    vectors, labels = two_classes()
    one, other = training_dynamics(vectors, labels, QUICK), training_dynamics(vectors, labels * 10 - 3, QUICK)
    assert all(np.array_equal(one[column], other[column]) for column in one)


def test_what_cannot_be_learnt_is_refused():
    vectors, labels = two_classes(20)
    for wrong, message in (
        (labels[:19], r"found int64 of shape \(19,\)"),
        (labels.astype(float), "found float64"),
        (np.ones(20, int), "all rows have the label 1"),
    ):
        with pytest.raises(SelectionError, match=message):
            training_dynamics(vectors, wrong, QUICK)
    broken = vectors.copy()
    broken[13, 2] = np.inf
    with pytest.raises(SelectionError, match="embedding of row 13 is NaN or infinite"):
        training_dynamics(broken, labels, QUICK)
    with pytest.raises(SelectionError, match=r"found \(0, 6\)"):
        training_dynamics(vectors[:0], labels[:0], QUICK)
    with pytest.raises(ConfigError):
        training_dynamics(vectors, labels, DynamicsConfig(device="cuda:77"))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"early_epoch": 6}, {"seeds": ()}, {"hidden": -1}, {"learning_rate": 2}]
)
def test_impossible_trainings_are_refused(wrong):
    with pytest.raises(ValidationError):
        DynamicsConfig(**wrong)
