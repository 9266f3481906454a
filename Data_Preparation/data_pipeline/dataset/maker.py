"""The model that made a file of vectors, loaded again."""

from collections.abc import Mapping

from data_pipeline.config import EmbeddingConfig
from data_pipeline.dataset.source import MAKE_EMBEDDINGS
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.errors import ShardMismatch, StoreError
from data_pipeline.store import EmbeddingShard


def load_maker(shard: EmbeddingShard) -> Embedder:
    """Load the embedder that a file names, and make sure that it is the same one.

    Raises:
        StoreError: the file does not say how its vectors were made.
        ShardMismatch: the model is another one now.
    """
    made_by = shard.metadata
    if "pooling" not in made_by:
        raise StoreError(f"{shard.path} does not say how its vectors were made: no text can be embedded like them")
    embedder = load_embedder(_config_of(made_by))
    found = embedder.identity.to_metadata()
    for name in ("revision", "tokenizer", "pooling", "dim"):
        if found[name] != made_by[name]:
            raise ShardMismatch(
                f"the vectors in {shard.path.parent} were made with {name} {made_by[name]!r}, the model "
                f"{found['model']} now has {found[name]!r}: scores would mean nothing. {MAKE_EMBEDDINGS}"
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
        pooling=metadata["pooling"],
        normalize=metadata["normalized"] == "true",
        prompt=metadata["prompt"],
        max_length=int(metadata["max_length"]),
        dim=int(metadata["dim"]),
    )
