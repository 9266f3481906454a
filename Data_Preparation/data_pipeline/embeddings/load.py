"""Loads the embedder, or the tokenizer alone, that a config names."""

from collections.abc import Callable

from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.hashing import HashingEmbedder


def _load_transformer(config: EmbeddingConfig) -> Embedder:
    # Not at the top: torch and transformers take seconds to import.
    from data_pipeline.embeddings.transformer.embedder import TransformerEmbedder

    return TransformerEmbedder(config)


EMBEDDERS: dict[str, Callable[[EmbeddingConfig], Embedder]] = {"hashing": HashingEmbedder}
"""By model name; every name that is not here is a Hugging Face model."""


def load_tokenizer(config: EmbeddingConfig) -> Tokenizer:
    """The tokenizer of the embedder a config names, without loading its weights.

    Raises:
        SourceError, ModelError, MissingExtra: see `load_embedder`.
    """
    if config.model_name == "hashing":
        return HashingEmbedder(config).tokenizer
    from data_pipeline.embeddings.transformer import loading, weights

    return loading.load_tokenizer(weights.find_model(config, weights=False), config)[0]


def load_embedder(config: EmbeddingConfig) -> Embedder:
    """Load the embedder a config names.

    Raises:
        SourceError, ModelError, MissingExtra, ConfigError: it can't be had, or not like this.
    """
    return EMBEDDERS.get(config.model_name, _load_transformer)(config)
