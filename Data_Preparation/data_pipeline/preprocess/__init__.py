"""Preprocessing of documents into paragraphs: cut, clean, filter, count tokens, find duplicates, split."""

from data_pipeline.preprocess.paragraphs import extract_paragraphs
from data_pipeline.preprocess.tokens import TokenCounter, load_fast_library

__all__ = [
    "TokenCounter",
    "extract_paragraphs",
    "load_fast_library",
]
