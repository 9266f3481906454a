"""Command `sparse`: sparse vectors of existing paragraphs."""

import argparse
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import human_bytes

if TYPE_CHECKING:
    from data_pipeline.stages.pipeline import Report


def _sparse(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.run import make_sparse_corpus
    from data_pipeline.stages.pipeline import save_run

    started = time.monotonic()
    config = configure_existing(parsed, given, "sparse.log")
    if config.sparse.model_name is None:
        raise ConfigError(
            "name a model that gives sparse vectors: --sparse.model_name BAAI/bge-m3, or a SPLADE model "
            "(`elm models sparse` lists some)"
        )
    report = make_sparse_corpus(config, parsed.splits, parsed.overwrite)
    save_run(config, report)
    seconds = time.monotonic() - started
    document = {"model": report.sparse_model, "seconds": round(seconds, 3), **report.to_json()}
    present(document, f"\nDone in {seconds:.1f} s", Facts(sparse_rows(report)))
    return 0


def sparse_rows(report: "Report") -> list[tuple[str, str]]:
    """Return rows of a table about sparse vectors; empty if a run made none."""
    rows = []
    for split, result in report.sparse.items():
        size = human_bytes(sum(path.stat().st_size for path in result.files))
        done = ", finished before" if result.skipped else ""
        rows.append((f"sparse {split}", f"{result.rows:,} rows of {result.width:,} words ({size}{done})"))
    return [("sparse model", report.sparse_model), *rows] if rows else []


def _arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="splits to encode (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")
    parser.add_argument("--log-file", type=local_path, help="path of the log file")


COMMANDS: Mapping[str, Command] = {
    "sparse": Command(
        "make sparse vectors (SPLADE, BGE-M3) of existing paragraphs",
        _arguments,
        _sparse,
        example="elm sparse --sparse.model_name BAAI/bge-m3",
        group="make",
    ),
}
