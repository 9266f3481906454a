"""Commands that apply heads: `annotate`, and the two file pipelines."""

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import configure_logging

if TYPE_CHECKING:
    from data_pipeline.integrations.ml_filter import JobReport


def _annotate(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.scores import annotate
    from data_pipeline.heads import load_head

    config = configure_existing(parsed, given, "annotate.log")
    heads = {name: load_head(source) for name, source in _parse_heads(parsed.heads).items()}
    results = annotate(config, heads, parsed.splits, parsed.overwrite, parsed.device)
    columns = next(iter(results.values())).columns
    rows = [
        (str(split), f"{result.rows:,} rows{', finished before' if result.skipped else ''}")
        for split, result in results.items()
    ]
    rows += [("columns", ", ".join(columns)), ("files", str(config.scores_dir))]
    document = {
        "splits": {split: {"rows": result.rows, "skipped": result.skipped} for split, result in results.items()},
        "columns": columns,
        "folder": config.scores_dir,
    }
    reading = f'Read them:\n  ELMDataset({str(config.data_dir)!r}, where="...")[0]["metadata"]'
    present(document, Facts(rows), reading)
    return 0


def _annotate_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument(
        "--heads",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="heads and their names",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="splits to score (default: all)")
    parser.add_argument("--device", default="cpu", help="scoring device: cpu (default), cuda, cuda:1")
    parser.add_argument("--log-file", type=local_path, help="path of the log file")
    _overwrite_argument(parser)


def _parse_heads(pairs: list[str]) -> dict[str, str]:
    heads: dict[str, str] = {}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not equals or not name or not source:
            raise ConfigError(f"--heads takes NAME=PATH, found {pair!r}")
        if name in heads:
            raise ConfigError(f"--heads names {name!r} twice")
        heads[name] = source
    return heads


def _embedding_pipeline(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.integrations.ml_filter import run_embedding_pipeline

    return _pipeline(parsed, run_embedding_pipeline)


def _annotation_pipeline(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.integrations.ml_filter import run_annotation_pipeline

    return _pipeline(parsed, run_annotation_pipeline)


def _pipeline(parsed: argparse.Namespace, run: "Callable[..., JobReport]") -> int:
    configure_logging(None)
    report = run(parsed.config_file_path, overwrite=parsed.overwrite)
    if report.slurm_job_id is not None:
        present(
            {"slurm_job_id": report.slurm_job_id, "logging_dir": report.logging_dir},
            f"submitted to Slurm as job {report.slurm_job_id}; reports will be in {report.logging_dir}",
            "Run the same command again when it has ended: what is finished is skipped.",
        )
        return 0
    skipped = sum(file.skipped for file in report.files)
    document = {
        "rows": report.rows,
        "seconds": round(report.seconds, 3),
        "files": report.files,
        "logging_dir": report.logging_dir,
    }
    before = f", {skipped} of them finished before" if skipped else ""
    done = f"Done in {report.seconds:.1f} s: {report.rows:,} rows in {len(report.files)} files{before}"
    present(document, f"{done}; report in {report.logging_dir}")
    return 0


def _pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config_file_path", type=local_path, required=True, help="YAML file of the job")
    _overwrite_argument(parser)


def _overwrite_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")


COMMANDS: Mapping[str, Command] = {
    "annotate": Command(
        "score the paragraphs of a corpus with heads",
        _annotate_arguments,
        _annotate,
        example="elm annotate --heads edu=heads/edu",
        group="enrich",
    ),
    "run_embedding_pipeline": Command(
        "embed JSON Lines files to HDF5, configured by a YAML file",
        _pipeline_arguments,
        _embedding_pipeline,
        settings=False,
        example="elm run_embedding_pipeline --config_file_path embedding_job.yaml",
        group="make",
    ),
    "run_annotation_pipeline": Command(
        "score HDF5 files to JSON Lines, configured by a YAML file",
        _pipeline_arguments,
        _annotation_pipeline,
        settings=False,
        example="elm run_annotation_pipeline --config_file_path annotation_job.yaml",
        group="enrich",
    ),
}
