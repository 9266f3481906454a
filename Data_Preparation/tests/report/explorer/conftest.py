"""A dataset with scores and a subset, for the tests of the explorer."""

import numpy as np
import pytest
from support.builders import made

from data_pipeline.report.explorer.contents import open_contents
from data_pipeline.selection import Budget
from data_pipeline.stages.measure import compute_metric
from data_pipeline.stages.select import select_subset

SUBSET = "random_n30_seed0"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = made(tmp_path_factory.mktemp("explorer"))
    compute_metric(config, "text_metrics")
    select_subset(config, "random", Budget(rows=30), seed=0)
    return config


@pytest.fixture(scope="module")
def contents(config):
    return open_contents(config)


@pytest.fixture(scope="module")
def vectors(contents):
    """All vectors, of length 1."""
    vectors = np.concatenate([rows.all_vectors() for rows in contents.parts.values()])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
