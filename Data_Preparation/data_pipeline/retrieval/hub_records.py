"""Datasets of the Hugging Face hub, stored as local JSON Lines files."""

import json
from pathlib import Path

from data_pipeline.config.retrieval import HubConfig
from data_pipeline.errors import SourceError
from data_pipeline.utils import converted_errors, published, sha256_of_json
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS, local_folder, resolve_commit


def fetch_records(config: HubConfig, folder: Path) -> Path:
    """Download a split of a dataset to a JSON Lines file, once for each commit.

    Args:
        config: dataset, configuration, split and revision.
        folder: folder for the file; it is made if it does not exist.

    Returns:
        Path of the file.

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

    message = f"cannot load {config.name}, split {config.split}"
    with converted_errors((ValueError, *TRANSPORT_ERRORS), SourceError, message, OFFLINE_HINT):
        rows = datasets.load_dataset(
            config.name, config.config, split=config.split, revision=commit or config.revision,
            cache_dir=str(config.cache_dir) if config.cache_dir else None,
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
    return path
