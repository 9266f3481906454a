"""Settings of passages, of the retrieval of candidates, and of reranking."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section, setting
from data_pipeline.config.embedding import EmbeddingConfig
from data_pipeline.config.sparse import SparseConfig

_WINDOW_FIELDS = {"window_tokens", "stride_tokens", "min_tokens"}


class PassagesConfig(Section):
    """Fields of records, and windows that documents are cut into."""

    id_field: str = "doc_id"
    """Field with the id, a text or a whole number (BEIR: _id)."""
    text_field: str = "text"
    """Field with the text."""
    title_field: str | None = None
    """Field with the title (BEIR: title), which precedes the text on a line of its own. Records where it is null,
    empty or missing have no title."""
    document_field: str | None = "source_doc_id"
    """Field with the id of the document that a passage belongs to; none, or missing in a record: the passage is a
    document of its own."""
    window_tokens: int = Field(160, ge=1)
    """Length of a window in tokens, without special tokens (documents cut into passages)."""
    stride_tokens: int = Field(80, ge=1)
    """Distance between the starts of two windows in tokens; at most window_tokens (documents cut into passages)."""
    min_tokens: int = Field(0, ge=0)
    """Minimum length of a window in tokens; shorter ones, such as the last of a document, are left out (documents cut
    into passages)."""

    def deciding_whole(self) -> dict[str, Any]:
        """Return the settings that decide passages that are whole records."""
        return {name: value for name, value in self.deciding().items() if name not in _WINDOW_FIELDS}

    def deciding_cut(self) -> dict[str, Any]:
        """Return the settings that decide passages that are windows of documents."""
        return {name: value for name, value in self.deciding().items() if name != "document_field"}

    @model_validator(mode="after")
    def _windows_leave_no_gap(self) -> Self:
        if self.stride_tokens > self.window_tokens:
            raise ValueError(
                f"stride_tokens ({self.stride_tokens}) is larger than window_tokens ({self.window_tokens}): "
                "the tokens between two windows would be in no passage"
            )
        return self


class CandidateConfig(Section):
    """Retrieval of candidates by BM25, dense and sparse search."""

    fusion: Literal["minmax", "rrf", "bm25_then_dense", "bm25", "dense", "sparse"] = "minmax"
    """Fusion of the ranked lists. minmax: weighted mean of scores scaled to 0 to 1 (Bruch et al., 2023); rrf: sum
    of reciprocal ranks (Cormack et al., 2009); bm25_then_dense: the BM25 list in dense order, without passages that
    BM25 misses; bm25, dense, sparse: one list alone."""
    top_k: int = Field(200, ge=1)
    """Maximum number of candidates per query."""
    bm25_k: int = Field(200, ge=1)
    """Maximum number of passages from BM25; passages that share no token with the query are never included."""
    bm25_percentile: float = Field(0.0, ge=0, lt=1)
    """Share of the BM25 list that is dropped from its end, 0 to 1: 0.5 keeps the better half."""
    dense_k: int = Field(200, ge=1)
    """Maximum number of passages from dense search."""
    dense_weight: float = Field(0.5, ge=0, le=1)
    """Weight of the dense score, 0 to 1; BM25 has the rest (minmax)."""
    sparse_k: int = setting(200, added=True, ge=1)
    """Maximum number of passages from sparse search; passages that share no word with the query are never included."""
    sparse_weight: float = setting(0.25, added=True, ge=0, le=1)
    """Weight of the sparse score, 0 to 1, where there is a sparse model; BM25 has what this and dense_weight leave
    (minmax)."""
    rrf_k: float = Field(60.0, ge=0)
    """Constant that is added to every rank; the larger, the less the first ranks count (rrf; 60 in the paper)."""
    k1: float = Field(0.9, ge=0, le=10)
    """Term frequency saturation of BM25; 0: a repeated token counts once."""
    b: float = Field(0.4, ge=0, le=1)
    """Length normalization of BM25, 0 to 1; 0: none."""
    language: str = "english"
    """Language of the stemmer and stop words of BM25, by its Snowball name, such as german; none: neither is used."""
    stop_words: bool = True
    """Whether BM25 ignores the stop words of the language, if it has a list."""
    bm25_backend: Literal["auto", "numba", "numpy"] = setting("auto", decides=False)
    """Engine that computes BM25 scores; auto: numba if it is installed (starts in several seconds, then is faster)."""
    measure: Literal["cosine", "dot"] = "cosine"
    """Similarity of two vectors."""
    embedding: EmbeddingConfig | None = None
    """Embedding model; none: the one that made the vectors of the store. Passages from files need one."""
    sparse: SparseConfig | None = setting(None, added=True)
    """Model of sparse vectors, whose list is fused with the others (minmax, rrf) or taken alone (sparse); those of the
    dataset (elm sparse) are used where they are of this model. none: no sparse search."""
    query_rows: int = setting(256, decides=False, ge=1)
    """Number of queries searched together; more queries read the passage vectors less often and take more memory."""
    passage_rows: int = setting(16_384, decides=False, ge=1)
    """Number of vectors of passages in memory at a time."""

    @property
    def needs_bm25(self) -> bool:
        """Whether the BM25 list is used."""
        return self.fusion not in {"dense", "sparse"}

    @property
    def needs_vectors(self) -> bool:
        """Whether the dense vectors are used."""
        return self.fusion not in {"bm25", "sparse"}

    @model_validator(mode="after")
    def _sparse_fits(self) -> Self:
        if self.fusion == "sparse" and self.sparse is None:
            raise ValueError("fusion: sparse needs sparse.model_name")
        if self.sparse is None:
            return self
        if self.sparse.model_name is None:
            raise ValueError("sparse needs a model_name")
        if self.fusion in {"bm25_then_dense", "bm25", "dense"}:
            raise ValueError(
                f"fusion: {self.fusion} does not use sparse; choose minmax, rrf or sparse, or leave it out"
            )
        if self.fusion == "minmax" and self.dense_weight + self.sparse_weight > 1:
            raise ValueError(
                f"dense_weight ({self.dense_weight}) and sparse_weight ({self.sparse_weight}) are more than 1 together"
            )
        return self


class RerankConfig(Section):
    """Reranking of candidates by a cross-encoder."""

    model: str | None = None
    """Cross-encoder on the hub, such as cross-encoder/ms-marco-MiniLM-L-6-v2, or a folder; none: no reranking."""
    revision: str | None = None
    """Commit, tag or branch of the model."""
    top_k: int = Field(40, ge=1)
    """Number of candidates per query that are reranked; the others follow in their order."""
    batch_size: int = setting(32, decides=False, ge=1)
    """Number of pairs in a batch."""
    max_length: int | None = Field(None, ge=8)
    """Number of tokens to which a pair is truncated; none: the limit of the model."""
    device: str | None = setting(None, decides=False)
    """Torch device; none: a GPU if one is available."""


class HubConfig(Section):
    """Dataset of the Hugging Face hub."""

    name: str = ""
    """Name on the hub, `owner/name`, or a folder that the library datasets can load."""
    config: str | None = None
    """Configuration of the dataset, if it has several."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Commit, tag or branch of the dataset; the local copy is identified by the commit."""
    cache_dir: Path | None = None
    """Cache folder of the library datasets; none: the default of the library."""
    timeout_s: float = Field(10.0, gt=0)
    """Timeout of the hub, in seconds."""
