"""Stages: the only place where settings, stores and algorithms meet."""
