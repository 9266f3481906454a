"""Settings of semantic deduplication; free of torch, so that the command line can list them."""

from typing import Literal

from pydantic import Field

from data_pipeline.config.base import Section, setting
from data_pipeline.types import Split


class SemanticDedupConfig(Section):
    """Semantic deduplication, and decontamination by embeddings."""

    threshold: float | None = Field(0.95, ge=-1, le=1)
    """Cosine above which a row is a duplicate of a retained row; null: no deduplication."""
    keep: Literal["farthest", "nearest", "first"] = "farthest"
    """Which of several duplicates is retained: the one farthest from the centroid of its cluster (as in SemDeDup), the
    one nearest to it, or the first."""
    clusters: int | None = Field(None, ge=1)
    """Number of clusters; duplicates are searched for within clusters only. 1: all pairs of rows are compared; null:
    one for every cluster_rows rows."""
    cluster_rows: int = Field(1024, ge=1)
    """Mean number of rows in a cluster, where the number of clusters is not set."""
    seed: int = 0
    """Random seed of the clustering."""
    dedup_splits: list[Split] = setting(default_factory=lambda: ["train"])
    """Splits that are deduplicated, each within itself."""
    evaluation_threshold: float = Field(0.9, ge=-1, le=1)
    """Cosine at and above which a row repeats an evaluation item, or a row of val or test."""
    device: str = setting("cpu", decides=False)
    """Torch device on which vectors are compared."""
