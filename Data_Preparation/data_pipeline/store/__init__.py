"""Files on disk: paragraphs (parquet), embeddings (safetensors), scores (parquet), and manifests.

Row i of shard k of a split is the same paragraph in every store. The parquet shards fix ids
and order; every other file carries the SHA-256 of the ids and texts it was made from.
"""

from data_pipeline.store.access.text_columns import Columns, copy_path
from data_pipeline.store.checks import embedding_faults, paragraph_faults
from data_pipeline.store.embeddings import EmbeddingShard, open_embedding_shard
from data_pipeline.store.hashing import ColumnHash
from data_pipeline.store.manifest import fingerprint, read_manifest, write_manifest
from data_pipeline.store.paragraphs import ParagraphShard, ParagraphStore, paragraphs_sha256
from data_pipeline.store.quantization import CALIBRATED, Coding
from data_pipeline.store.scores import ScoreWriter, open_scores, score_faults
from data_pipeline.store.selections import read_selection, write_selection
from data_pipeline.store.sparse import SparseRows
from data_pipeline.store.sparse_split import open_sparse_split, sparse_faults

__all__ = [
    "CALIBRATED",
    "Coding",
    "ColumnHash",
    "Columns",
    "EmbeddingShard",
    "ParagraphShard",
    "ParagraphStore",
    "ScoreWriter",
    "SparseRows",
    "copy_path",
    "embedding_faults",
    "fingerprint",
    "open_embedding_shard",
    "open_scores",
    "open_sparse_split",
    "paragraph_faults",
    "paragraphs_sha256",
    "read_manifest",
    "read_selection",
    "score_faults",
    "sparse_faults",
    "write_manifest",
    "write_selection",
]
