"""Command `semantic-dedup`: a dataset without semantic duplicates, in another folder."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from data_pipeline.cli.command import (
    Command,
    common_arguments,
    configure_existing,
    decontamination_arguments,
    local_path,
)
from data_pipeline.cli.flags import Given, add_model_flags
from data_pipeline.cli.output import Facts, present
from data_pipeline.config import explain
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from data_pipeline.stages.semantic_dedup import SemanticDedupResult


def _semantic_dedup(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.semantic_dedup import semantic_dedup

    try:
        dedup = SemanticDedupConfig(**parsed.dedup(parsed))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None
    config = configure_existing(parsed, given)
    _present(semantic_dedup(config, dedup, parsed.to_dir, parsed.overwrite))
    return 0


def _present(result: "SemanticDedupResult") -> None:
    counts = result.manifest["counts"]
    rows = [
        ("dropped", ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items()) or "none"),
        *((split, f"{entry['rows']:,} rows") for split, entry in result.manifest["splits"].items()),
        ("embeddings", ", ".join(f"{split} {rows:,}" for split, rows in result.rows.items())),
    ]
    done = "finished before" if result.skipped else "written"
    document = {
        "folder": result.folder,
        "skipped": result.skipped,
        "counts": counts,
        "splits": {split: entry["rows"] for split, entry in result.manifest["splits"].items()},
        "embeddings": result.rows,
    }
    opening = f"\n  from data_pipeline import ELMDataset\n  dataset = ELMDataset({str(result.folder)!r})"
    present(document, f"{result.folder}: {done}", Facts(rows), opening)


def _arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--to-dir", type=local_path, required=True, metavar="FOLDER", help="data folder of the result")
    decontamination_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a result that was made with other settings")
    parser.set_defaults(dedup=add_model_flags(parser, SemanticDedupConfig, "semantic deduplication"))


COMMANDS: Mapping[str, Command] = {
    "semantic-dedup": Command(
        "write a dataset without semantic duplicates to another folder",
        _arguments,
        _semantic_dedup,
        example="elm semantic-dedup --output-dir data --to-dir data_dedup --threshold 0.95",
        group="make",
    ),
}
