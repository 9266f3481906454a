"""The model that made a file of vectors, loaded again.

Files do not record the address of a server, the name of the variable with its key, or a prompt for queries that the
user chose: they are those of the present environment.
"""

from collections.abc import Mapping

from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.load import load_config
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.embeddings.base import API_REVISION
from data_pipeline.embeddings.identity import identity_differences
from data_pipeline.errors import ConfigError, ShardMismatchError, StoreError
from data_pipeline.store import EmbeddingShard
from data_pipeline.store.corpus_files import MAKE_EMBEDDINGS


def load_maker(shard: EmbeddingShard) -> Embedder:
    """Load the embedder that a file names, and make sure that it is the same one; see `load_maker_of`."""
    return load_maker_of(shard.metadata, str(shard.path))


def load_maker_of(made_by: Mapping[str, str], where: str) -> Embedder:
    """Load the embedder that some metadata name, and make sure that it is the same one.

    Args:
        made_by: metadata of a file of vectors.
        where: the vectors are, for messages.

    Raises:
        StoreError: the metadata do not say how the vectors were made.
        ShardMismatchError: the model is another one now.
        ConfigError: a server made the vectors, and the environment names none.
    """
    if "pooling" not in made_by:
        raise StoreError(f"{where} does not say how its vectors were made: no text can be embedded like them")
    is_api = made_by["revision"].startswith(API_REVISION)
    embedder = load_embedder(_api_config_of(made_by, where) if is_api else _config_of(made_by))
    for difference in identity_differences(made_by, embedder.identity.to_metadata()):
        raise ShardMismatchError(
            f"the vectors in {where} were made with {difference.field} {difference.recorded!r}, the model "
            f"{embedder.identity.model} now has {difference.other!r}: scores would mean nothing. {MAKE_EMBEDDINGS}"
        )
    return embedder


def _config_of(metadata: Mapping[str, str]) -> EmbeddingConfig:
    """The settings that made a file's vectors, as far as new texts need them."""
    revision = metadata["revision"]
    packaged = "==" in revision
    of_hub = not packaged and not revision.startswith("sha256:")
    return EmbeddingConfig(
        model_name=metadata["model"],
        weights="package" if packaged else "hub",
        revision=revision if of_hub else None,
        task=metadata.get("task"),
        pooling=metadata["pooling"],
        normalize=metadata["normalized"] == "true",
        prompt=metadata["prompt"],
        max_length=int(metadata["max_length"]),
        dim=int(metadata["dim"]),
    )


def _api_config_of(metadata: Mapping[str, str], where: str) -> EmbeddingConfig:
    """The settings that made a file's vectors, and the server of the present environment."""
    present = load_config().embedding
    server = present.api
    if server.base_url is None and server.api_key_env is None:
        raise ConfigError(
            f"the vectors in {where} were made by the model {metadata['model']} behind an API, and its address is not "
            "recorded. Set the environment variables ELM_EMBEDDING__API__BASE_URL (a server of your own) or "
            "ELM_EMBEDDING__API__API_KEY_ENV (the provider's), as for the run that made them."
        )
    provider = metadata["revision"].removeprefix(API_REVISION)
    max_length = int(metadata["max_length"])
    return EmbeddingConfig.model_validate(
        {
            "model_name": metadata["model"],
            "backend": "api",
            "api": server.model_dump() | {"provider": provider},
            "normalize": metadata["normalized"] == "true",
            "prompt": metadata["prompt"],
            "query_prompt": present.query_prompt,
            "max_length": max_length or None,
            "dim": int(metadata["dim"]),
        }
    )
