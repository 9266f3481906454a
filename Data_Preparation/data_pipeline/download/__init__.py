"""Corpus sources, which yield documents."""

from data_pipeline.download.corpus import Corpus
from data_pipeline.download.sources import SOURCES, open_corpus

__all__ = ["SOURCES", "Corpus", "open_corpus"]
