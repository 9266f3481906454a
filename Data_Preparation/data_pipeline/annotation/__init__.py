"""Scores for texts, by heads over their vectors."""
