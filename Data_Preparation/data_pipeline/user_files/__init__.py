"""Reading of users' files, local and remote, the same way in every stage: listing, decompression, decoding, records.

Tables are read by `user_files.tables`, which needs polars.
"""

from data_pipeline.user_files.inputs import InputFile, ListedFile, list_inputs
from data_pipeline.user_files.listing import list_files, visible
from data_pipeline.user_files.records import json_records, parquet_records, read_records
from data_pipeline.user_files.text import OnBad, OnBytes, read_lines
from data_pipeline.user_files.values import check_id, checked_id, checked_text, find_field, take_field

__all__ = [
    "InputFile",
    "ListedFile",
    "OnBad",
    "OnBytes",
    "check_id",
    "checked_id",
    "checked_text",
    "find_field",
    "json_records",
    "list_files",
    "list_inputs",
    "parquet_records",
    "read_lines",
    "read_records",
    "take_field",
    "visible",
]
