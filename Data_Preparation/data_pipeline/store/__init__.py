"""What is on disk: paragraphs (parquet), embeddings (safetensors), and manifests.

Row i of shard k of a split is the same paragraph in every store. The parquet shards fix ids
and order; every other file carries the SHA-256 of the id column it was made from.
"""

from data_pipeline.store.coding import CALIBRATED, Coding, calibrate, coding_from_json
from data_pipeline.store.embeddings import EmbeddingShard, EmbeddingWriter, open_embedding_shard, read_embedding_header
from data_pipeline.store.folders import recover_folder, replace_folder
from data_pipeline.store.hashing import ColumnHash, column_sha256
from data_pipeline.store.manifest import (
    FORMAT_VERSION,
    Manifest,
    ShardEntry,
    check_fresh,
    fingerprint,
    read_manifest,
    write_manifest,
)
from data_pipeline.store.paragraphs import ParagraphShard, ParagraphStore, ParagraphWriter, shard_name

__all__ = [
    "CALIBRATED",
    "FORMAT_VERSION",
    "Coding",
    "ColumnHash",
    "EmbeddingShard",
    "EmbeddingWriter",
    "Manifest",
    "ParagraphShard",
    "ParagraphStore",
    "ParagraphWriter",
    "ShardEntry",
    "calibrate",
    "check_fresh",
    "coding_from_json",
    "column_sha256",
    "fingerprint",
    "open_embedding_shard",
    "read_embedding_header",
    "read_manifest",
    "recover_folder",
    "replace_folder",
    "shard_name",
    "write_manifest",
]
