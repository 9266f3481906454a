"""The rate of a machine, and the batch budget that fits into its memory."""

import pytest

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, measured_rate
from data_pipeline.errors import OutOfMemoryError


class SmallMemory(HashingEmbedder):
    """Embedder whose device has room for so many tokens."""

    room = 3000

    def forward(self, tokens):
        if int(tokens.lengths.sum()) > self.room:
            raise OutOfMemoryError("no room")
        return super().forward(tokens)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(measured_rate, "_SECONDS", 0.05)


def test_the_batch_budget_is_halved_until_it_fits(monkeypatch, caplog):
    monkeypatch.setattr(measured_rate, "load_embedder", lambda config: SmallMemory(config))
    rate = measured_rate.measure_rate(EmbeddingConfig(model_name="hashing", batch_tokens=16_000))
    assert rate.batch_tokens == 2000
    assert rate.tokens_per_s > 0


def test_a_budget_that_fits_stays(monkeypatch):
    monkeypatch.setattr(measured_rate, "load_embedder", lambda config: SmallMemory(config))
    assert measured_rate.measure_rate(EmbeddingConfig(model_name="hashing", batch_tokens=2500)).batch_tokens == 2500
