"""Settings of the corpus source."""

import codecs
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from data_pipeline.config.base import ColumnName, FolderName, PathText, Section, setting


class CorpusConfig(Section):
    """Source of the text."""

    source: Literal[
        "hub", "wikitext", "jsonl", "parquet", "arrow", "csv", "tsv", "text", "html", "warc", "function", "sample"
    ] = "hub"
    """Source of the text. hub: a dataset of the Hugging Face hub; wikitext: local WikiText files; jsonl,
    parquet, arrow, csv, tsv: your own records; text: text and Markdown files; html: web pages; warc: archives of web
    pages; function: a Python function of yours; sample: the corpus bundled with this package."""
    name: FolderName = setting("wikitext2", decides=False)
    """Name of the corpus; its paragraphs are written to data/<name>_processed."""
    path: Annotated[tuple[PathText, ...], NoDecode] = setting((), decides=False)
    """Files, folders or patterns (data/*.jsonl) to read, for all sources but hub, function and sample; also URLs
    (s3://, gs://, hf://datasets/..., https://). Text files may be compressed."""
    hf_dataset_name: str = setting("Salesforce/wikitext", decides=False)
    """Name of the dataset on the hub."""
    hf_dataset_config: str = setting("wikitext-2-v1", decides=False)
    """Configuration of the dataset, for WikiText: wikitext-2-v1, wikitext-2-raw-v1, wikitext-103-v1,
    wikitext-103-raw-v1. The default is left out for other datasets."""
    revision: str | None = setting(None, decides=False)
    """Commit, tag or branch of the dataset; the resolved commit is recorded."""
    license: str | None = setting(None, decides=False, min_length=1)
    """Licence of the texts, as an SPDX identifier (CC-BY-SA-4.0) or in words, which the manifest records; none: what
    the source knows of it: the card of a dataset of the hub, WikiText, the bundled sample."""
    text_field: str = "text"
    """Field with the text (records). In all names of fields, a.b is the field b of the object a."""
    id_field: str | None = None
    """Field with the document id (records); none: a hash of the text is the id."""
    title_field: str | None = None
    """Field with the title (records)."""
    split_field: str | None = None
    """Field with the official split (records); none: files named after a split belong to it."""
    metadata_fields: dict[ColumnName, Literal["str", "int", "float", "bool"]] = Field(default_factory=dict)
    """Further fields to keep as columns, with their types (records)."""
    header: bool = setting(True, added=True)
    """Whether the first line names the columns (csv, tsv); else they are named 1, 2 and so on."""
    encoding: str = setting("utf-8", added=True)
    """Encoding of the files (csv, tsv, text), by its name in Python. That of web pages is detected."""
    text_unit: Literal["file", "block"] = setting("file", added=True)
    """Document of the source text. file: a whole file; block: lines between two blank lines."""
    function: str | None = setting(None, added=True)
    """Python function that yields documents or records, as module:function (source function). The module is imported,
    from the current folder too."""
    limit: int | None = setting(None, added=True, ge=1)
    """Number of documents to read, from the first one, to try a run; none: all."""
    on_bad_record: Literal["drop", "fail"] = setting("drop", decides=False)
    """Handling of records that are no documents: broken lines, unusable ids, fields that are missing or mistyped.
    drop: list them in dropped.parquet; fail: stop at the first one. Texts that are null or empty are always dropped."""
    max_bad_share: float = setting(0.01, decides=False, ge=0, le=1)
    """Maximum share of bad records, 0 to 1; the run stops if there are more."""
    on_duplicate_id: Literal["fail", "drop", "suffix"] = setting("fail", added=True)
    """Handling of documents with the id of an earlier one. fail: stop; drop: list their paragraphs in dropped.parquet;
    suffix: append ~2, ~3 and so on to their ids."""
    on_changed: Literal["fail", "replace", "keep"] = setting("fail", decides=False)
    """Handling of documents that changed or are gone since they were read (elm append). fail: stop; replace: replace
    and delete their rows; keep: leave their rows as they are."""
    hub_timeout_s: float = setting(10.0, decides=False, gt=0, le=25)
    """Timeout of the hub in the preflight check, in seconds."""

    @field_validator("path", mode="before")
    @classmethod
    def _paths_are_texts(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith('["'):  # several in an environment variable
            return json.loads(value)
        values = [] if value is None else [value] if isinstance(value, str | Path) else value
        return [str(path) if isinstance(path, Path) else path for path in values]

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            "a".encode(name)  # refuses codecs that are no encodings of text
            known = codecs.lookup(name).name
        except LookupError:
            raise ValueError("no encoding of text has this name; use one of Python's codecs, such as cp1252") from None
        if known.startswith(("utf-16", "utf-32")):
            raise ValueError(f"not supported; convert the files: iconv -f {name} -t UTF-8")
        return known
