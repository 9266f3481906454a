"""Loads the embedder that a config names, or only its tokenizer."""

import logging
from collections.abc import Callable
from dataclasses import replace

from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.api.embedder import ApiEmbedder
from data_pipeline.embeddings.api.texts import estimating_tokenizer
from data_pipeline.embeddings.base import Embedder, RoutedEmbedder
from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.embeddings.model_files import ModelFiles, find_model
from data_pipeline.embeddings.recipes import find_card
from data_pipeline.embeddings.recipes.card_rules import check_runnable
from data_pipeline.embeddings.recipes.modules import Route, read_chain, read_json
from data_pipeline.errors import ModelError

logger = logging.getLogger(__name__)


def _load_model(config: EmbeddingConfig) -> Embedder:
    check_runnable(find_card(config.model_name), config.trust_remote_code)  # before a download
    files = find_model(config)
    code = read_json(files.folder / "config.json").get("auto_map") or {}
    check_runnable(find_card(config.model_name, files.folder), config.trust_remote_code, "AutoModel" in code)
    documents = _load_tower(config, files, "document")
    chain = read_chain(files.folder)
    if chain is None or not chain.routed:
        return documents
    queries = _load_tower(config, files, "query")
    if queries.identity.dim != documents.identity.dim:
        raise ModelError(
            f"{config.model_name} gives documents {documents.identity.dim} dimensions and queries "
            f"{queries.identity.dim}; they cannot be compared"
        )
    return RoutedEmbedder(documents, queries)


def _load_tower(config: EmbeddingConfig, files: ModelFiles, route: Route) -> Embedder:
    """Load the modules that a kind of text goes through."""
    # Imported here because torch and transformers take seconds to import.
    from data_pipeline.embeddings.static import StaticEmbedder, static_chain

    chain = static_chain(files.folder, route)
    if chain is not None:
        return StaticEmbedder(config, files, chain, route)
    from data_pipeline.embeddings.transformer.embedder import TransformerEmbedder

    return TransformerEmbedder(config, files, route)


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
    from data_pipeline.embeddings.static import load_static_tokenizer, static_chain
    from data_pipeline.embeddings.transformer import loading

    files = find_model(config, weights=False)
    if static := static_chain(files.folder):
        return load_static_tokenizer(static.input.folder)
    chain = read_chain(files.folder)
    return loading.load_tokenizer(replace(files, folder=chain.input.folder) if chain else files, config)[0]


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
    return EMBEDDERS.get(config.model_name, _load_model)(config)
