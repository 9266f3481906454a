"""Corpus sources, which yield documents."""

from data_pipeline.download.corpus import Corpus, Unit
from data_pipeline.download.sources import SOURCES, open_corpus

__all__ = ["SOURCES", "Corpus", "Unit", "open_corpus"]
