"""Settings of the search for candidates."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section, setting
from data_pipeline.config.embedding import EmbeddingConfig

_OF_WINDOWS = {"window_tokens", "stride_tokens", "min_tokens"}


class PassagesConfig(Section):
    """Fields of records, and windows of documents."""

    id_field: str = "doc_id"
    """The field with the id (BEIR: _id); texts and whole numbers serve."""
    text_field: str = "text"
    """The field with the text."""
    title_field: str | None = None
    """The field with the title (BEIR: title), which is put in front of the text with a line end between. Records
    where it is null, empty or missing have no title."""
    document_field: str | None = "source_doc_id"
    """The field with the id of the document that a passage is of. Records without it, and none: each passage
    is a document of its own."""
    window_tokens: int = Field(160, ge=1)
    """Documents cut into passages: tokens of one, in the tokenizer's own count, special ones aside."""
    stride_tokens: int = Field(80, ge=1)
    """Tokens from the beginning of one passage to that of the next; at most window_tokens."""
    min_tokens: int = Field(0, ge=0)
    """Documents cut into passages: passages of fewer tokens are left out, such as a document's short last one."""

    def deciding_whole(self) -> dict[str, Any]:
        """What decides passages that are whole records."""
        return {name: value for name, value in self.deciding().items() if name not in _OF_WINDOWS}

    def deciding_cut(self) -> dict[str, Any]:
        """What decides passages that are windows of documents."""
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
    """Settings of the search for candidates."""

    fusion: Literal["minmax", "rrf", "bm25_then_dense", "bm25", "dense"] = "minmax"
    """How the two lists become one. minmax: each list's scores scaled to 0 to 1, then the weighted mean (Bruch et
    al., 2023); rrf: reciprocal ranks, summed (Cormack et al., 2009); bm25_then_dense: BM25's list in dense order,
    which finds nothing that BM25 misses; bm25, dense: one list alone."""
    top_k: int = Field(200, ge=1)
    """Maximum number of candidates of a query."""
    bm25_k: int = Field(200, ge=1)
    """Maximum number of passages from BM25; passages that share no token with the query are never among them."""
    bm25_percentile: float = Field(0.0, ge=0, lt=1)
    """Share of BM25's list that is left out from its end: 0.5 keeps the better half."""
    dense_k: int = Field(200, ge=1)
    """Maximum number of passages from dense search."""
    dense_weight: float = Field(0.5, ge=0, le=1)
    """minmax: weight of the dense score, 0 to 1; the BM25 score has the rest."""
    rrf_k: float = Field(60.0, ge=0)
    """rrf: added to every rank; the larger, the less the first few ranks count. 60 is the paper's value."""
    k1: float = Field(0.9, ge=0, le=10)
    """BM25: how slowly a repeated token stops counting; 0: it counts once."""
    b: float = Field(0.4, ge=0, le=1)
    """BM25: how much long passages are held back; 0: not at all."""
    language: str = "english"
    """BM25: whose stop words are left out and whose words are stemmed (a name of the Snowball stemmers, such as
    german); none: neither."""
    stop_words: bool = True
    """BM25: leave out the language's most common words, where a list is known."""
    bm25_backend: Literal["auto", "numba", "numpy"] = setting("auto", decides=False)
    """BM25: what adds up scores; auto: numba where it is installed (several seconds to start, then faster)."""
    measure: Literal["cosine", "dot"] = "cosine"
    """Similarity of two vectors."""
    embedding: EmbeddingConfig | None = None
    """The embedder; none: the one that made the vectors of the store. Passages of files need one."""
    query_rows: int = setting(256, decides=False, ge=1)
    """Queries searched together: more read the passages' vectors less often and take more memory."""
    passage_rows: int = setting(16_384, decides=False, ge=1)
    """Vectors of passages in memory at a time."""

    @property
    def needs_bm25(self) -> bool:
        """Whether the BM25 list is used."""
        return self.fusion != "dense"

    @property
    def needs_vectors(self) -> bool:
        """Whether the vectors are used."""
        return self.fusion != "bm25"


class RerankConfig(Section):
    """Settings of the cross-encoder."""

    model: str | None = None
    """On the hub (cross-encoder/ms-marco-MiniLM-L-6-v2), or a folder; none: the fused order goes on as it is."""
    revision: str | None = None
    """Commit, tag or branch of the model."""
    top_k: int = Field(40, ge=1)
    """Candidates of a query that are reranked; the others follow in their order."""
    batch_size: int = setting(32, decides=False, ge=1)
    """Pairs in a batch."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of a pair after which it is cut; none: the model's maximum."""
    device: str | None = setting(None, decides=False)
    """Torch device; none: a GPU where there is one."""


class HubConfig(Section):
    """A dataset of the hub."""

    name: str = ""
    """`owner/name`, or a folder that datasets can load."""
    config: str | None = None
    """Configuration of the dataset, if it has several."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Commit, tag or branch; the local copy is named by the commit."""
    cache_dir: Path | None = None
    """Cache folder of the library datasets; none: its default."""
    timeout_s: float = Field(10.0, gt=0)
    """Timeout of the hub in seconds."""
