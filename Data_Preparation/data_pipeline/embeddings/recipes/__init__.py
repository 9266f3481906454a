"""Recipes of well-known text-embedding models: prompts, pooling, lengths and known faults, and how to find them."""

from data_pipeline.embeddings.recipes.match import CardMatch, find_card, nearest_names
from data_pipeline.embeddings.recipes.table import ModelCard, load_table, parse_table

__all__ = ["CardMatch", "ModelCard", "find_card", "load_table", "nearest_names", "parse_table"]
