"""Queries -> the passages worth judging: BM25 and dense search over all passages, fused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.config.retrieval import CandidateConfig, PassagesConfig
from data_pipeline.embeddings import Embedder
from data_pipeline.errors import SourceError
from data_pipeline.retrieval import fusion
from data_pipeline.retrieval.bm25 import Bm25Index, open_bm25
from data_pipeline.retrieval.dense import DenseIndex
from data_pipeline.retrieval.fusion import Candidate
from data_pipeline.retrieval.passage_vectors import vectors_of
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.ranked_list import Ranked, nothing
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
    """Each query's candidates, best first, in the queries' order; computed as they are taken.

    The BM25 index and, for passages without any, the vectors are made once and kept in `work_dir`. Same
    passages, queries and config: the same candidates.

    Args:
        passages: what is searched.
        queries: texts, any number: `config.query_rows` are held at a time.
        config: see `CandidateConfig`.
        work_dir: for indexes; can be deleted at any time.
        embedder: is used instead of loading the one that config or store name.

    Raises:
        SourceError: a query is empty, or there are no passages.
        ConfigError, MissingExtra, StoreError, ModelError: see `open_bm25` and `vectors_of`.
    """
    return open_finder(passages, config, work_dir=work_dir, embedder=embedder).find(queries)


def open_finder(
    passages: Passages, config: CandidateConfig | None = None, *, work_dir: Path, embedder: Embedder | None = None
) -> "Finder":
    """Open what `config` needs, once for many calls; see `find_candidates`."""
    config = config or CandidateConfig()
    if not len(passages):
        raise SourceError(f"{passages.where} has no passages; expected one or more to search")
    bm25 = open_bm25(passages, work_dir / "bm25", config) if config.needs_bm25 else None
    dense = None
    if config.needs_vectors:
        vectors = vectors_of(passages, work_dir, config.embedding, embedder)
        dense = DenseIndex(vectors, passages.is_empty, config.measure, config.passage_rows)
    return Finder(config, bm25, dense)


class Finder:
    """Open indexes over some passages; see `open_finder`. Not for several threads at once."""

    def __init__(self, config: CandidateConfig, bm25: Bm25Index | None, dense: DenseIndex | None) -> None:
        self.config, self.bm25, self.dense = config, bm25, dense

    def find(self, queries: Sequence[str]) -> Iterator[list[Candidate]]:
        """See `find_candidates`."""
        refuse_single_text(queries, "queries")
        for number, query in enumerate(queries):
            if not query.strip():
                raise SourceError(f"query {number} (counted from 0) is empty; leave it out, or give it a text")
        return self._find(queries)

    def reason_for_none(self, query: str) -> str:
        """Why a query has no candidates: it has no words to search for, or no passage matches them."""
        if self.bm25 is not None and not self.bm25.has_tokens(query):
            return "no_words_to_search"
        return "no_passage_matches"

    def _find(self, queries: Sequence[str]) -> Iterator[list[Candidate]]:
        for some in batched(map(encodable, queries), self.config.query_rows):
            lexical = [nothing()] * len(some)
            if self.bm25 is not None:
                found = self.bm25.search(some, self.config.bm25_k)
                lexical = [_better(one, self.config.bm25_percentile) for one in found]
            for bm25, dense in zip(lexical, self._dense(some, lexical), strict=True):
                yield self._fuse(bm25, dense)

    def _dense(self, queries: list[str], lexical: list[Ranked]) -> list[Ranked]:
        if self.dense is None:
            return [nothing()] * len(queries)
        vectors = self.dense.encode(queries)
        if self.config.fusion == "bm25_then_dense":
            return [self.dense.score(vector, bm25.rows) for vector, bm25 in zip(vectors, lexical, strict=True)]
        return self.dense.search(vectors, self.config.dense_k)

    def _fuse(self, bm25: Ranked, dense: Ranked) -> list[Candidate]:
        config = self.config
        match config.fusion:
            case "minmax":
                return fusion.min_max(bm25, dense, config.dense_weight, config.top_k)
            case "rrf":
                return fusion.reciprocal_ranks(bm25, dense, config.rrf_k, config.top_k)
            case "bm25_then_dense":
                return fusion.reranked(bm25, dense, config.top_k)
            case "bm25":
                return fusion.only_bm25(bm25, config.top_k)
            case "dense":
                return fusion.only_dense(dense, config.top_k)


def _better(ranked: Ranked, percentile: float) -> Ranked:
    """A list without its last share."""
    kept = len(ranked.rows) - int(percentile * len(ranked.rows))
    return Ranked(ranked.rows[:kept], ranked.scores[:kept])
