"""Loads the embedder that a config names, or only its tokenizer."""

import logging
from collections.abc import Callable

from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.api.embedder import ApiEmbedder
from data_pipeline.embeddings.api.texts import estimating_tokenizer
from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.hashing import HashingEmbedder

logger = logging.getLogger(__name__)


def _load_transformer(config: EmbeddingConfig) -> Embedder:
    # Imported here because torch and transformers take seconds to import.
    from data_pipeline.embeddings.transformer.embedder import TransformerEmbedder

    return TransformerEmbedder(config)


EMBEDDERS: dict[str, Callable[[EmbeddingConfig], Embedder]] = {"hashing": HashingEmbedder}
"""Embedders by model name; any other name is a Hugging Face model, or that of a model behind an API."""


def load_tokenizer(config: EmbeddingConfig) -> Tokenizer:
    """Load the tokenizer of the embedder that a config names, without its weights.

    Raises:
        SourceError, ModelError, MissingExtraError: see `load_embedder`.
    """
    if config.backend == "api":
        return _load_api_tokenizer(config.api.tokenizer)
    if config.model_name == "hashing":
        return HashingEmbedder(config).tokenizer
    from data_pipeline.embeddings.transformer import loading, weights

    return loading.load_tokenizer(weights.find_model(config, weights=False), config)[0]


def _load_api_tokenizer(name: str | None) -> Tokenizer:
    """The tokenizer that is named, or one that takes four bytes for a token."""
    if name is not None:
        return load_tokenizer(EmbeddingConfig(model_name=name))
    logger.warning(
        "Tokens are estimated as a quarter of the bytes of a text. Set embedding.api.tokenizer to the tokenizer of the "
        "model to count them."
    )
    return estimating_tokenizer()


def load_embedder(config: EmbeddingConfig) -> Embedder:
    """Load the embedder that a config names.

    Raises:
        SourceError: there is no such model, or the hub cannot be reached.
        ModelError: the model cannot be loaded, or gives wrong vectors.
        ApiError: the server of an API cannot be used.
        MissingExtraError: an optional package is not installed.
        ConfigError: the settings do not fit the model or the device.
    """
    if config.backend == "api":
        return ApiEmbedder(config, load_tokenizer(config))
    return EMBEDDERS.get(config.model_name, _load_transformer)(config)
