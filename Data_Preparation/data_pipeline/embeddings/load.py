"""Loads the embedder that a config names, or only its tokenizer."""

from collections.abc import Callable

from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.hashing import HashingEmbedder


def _load_transformer(config: EmbeddingConfig) -> Embedder:
    # Imported here because torch and transformers take seconds to import.
    from data_pipeline.embeddings.transformer.embedder import TransformerEmbedder

    return TransformerEmbedder(config)


def _load_api(config: EmbeddingConfig) -> Embedder:
    from data_pipeline.embeddings.api.embedder import ApiEmbedder

    return ApiEmbedder(config)


EMBEDDERS: dict[str, Callable[[EmbeddingConfig], Embedder]] = {"hashing": HashingEmbedder}
"""Embedders by model name; any other name is a Hugging Face model, or that of a model behind an API."""


def load_tokenizer(config: EmbeddingConfig) -> Tokenizer:
    """Load the tokenizer of the embedder that a config names, without its weights.

    Raises:
        SourceError, ModelError, MissingExtraError: see `load_embedder`.
    """
    if config.backend == "api":
        from data_pipeline.embeddings.api.embedder import load_api_tokenizer

        return load_api_tokenizer(config.api)
    if config.model_name == "hashing":
        return HashingEmbedder(config).tokenizer
    from data_pipeline.embeddings.transformer import loading, weights

    return loading.load_tokenizer(weights.find_model(config, weights=False), config)[0]


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
        return _load_api(config)
    return EMBEDDERS.get(config.model_name, _load_transformer)(config)
