"""Embedder over any Hugging Face text encoder, run by the fastest path that reproduces its own vectors."""
