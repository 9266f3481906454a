"""Formats, pipelines and configs of other systems."""
