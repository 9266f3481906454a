"""Relevance labels for retrieval without annotators: candidates, a judge, qrels and training triples."""
