"""Search of passages: BM25, dense search, fusion and reranking."""
