"""The model that made a file of vectors, loaded again."""

from collections.abc import Mapping

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.embeddings.identity import identity_differences
from data_pipeline.errors import ShardMismatchError, StoreError
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
    """
    if "pooling" not in made_by:
        raise StoreError(f"{where} does not say how its vectors were made: no text can be embedded like them")
    embedder = load_embedder(_config_of(made_by))
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
