"""Settings of the corpus source."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from data_pipeline.config.base import ColumnName, FolderName, Section, setting


class CorpusConfig(Section):
    """Where the text comes from."""

    source: Literal["hub", "wikitext", "jsonl", "parquet", "sample"] = "hub"
    """hub: a WikiText data set of the Hugging Face hub; wikitext: local WikiText files;
    jsonl, parquet: your own records; sample: the corpus in this package."""
    name: FolderName = setting("wikitext2", decides=False)
    """Names the folder data/<name>_processed."""
    path: Path | None = setting(None, decides=False)
    """File or folder, for the sources wikitext, jsonl (also .gz, .zst) and parquet."""
    hf_dataset_name: str = setting("Salesforce/wikitext", decides=False)
    """Data set on the hub."""
    hf_dataset_config: str = setting("wikitext-2-v1", decides=False)
    """Its configuration: wikitext-2-v1, wikitext-2-raw-v1, wikitext-103-v1, wikitext-103-raw-v1."""
    revision: str | None = setting(None, decides=False)
    """Commit, tag or branch of the data set; the commit it stood for is recorded."""
    text_field: str = "text"
    """jsonl, parquet: the field with the text."""
    id_field: str | None = None
    """jsonl, parquet: the field with the document's id; without it, a hash of the text."""
    title_field: str | None = None
    """jsonl, parquet: the field with the title."""
    split_field: str | None = None
    """jsonl, parquet: the field with the official split; without it, a file name that is a split."""
    metadata_fields: dict[ColumnName, Literal["str", "int", "float", "bool"]] = Field(default_factory=dict)
    """jsonl, parquet: further fields to keep as columns, with their types."""
    hub_timeout_s: float = setting(10.0, decides=False, gt=0, le=25)
    """How long the preflight waits for the hub, in seconds."""
