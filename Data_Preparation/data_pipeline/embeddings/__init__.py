"""Embedders, and the engine that encodes texts with them."""

from data_pipeline.embeddings.base import (
    Cost,
    Embedder,
    Identity,
    RoutedEmbedder,
    Runtime,
    tokenize_with_prompt,
    tokenizer_sha256,
)
from data_pipeline.embeddings.engine import EncodeStats, Engine, encode
from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.embeddings.load import EMBEDDERS, load_embedder, load_tokenizer
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.embeddings.tokens import Tokens, spill

__all__ = [
    "EMBEDDERS",
    "Cost",
    "Embedder",
    "EncodeStats",
    "Engine",
    "HashingEmbedder",
    "Identity",
    "RoutedEmbedder",
    "Runtime",
    "Tokens",
    "encode",
    "load_embedder",
    "load_tokenizer",
    "make_plan",
    "spill",
    "tokenize_with_prompt",
    "tokenizer_sha256",
]
