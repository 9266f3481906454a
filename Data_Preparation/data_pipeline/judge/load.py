"""Loads the judge that a config names."""

from collections.abc import Callable

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.embeddings import Embedder, encode
from data_pipeline.errors import ConfigError
from data_pipeline.judge.base import Judge
from data_pipeline.judge.similarity import CachedEncoder, SimilarityJudge, Thresholds
from data_pipeline.utils import sha256_of_json


def _load_llm(config: JudgeConfig, embedder: Embedder | None, thresholds: Thresholds | None) -> Judge:
    # Not at the top: the package openai is optional.
    from data_pipeline.judge.openai import LLMJudge

    return LLMJudge(config)


def _load_similarity(config: JudgeConfig, embedder: Embedder | None, thresholds: Thresholds | None) -> Judge:
    if embedder is None or thresholds is None:
        raise ConfigError(
            "judge.judge: `similarity` needs an embedder, and thresholds that were calibrated on gold labels"
        )
    if not embedder.identity.normalized:
        raise ConfigError("judge.judge: `similarity` needs vectors of length 1; set embedding.normalize: true")
    return SimilarityJudge(
        CachedEncoder(lambda texts: encode(embedder, texts, query=True)),
        CachedEncoder(lambda texts: encode(embedder, texts)),
        thresholds,
        sha256_of_json([embedder.identity.to_metadata(), embedder.query_prompt]),
    )


JUDGES: dict[str, Callable[[JudgeConfig, Embedder | None, Thresholds | None], Judge]] = {
    "llm": _load_llm,
    "similarity": _load_similarity,
}
"""Loaders of judges by name."""


def load_judge(config: JudgeConfig, embedder: Embedder | None = None, thresholds: Thresholds | None = None) -> Judge:
    """Load the judge that a config names.

    Args:
        config: settings of the judge.
        embedder: for `similarity` only.
        thresholds: for `similarity` only; see `calibrate`.

    Raises:
        ConfigError: the judge `similarity` lacks an embedder, thresholds or normalized vectors.
        MissingExtraError: an optional package is not installed.
    """
    return JUDGES[config.judge](config, embedder, thresholds)
