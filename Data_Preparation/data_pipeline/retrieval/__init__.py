"""Passages, and the search among them: BM25, dense, fused, reranked."""
