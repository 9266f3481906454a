"""Helpers that are independent of the rest of the package."""

from data_pipeline.utils.errors import converted_errors
from data_pipeline.utils.extras import require
from data_pipeline.utils.files import atomic_write_bytes, atomic_write_json, exclusive, publish, published
from data_pipeline.utils.hashing import sha256_of_file, sha256_of_json
from data_pipeline.utils.progress import batched, configure_logging, progress_bar
from data_pipeline.utils.text import (
    encodable,
    format_table,
    human_bytes,
    human_time,
    refuse_single_text,
    shortened,
    shown,
)

__all__ = [
    "atomic_write_bytes",
    "atomic_write_json",
    "batched",
    "configure_logging",
    "converted_errors",
    "encodable",
    "exclusive",
    "format_table",
    "human_bytes",
    "human_time",
    "progress_bar",
    "publish",
    "published",
    "refuse_single_text",
    "require",
    "sha256_of_file",
    "sha256_of_json",
    "shortened",
    "shown",
]
