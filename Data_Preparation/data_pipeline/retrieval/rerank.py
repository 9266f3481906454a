"""Reranking of the best candidates by a cross-encoder, which reads query and passage together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.retrieval import RerankConfig
from data_pipeline.embeddings.model_files import find_model
from data_pipeline.errors import ModelError
from data_pipeline.types import Float32Array
from data_pipeline.utils import converted_errors, require


class Reranker:
    """A loaded cross-encoder.

    Args:
        config: names the model; see `RerankConfig`.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        SourceError: the model is neither a folder nor on the hub.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, config: RerankConfig) -> None:
        assert config.model is not None
        library = require("sentence_transformers", "rerank", "a cross-encoder")
        files = find_model(EmbeddingConfig(model_name=config.model, revision=config.revision), setting="rerank.model")
        self._config = config
        failures = (OSError, ValueError, RuntimeError, KeyError)
        with converted_errors(failures, ModelError, f"cannot load the cross-encoder {config.model}"):
            self._model: Any = library.CrossEncoder(
                str(files.folder), device=config.device, max_length=config.max_length, trust_remote_code=False,
                local_files_only=True, model_kwargs={"use_safetensors": True},
            )  # fmt: skip

    def scores(self, query: str, passages: Sequence[str]) -> Float32Array:
        """Score how well each passage answers the query, as raw model outputs without activation; shape (N,).

        Raises:
            ModelError: a score is not finite, or the model gives several scores per pair.
        """
        import torch

        pairs = [(query, passage) for passage in passages]
        outputs = self._model.predict(
            pairs, batch_size=self._config.batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        scores = np.asarray(outputs, np.float32)
        if scores.shape != (len(pairs),):
            raise ModelError(
                f"rerank.model: {self._config.model} gives scores of shape {scores.shape} for {len(pairs)} pairs, "
                "expected one score per pair"
            )
        if not np.isfinite(scores).all():
            raise ModelError(
                f"rerank.model: {self._config.model} gives no finite score for a passage of query {query[:60]!r}"
            )
        return scores


def reordered(scores: Float32Array, count: int) -> list[int]:
    """Order `count` candidates: those with a score, best first and ties in their order; then the rest.

    Returns:
        Positions of the candidates, from 0.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    return [*order, *range(len(scores), count)]
