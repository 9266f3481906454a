"""Reranking of the best candidates by a cross-encoder, which reads query and passage together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.retrieval import RerankConfig
from data_pipeline.embeddings.transformer.weights import find_model
from data_pipeline.errors import ModelError
from data_pipeline.types import Float32Array
from data_pipeline.utils import require


class Reranker:
    """A loaded cross-encoder.

    Args:
        config: with a model.

    Raises:
        MissingExtra: sentence-transformers is not installed.
        SourceError: there is no such folder, and no such model on the hub.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, config: RerankConfig) -> None:
        assert config.model is not None
        library = require("sentence_transformers", "rerank", "a cross-encoder")
        files = find_model(EmbeddingConfig(model_name=config.model, revision=config.revision), setting="rerank.model")
        self._config = config
        try:
            self._model: Any = library.CrossEncoder(
                str(files.folder), device=config.device, max_length=config.max_length, trust_remote_code=False,
                local_files_only=True, model_kwargs={"use_safetensors": True},
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"cannot load the cross-encoder {config.model}: {error}") from error

    def scores(self, query: str, passages: Sequence[str]) -> Float32Array:
        """How well each passage answers the query, as the model's own numbers before any activation, shape (N,).

        Raises:
            ModelError: a score is not finite, or the model gives several a pair.
        """
        import torch

        pairs = [(query, passage) for passage in passages]
        found = self._model.predict(
            pairs, batch_size=self._config.batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        scores = np.asarray(found, np.float32)
        if scores.shape != (len(pairs),):
            raise ModelError(
                f"{self._config.model} gives {scores.shape} for {len(pairs)} pairs; one score each is needed"
            )
        if not np.isfinite(scores).all():
            raise ModelError(f"{self._config.model} gives no finite score for a passage of {query[:60]!r}")
        return scores


def reordered(scores: Float32Array, count: int) -> list[int]:
    """Places of `count` candidates: those with a score, best first, equal ones as they were; then the rest."""
    order = np.argsort(-scores, kind="stable").tolist()
    return [*order, *range(len(scores), count)]
