"""Datasets of the Hugging Face hub as local JSON Lines files."""

import json
from pathlib import Path

from pydantic import Field

from data_pipeline.config import Section
from data_pipeline.errors import SourceError
from data_pipeline.hub import TRANSPORT_ERRORS, WAYS_OUT, local_folder, resolve_commit
from data_pipeline.utils import publish, sha256_of_json

_FAILURES: tuple[type[Exception], ...] = (ValueError, *TRANSPORT_ERRORS)


class HubConfig(Section):
    """A dataset of the hub."""

    name: str = ""
    """`owner/name`, or a folder that datasets can load."""
    config: str | None = None
    """Configuration of the dataset, if it has several."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Commit, tag or branch; the local copy is named by the commit."""
    cache_dir: Path | None = None
    """Cache folder of the library datasets; none: its default."""
    timeout_s: float = Field(10.0, gt=0)
    """Timeout of the hub in seconds."""


def fetch_records(config: HubConfig, folder: Path) -> Path:
    """Fetch a split of a dataset as a JSON Lines file, once for each commit.

    Raises:
        SourceError: the hub cannot be reached, or has no such dataset or split.
    """
    local = local_folder(config.name, "hub.name") is not None
    commit = None if local else resolve_commit(config.name, "dataset", config.revision, config.timeout_s)
    key = sha256_of_json([config.name, config.config, config.split, commit or config.revision])[:20]
    path = folder / f"{key}.jsonl"
    if path.exists() and commit is not None:
        return path
    import datasets

    try:
        rows = datasets.load_dataset(
            config.name, config.config, split=config.split, revision=commit or config.revision,
            cache_dir=str(config.cache_dir) if config.cache_dir else None,
        )  # fmt: skip
    except _FAILURES as error:
        raise SourceError(f"cannot load {config.name}, split {config.split}: {error}. {WAYS_OUT}") from error
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, default=str) + "\n")
    publish(temporary, path)
    return path
