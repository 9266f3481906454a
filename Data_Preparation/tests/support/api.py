"""What the tests of embedders behind an API share: a config that does not wait."""

import numpy as np

from data_pipeline.config import EmbeddingConfig
from data_pipeline.testing import simulated_vectors

KEY = "sk-test-0123456789-not-a-real-key"


def api_config(base_url="http://127.0.0.1:9/v1", *, model="tiny-judge", api=None, **changes):
    """Settings for a server that runs here; `api` changes those of the calls."""
    calls = {
        "base_url": base_url, "slots": 4, "tries": 3, "backoff_s": 0.005, "max_backoff_s": 0.01, "timeout_s": 20.0,
        "breaker_window": 1000,
    }  # fmt: skip
    return EmbeddingConfig(model_name=model, backend="api", api=calls | (api or {}), **changes)


def expected_vectors(texts, dim=None, model="tiny-embedder"):
    """Vectors of the simulated model, cut and scaled to length 1."""
    vectors = simulated_vectors(texts, model)[:, :dim]
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
