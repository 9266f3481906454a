import numpy as np
import pytest
from pydantic import ValidationError

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.self_filter import SelfFilterMeasureConfig, self_filter

DEFAULT = SelfFilterMeasureConfig()


def judged_rows(rows=400, judged=60, seed=0):
    """Rows whose goodness is the side of a plane, a few of them judged."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 8)).astype(np.float16)
    good = vectors[:, 0] - vectors[:, 3] > 0
    grades = np.full(rows, np.nan)
    grades[:judged] = np.where(good[:judged], 0.9, 0.1)
    return vectors, good, grades


def test_a_few_judged_rows_teach_about_all():
    vectors, good, grades = judged_rows()
    found = self_filter(vectors, grades, DEFAULT)
    scores = found.pop("self_filter")
    assert not found
    assert scores.dtype == np.float64
    assert ((scores > 0) & (scores < 1)).all()
    assert ((scores > 0.5) == good)[60:].mean() > 0.9
    assert np.array_equal(scores, self_filter(vectors, grades, DEFAULT)["self_filter"])


def test_seeds_are_averaged_and_rows_without_a_grade_are_not_learnt_from():
    vectors, _, grades = judged_rows()
    each = [self_filter(vectors, grades, SelfFilterMeasureConfig(seeds=(seed,)))["self_filter"] for seed in (0, 1)]
    both = self_filter(vectors, grades, SelfFilterMeasureConfig(seeds=(0, 1)))["self_filter"]
    np.testing.assert_allclose(both, sum(each) / 2)
    # Their own scores aside, rows that were not judged could be any others of the same spread.
    turned = vectors.copy()
    turned[60:] = turned[60:][::-1]
    scores = self_filter(turned, grades, SelfFilterMeasureConfig(seeds=(0,)))["self_filter"]
    np.testing.assert_allclose(scores[:60], each[0][:60], atol=1e-6)
    np.testing.assert_allclose(scores[60:], each[0][60:][::-1], atol=1e-6)


def test_the_threshold_says_what_is_good():
    vectors, good, grades = judged_rows()
    grades = grades * 10
    found = self_filter(vectors, grades, SelfFilterMeasureConfig(threshold=5))["self_filter"]
    assert ((found > 0.5) == good).mean() > 0.9
    with pytest.raises(SelectionError, match="of 60 judged rows 60 have a grade of 0.5 or more and 0 a lower one"):
        self_filter(vectors, grades, DEFAULT)


def test_too_little_to_learn_from_is_said():
    vectors, _, grades = judged_rows()
    with pytest.raises(SelectionError, match="of 0 judged rows 0 have .* expected at least 5 of each. Judge more rows"):
        self_filter(vectors, np.full(400, np.nan), DEFAULT)
    few = np.full(400, np.nan)
    few[:30] = [1] * 26 + [0] * 4
    with pytest.raises(SelectionError, match="26 have a grade of 0.5 or more and 4 a lower one"):
        self_filter(vectors, few, DEFAULT)
    with pytest.raises(SelectionError, match=r"400 rows, found shape \(399,\)"):
        self_filter(vectors, grades[1:], DEFAULT)
    grades[3] = np.inf
    with pytest.raises(SelectionError, match="and 1 infinite values"):
        self_filter(vectors, grades, DEFAULT)
    with pytest.raises(ValidationError):
        SelfFilterMeasureConfig(threshold=np.nan)
