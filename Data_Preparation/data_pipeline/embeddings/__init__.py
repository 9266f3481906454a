"""Texts -> vectors, by any embedder."""

from data_pipeline.embeddings.base import Cost, Embedder, Identity, Runtime, tokenizer_sha256
from data_pipeline.embeddings.engine import Engine, Tally, encode
from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.embeddings.load import EMBEDDERS, load_embedder, load_tokenizer
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.embeddings.tokens import Tokens, spill

__all__ = [
    "EMBEDDERS",
    "Cost",
    "Embedder",
    "Engine",
    "HashingEmbedder",
    "Identity",
    "Runtime",
    "Tally",
    "Tokens",
    "encode",
    "load_embedder",
    "load_tokenizer",
    "make_plan",
    "spill",
    "tokenizer_sha256",
]
