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


EMBEDDERS: dict[str, Callable[[EmbeddingConfig], Embedder]] = {"hashing": HashingEmbedder}
"""Embedders by model name; any other name is a Hugging Face model."""


def load_tokenizer(config: EmbeddingConfig) -> Tokenizer:
    """Load the tokenizer of the embedder that a config names, without its weights.

    Raises:
        SourceError, ModelError, MissingExtraError: see `load_embedder`.
    """
    if config.model_name == "hashing":
        return HashingEmbedder(config).tokenizer
    from data_pipeline.embeddings.transformer import loading, weights

    return loading.load_tokenizer(weights.find_model(config, weights=False), config)[0]


def load_embedder(config: EmbeddingConfig) -> Embedder:
    """Load the embedder that a config names.

    Raises:
        SourceError: there is no such model, or the hub cannot be reached.
        ModelError: the model cannot be loaded, or gives wrong vectors.
        MissingExtraError: an optional package is not installed.
        ConfigError: the settings do not fit the model or the device.
    """
    return EMBEDDERS.get(config.model_name, _load_transformer)(config)
