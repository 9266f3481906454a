"""Candidates of queries: BM25, dense and sparse search over all passages, fused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.config.retrieval import CandidateConfig, PassagesConfig
from data_pipeline.embeddings import Embedder
from data_pipeline.errors import SourceError
from data_pipeline.retrieval import fusion
from data_pipeline.retrieval.bm25 import Bm25Index, open_bm25
from data_pipeline.retrieval.dense import DenseIndex
from data_pipeline.retrieval.fusion import Candidate, Lists
from data_pipeline.retrieval.passage_vectors import vectors_of
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.ranked_list import RankedList
from data_pipeline.retrieval.sparse import SparseIndex, open_sparse_index
from data_pipeline.utils import batched, encodable, refuse_single_text

__all__ = ["Candidate", "CandidateConfig", "Finder", "PassagesConfig", "find_candidates", "open_finder"]


def find_candidates(
    passages: Passages,
    queries: Sequence[str],
    config: CandidateConfig | None = None,
    *,
    work_dir: Path,
    embedder: Embedder | None = None,
) -> Iterator[list[Candidate]]:
    """Find the candidates of each query, best first, in the order of the queries; computed lazily.

    The BM25 index, and the dense and sparse vectors of passages that have none, are made once and kept in `work_dir`.
    The same passages, queries and config give the same candidates.

    Args:
        passages: passages to search.
        queries: texts of the queries; `config.query_rows` of them are searched for at a time.
        config: see `CandidateConfig`.
        work_dir: folder for indexes; can be deleted at any time.
        embedder: used instead of the one that the config or the store names.

    Raises:
        SourceError: a query is empty, or there are no passages.
        ConfigError, MissingExtraError, StoreError, ModelError: see `open_bm25`, `vectors_of` and
            `open_sparse_index`.
    """
    return open_finder(passages, config, work_dir=work_dir, embedder=embedder).find(queries)


def open_finder(
    passages: Passages, config: CandidateConfig | None = None, *, work_dir: Path, embedder: Embedder | None = None
) -> "Finder":
    """Open the indexes that `config` needs, once for many calls; see `find_candidates`."""
    config = config or CandidateConfig()
    if not len(passages):
        raise SourceError(f"{passages.where} has no passages; expected at least one to search")
    bm25 = open_bm25(passages, work_dir / "bm25", config) if config.needs_bm25 else None
    dense = None
    if config.needs_vectors:
        vectors = vectors_of(passages, work_dir, config.embedding, embedder)
        dense = DenseIndex(vectors, passages.is_empty, config.measure, config.passage_rows)
    sparse = open_sparse_index(passages, work_dir, config) if config.sparse else None
    return Finder(config, bm25, dense, sparse)


class Finder:
    """Open indexes over passages; see `open_finder`. Not safe for use by several threads at once."""

    def __init__(
        self,
        config: CandidateConfig,
        bm25: Bm25Index | None,
        dense: DenseIndex | None,
        sparse: SparseIndex | None = None,
    ) -> None:
        self.config, self.bm25, self.dense, self.sparse = config, bm25, dense, sparse

    def find(self, queries: Sequence[str]) -> Iterator[list[Candidate]]:
        """Find the candidates of each query; see `find_candidates`."""
        refuse_single_text(queries, "queries")
        for position, query in enumerate(queries):
            if not query.strip():
                raise SourceError(f"query {position} (counted from 0) is empty; leave it out, or give it a text")
        return self._find(queries)

    def reason_for_none(self, query: str) -> str:
        """Give the reason why a query has no candidates: it has no words to search for, or no passage matches."""
        if self.bm25 is not None and self.sparse is None and not self.bm25.has_tokens(query):
            return "no_words_to_search"
        return "no_passage_matches"

    def _find(self, queries: Sequence[str]) -> Iterator[list[Candidate]]:
        for batch in batched(map(encodable, queries), self.config.query_rows):
            bm25_lists = [RankedList.empty()] * len(batch)
            if self.bm25 is not None:
                searched = self.bm25.search(batch, self.config.bm25_k)
                bm25_lists = [_drop_last(ranked, self.config.bm25_percentile) for ranked in searched]
            dense_lists, sparse_lists = self._search_dense(batch, bm25_lists), [RankedList.empty()] * len(batch)
            if self.sparse is not None:
                sparse_lists = self.sparse.search(batch, self.config.sparse_k)
            for lists in zip(bm25_lists, dense_lists, sparse_lists, strict=True):
                yield self._fuse(Lists(*lists))

    def _search_dense(self, queries: list[str], bm25_lists: list[RankedList]) -> list[RankedList]:
        if self.dense is None:
            return [RankedList.empty()] * len(queries)
        vectors = self.dense.encode(queries)
        if self.config.fusion == "bm25_then_dense":
            return [self.dense.score(vector, bm25.rows) for vector, bm25 in zip(vectors, bm25_lists, strict=True)]
        return self.dense.search(vectors, self.config.dense_k)

    def _fuse(self, lists: Lists) -> list[Candidate]:
        config = self.config
        match config.fusion:
            case "minmax":
                return fusion.fuse_min_max(lists, _weights(config), config.top_k)
            case "rrf":
                return fusion.fuse_reciprocal_ranks(lists, config.rrf_k, config.top_k)
            case "bm25_then_dense":
                return fusion.rerank_by_dense(lists, config.top_k)
            case name:
                return fusion.take_first(lists, name, config.top_k)


def _weights(config: CandidateConfig) -> tuple[float, float, float]:
    """Weights of the scores of BM25, dense and sparse search."""
    sparse = config.sparse_weight if config.sparse else 0.0
    return 1 - config.dense_weight - sparse, config.dense_weight, sparse


def _drop_last(ranked: RankedList, share: float) -> RankedList:
    """Drop the last share of a list, 0 to 1."""
    count = len(ranked.rows) - int(share * len(ranked.rows))
    return RankedList(ranked.rows[:count], ranked.scores[:count])
