"""Files on disk: paragraphs (parquet), embeddings (safetensors), scores (parquet), and manifests.

Row i of shard k of a split is the same paragraph in every store. The parquet shards fix ids
and order; every other file carries the SHA-256 of the ids and texts it was made from.
"""

from data_pipeline.store.access.remote import RemoteFolder
from data_pipeline.store.access.text_columns import Columns, copy_faults, copy_path
from data_pipeline.store.access.vectors import Vectors
from data_pipeline.store.checks import embedding_faults, paragraph_faults
from data_pipeline.store.embeddings import (
    EmbeddingShard,
    EmbeddingWriter,
    check_belongs,
    open_embedding_shard,
    read_embedding_header,
    unit_length,
)
from data_pipeline.store.hashing import ColumnHash, column_sha256
from data_pipeline.store.manifest import (
    FORMAT_VERSION,
    ShardEntry,
    check_fresh,
    entry_of,
    fingerprint,
    read_manifest,
    read_manifest_to_replace,
    write_manifest,
)
from data_pipeline.store.paragraphs import (
    ParagraphShard,
    ParagraphStore,
    ParagraphWriter,
    paragraphs_sha256,
    shard_name,
)
from data_pipeline.store.quantization import CALIBRATED, Coding, calibrate, coding_from_json
from data_pipeline.store.scores import ScoreFolder, ScoreWriter, open_scores, score_faults
from data_pipeline.store.selections import read_selection, write_selection

__all__ = [
    "CALIBRATED",
    "FORMAT_VERSION",
    "Coding",
    "ColumnHash",
    "Columns",
    "EmbeddingShard",
    "EmbeddingWriter",
    "ParagraphShard",
    "ParagraphStore",
    "ParagraphWriter",
    "RemoteFolder",
    "ScoreFolder",
    "ScoreWriter",
    "ShardEntry",
    "Vectors",
    "calibrate",
    "check_belongs",
    "check_fresh",
    "coding_from_json",
    "column_sha256",
    "copy_faults",
    "copy_path",
    "embedding_faults",
    "entry_of",
    "fingerprint",
    "open_embedding_shard",
    "open_scores",
    "paragraph_faults",
    "paragraphs_sha256",
    "read_embedding_header",
    "read_manifest",
    "read_manifest_to_replace",
    "read_selection",
    "score_faults",
    "shard_name",
    "unit_length",
    "write_manifest",
    "write_selection",
]
