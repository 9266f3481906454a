"""Upload of a run's outputs as a dataset of the Hugging Face hub: only on request, and private by default."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from data_pipeline.config.labels import PushConfig
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.utils import atomic_write_bytes, converted_errors
from data_pipeline.utils.hub import OFFLINE_HINT, TRANSPORT_ERRORS

_CARD = "README.md"


def write_card(folder: Path, run: str, figures: Mapping[str, Any]) -> None:
    """Write a dataset card into the folder of the outputs: judge, numbers and limits of the labels."""
    judge = figures["judge"] or {}
    statuses = ", ".join(f"{count:,} {status}" for status, count in figures["statuses"].items() if count)
    measures, gold = figures["agreement_with_gold"], figures.get("gold")
    encoded = sum(figures.get("percent_encoded_ids", {}).values())
    lines = [
        "---",
        "task_categories: [text-retrieval]",
        "tags: [weak-labels]",
        "configs:",
        "- {config_name: triples, data_files: triples.jsonl}",
        "- {config_name: training, data_files: training.parquet}",
        "- {config_name: judgements, data_files: judgements.parquet}",
        "---",
        f"# {run}",
        "",
        "Weak relevance labels: they were given by a machine, and no person has looked at them one by one.",
        "",
        f"- judge: {judge.get('model', 'unknown')}, served as {judge.get('served_model', 'unknown')}, "
        f"prompt {judge.get('prompt', 'unknown')}",
        f"- pairs: {statuses or 'none'}; only those that are ok are labels",
        f"- grades: {figures['grades']} (2 and 3 are relevant)",
        f"- hard negatives: {figures['negatives']:,}, each judged not relevant",
        "- agreement with gold judgements: " + ("not measured" if measures is None else str(measures)),
        *([] if gold is None else [f"- gold judgements: grade {gold['relevant_from']} and more counts as relevant"]),
        *([f"- {encoded:,} ids have white space, which is percent-encoded in qrels.tsv"] if encoded else []),
        "",
        "Passages and queries are under the terms of their sources. An evaluation with the model that gave these",
        "labels flatters systems that are like it.",
    ]
    atomic_write_bytes(folder / _CARD, ("\n".join(lines) + "\n").encode())


def _read_token(name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise ConfigError(f"push.token_env: the environment variable {name} is not set; put the token of the hub in it")
    return os.environ[name]


def push(folder: Path, config: PushConfig) -> str:
    """Upload a folder of outputs to the hub as one commit.

    Args:
        folder: folder to upload; hidden files are left out.
        config: repository, visibility and token; see `PushConfig`.

    Returns:
        Address of the dataset.

    Raises:
        ConfigError: the environment variable with the token is not set.
        SourceError: the hub cannot be reached, or rejects the upload.
    """
    assert config.repo_id is not None
    advice = f"The outputs are complete on this machine; run the same command again to upload them. {OFFLINE_HINT}"
    message = f"could not upload {folder} to {config.repo_id}"
    with converted_errors((ValueError, *TRANSPORT_ERRORS), SourceError, message, advice):
        api = HfApi(token=_read_token(config.token_env))
        address = api.create_repo(config.repo_id, repo_type="dataset", private=config.private, exist_ok=True)
        api.upload_folder(
            repo_id=config.repo_id, folder_path=folder, repo_type="dataset", ignore_patterns=[".*", "**/.*"],
            commit_message="Weak labels",
        )  # fmt: skip
    return str(address)
