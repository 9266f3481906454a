"""Settings of the corpus source."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from data_pipeline.config.base import ColumnName, FolderName, Section, setting


class CorpusConfig(Section):
    """Source of the text."""

    source: Literal["hub", "wikitext", "jsonl", "parquet", "sample"] = "hub"
    """Source of the text. hub: a WikiText dataset of the Hugging Face hub; wikitext: local WikiText files;
    jsonl, parquet: your own records; sample: the corpus bundled with this package."""
    name: FolderName = setting("wikitext2", decides=False)
    """Name of the corpus; its paragraphs are written to data/<name>_processed."""
    path: Path | None = setting(None, decides=False)
    """File or folder to read, for the sources wikitext, jsonl (also .gz, .zst) and parquet."""
    hf_dataset_name: str = setting("Salesforce/wikitext", decides=False)
    """Name of the dataset on the hub."""
    hf_dataset_config: str = setting("wikitext-2-v1", decides=False)
    """Configuration of the dataset: wikitext-2-v1, wikitext-2-raw-v1, wikitext-103-v1, wikitext-103-raw-v1."""
    revision: str | None = setting(None, decides=False)
    """Commit, tag or branch of the dataset; the resolved commit is recorded."""
    text_field: str = "text"
    """Field with the text (jsonl, parquet)."""
    id_field: str | None = None
    """Field with the document id (jsonl, parquet); none: a hash of the text is the id."""
    title_field: str | None = None
    """Field with the title (jsonl, parquet)."""
    split_field: str | None = None
    """Field with the official split (jsonl, parquet); none: files named after a split belong to it."""
    metadata_fields: dict[ColumnName, Literal["str", "int", "float", "bool"]] = Field(default_factory=dict)
    """Further fields to keep as columns, with their types (jsonl, parquet)."""
    on_bad_record: Literal["drop", "fail"] = setting("drop", decides=False)
    """Records that are no document: a broken line, a field that is missing or of a wrong type, an unusable id (jsonl,
    parquet). drop: list them in dropped.parquet; fail: stop at the first one. Texts that are null or empty are always
    dropped."""
    max_bad_share: float = setting(0.01, decides=False, ge=0, le=1)
    """Maximum share of bad records, 0 to 1; the run stops if there are more."""
    hub_timeout_s: float = setting(10.0, decides=False, gt=0, le=25)
    """Timeout of the hub in the preflight check, in seconds."""
