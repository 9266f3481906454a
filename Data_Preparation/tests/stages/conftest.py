"""Fixtures that tests of several stages share."""

import pytest
from support.counting_embedder import Counting

from data_pipeline.embeddings import load


@pytest.fixture
def counted(monkeypatch):
    """The embedders that were loaded, which count their texts."""
    made = []

    def counting(config):
        made.append(Counting(config))
        return made[-1]

    monkeypatch.setitem(load.EMBEDDERS, "hashing", counting)
    return made
