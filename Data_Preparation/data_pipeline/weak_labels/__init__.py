"""Relevance labels for retrieval without annotators: sampling, hard negatives, agreement with gold, exports."""
