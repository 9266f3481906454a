"""Metrics of texts and embeddings: each is a function to columns of float64, one number per text."""
