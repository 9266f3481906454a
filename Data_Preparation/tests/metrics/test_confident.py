import sys

import numpy as np
import pytest

from data_pipeline.errors import MissingExtraError, SelectionError
from data_pipeline.metrics.confident import (
    ConfidentConfig,
    _folds,
    confident_learning,
    out_of_fold_probabilities,
)

DEFAULT = ConfidentConfig()


def three_classes(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=rows)
    return (4 * np.eye(5)[labels] + rng.normal(size=(rows, 5))).astype(np.float32), labels


def needs_cleanlab():
    pytest.importorskip("cleanlab", reason="needs the package cleanlab (extra selection)")


def test_planted_wrong_labels_are_found():
    needs_cleanlab()
    vectors, right = three_classes()
    wrong = np.random.default_rng(1).choice(600, 30, replace=False)
    labels = right.copy()
    labels[wrong] = (labels[wrong] + 1) % 3
    found = confident_learning(vectors, labels, DEFAULT)
    assert {name: values.dtype for name, values in found.items()} == {"label_quality": float, "label_issue": float}
    issues = np.flatnonzero(found["label_issue"])
    assert set(found["label_issue"]) == {0, 1}
    assert len(set(issues) & set(wrong)) >= 27
    assert len(set(issues) - set(wrong)) <= 6
    assert 0 <= found["label_quality"].min() < found["label_quality"].max() <= 1
    assert np.isin(np.argsort(found["label_quality"])[:25], wrong).mean() > 0.9
    again = confident_learning(vectors, labels, DEFAULT)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_the_quality_is_the_probability_of_the_own_label():
    needs_cleanlab()
    vectors, labels = three_classes(90)
    chances = out_of_fold_probabilities(vectors, labels, DEFAULT)
    quality = confident_learning(vectors, labels * 7, DEFAULT)["label_quality"]
    np.testing.assert_allclose(quality, chances[np.arange(90), labels])


def test_no_head_has_seen_the_row_it_is_asked_about():
    vectors, labels = three_classes(90)
    before = out_of_fold_probabilities(vectors, labels, DEFAULT)
    np.testing.assert_allclose(before.sum(axis=1), 1)
    folds = _folds(labels, DEFAULT, None)
    part = np.flatnonzero(folds == 2)
    pair = part[0], next(row for row in part if labels[row] != labels[part[0]])
    changed = labels.copy()
    changed[list(pair)] = labels[list(pair[::-1])]
    assert (_folds(changed, ConfidentConfig(folds=2), None) >= 0).all()
    # The same parts, other labels in part 2: its own probabilities stay, those of all others move.
    after = _with_folds(folds, vectors, changed)
    assert np.array_equal(after[part], before[part])
    assert (after[folds != 2] != before[folds != 2]).any()


def _with_folds(folds, vectors, labels):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.metrics.confident._folds", lambda *given: folds)
        return out_of_fold_probabilities(vectors, labels, DEFAULT)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_each_part_has_its_share_of_each_class(folds):
    _, labels = three_classes(200)
    found = _folds(labels, ConfidentConfig(folds=folds), None)
    for label in range(3):
        counts = np.bincount(found[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(found, minlength=folds)) <= 1
    assert not np.array_equal(found, _folds(labels, ConfidentConfig(folds=folds, seed=1), None))


def test_rows_of_one_group_stay_together():
    vectors, labels = three_classes(200)
    groups = [f"document {row // 4}" for row in range(200)]
    found = _folds(labels, DEFAULT, groups)
    assert (found.reshape(-1, 4) == found[::4, None]).all()
    assert set(found) == set(range(5))
    assert out_of_fold_probabilities(vectors, labels, DEFAULT, groups).shape == (200, 3)
    with pytest.raises(SelectionError, match="groups: expected 200, one per row, found 199"):
        out_of_fold_probabilities(vectors, labels, DEFAULT, groups[1:])


def test_a_class_that_no_head_could_learn_is_named():
    vectors, labels = three_classes(60)
    labels = labels + 10
    labels[7] = 99
    with pytest.raises(SelectionError, match="all rows with the label 99 are in one fold of 5"):
        out_of_fold_probabilities(vectors, labels, DEFAULT)
    labels[8] = 99
    assert out_of_fold_probabilities(vectors, labels, DEFAULT).shape == (60, 4)


def test_without_the_package_the_message_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(MissingExtraError, match=r"finding wrong labels needs .*pip install .*\[selection\]"):
        confident_learning(*three_classes(30), DEFAULT)
