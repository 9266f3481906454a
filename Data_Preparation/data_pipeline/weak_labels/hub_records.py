"""Data sets of the Hugging Face hub as JSON Lines on this machine."""

import json
from pathlib import Path

from pydantic import Field

from data_pipeline.config import Section
from data_pipeline.errors import SourceError
from data_pipeline.hub import TRANSPORT_ERRORS, WAYS_OUT, local_folder, resolve_commit
from data_pipeline.utils import publish, sha256_of_json

_FAILURES: tuple[type[Exception], ...] = (ValueError, *TRANSPORT_ERRORS)


class HubConfig(Section):
    """A data set of the hub."""

    name: str = ""
    """`owner/name`, or a folder that datasets can load."""
    config: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Which split."""
    revision: str | None = None
    """Commit, tag or branch; the commit it stands for names the copy."""
    cache_dir: Path | None = None
    """Where datasets keeps what it fetches; none: where it always does."""
    timeout_s: float = Field(10.0, gt=0)
    """How long to wait for the hub to answer, in seconds."""


def fetch_records(config: HubConfig, folder: Path) -> Path:
    """A split of a data set as a JSON Lines file; fetched once a commit.

    Raises:
        SourceError: the hub cannot be reached, or has no such data set or split.
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
