"""Commands that make a corpus: `run` and `embed`."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.cli.append import append_and_say
from data_pipeline.cli.command import (
    Command,
    common_arguments,
    configure,
    configure_existing,
    decontamination_arguments,
    shown_path,
)
from data_pipeline.cli.embedding import check_ready, embedding_arguments, embedding_rows
from data_pipeline.cli.flags import Given
from data_pipeline.cli.info import paragraph_rows
from data_pipeline.cli.output import Facts, present
from data_pipeline.cli.plan import plan_of_run
from data_pipeline.cli.report import report_after_run, report_rows
from data_pipeline.cli.slurm import submit_and_say
from data_pipeline.cli.sparse import sparse_rows
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import human_bytes

if TYPE_CHECKING:
    from data_pipeline.report.make import WrittenReport
    from data_pipeline.stages.pipeline import Report


def _run(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.run import run_pipeline
    from data_pipeline.working_copy.opened import refresh

    started = time.monotonic()
    config = configure(parsed, given, "pipeline.log")
    if parsed.append:
        refresh(config)
    if parsed.append and config.processed_dir.is_dir():
        if parsed.overwrite or parsed.skip_download or parsed.dry_run:
            raise ConfigError("--append goes without --overwrite, --skip-download and --dry-run; leave them out")
        code = append_and_say(config, parsed.skip_embeddings, started)
        if written := report_after_run(config):
            present({"report": written.path}, Facts(report_rows(written)))
        return code
    check_ready(config, corpus=not parsed.skip_download, weights=not parsed.skip_embeddings)
    if parsed.dry_run:
        return _say_plan(config, parsed.skip_download, parsed.skip_embeddings)
    if config.execution.engine == "slurm":
        return submit_and_say(config, parsed.skip_download, parsed.skip_embeddings, parsed.overwrite)
    report = run_pipeline(config, parsed.skip_download, parsed.skip_embeddings, parsed.overwrite)
    seconds = time.monotonic() - started
    _present(config, report, seconds, report_after_run(config))
    return 0


def _embed(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.run import embed_corpus
    from data_pipeline.stages.pipeline import save_run

    started = time.monotonic()
    config = configure_existing(parsed, given, "embeddings.log")
    check_ready(config, corpus=False, weights=True)
    if config.execution.engine == "slurm":
        return submit_and_say(config, True, False, parsed.overwrite, parsed.splits)
    report = embed_corpus(config, parsed.splits, parsed.overwrite)
    save_run(config, report)
    _present(config, report, time.monotonic() - started)
    return 0


def _say_plan(config: Config, skip_download: bool, skip_embeddings: bool) -> int:
    corpus = "the existing paragraphs" if skip_download else f"corpus source {config.corpus.source}"
    rows = [
        ("from", corpus),
        ("paragraphs to", str(config.processed_dir)),
        (
            "tokens",
            f"{config.preprocess.min_tokens} to {config.preprocess.max_tokens} of {config.embedding.model_name}",
        ),
        ("splits", f"by {config.split.method}, seed {config.split.seed}"),
        ("embeddings to", "none" if skip_embeddings else str(config.embeddings_dir)),
    ]
    if not skip_download:
        rows += plan_of_run(config, skip_embeddings)
    present(
        {"dry_run": True, "plan": dict(rows)},
        "dry run: everything is there, nothing was written. This would be made:",
        Facts(rows),
    )
    return 0


def _present(config: Config, report: "Report", seconds: float, written: "WrittenReport | None" = None) -> None:
    """Present the result of a run, with the page about the dataset, if there is one."""
    manifest = report.manifest
    corpus = manifest.get("corpus") if manifest else None
    rows = [("corpus", corpus or report.processed_dir.name), *paragraph_rows(manifest)]
    splits = manifest["splits"].values() if manifest else ()
    files = [report.processed_dir / shard["file"] for split in splits for shard in split["shards"]]
    rows += embedding_rows(report)
    files += [path for result in report.embeddings.values() for path in result.files]
    rows += sparse_rows(report)
    rows += [
        ("files" if n == 0 else "", f"{_place(config, path)} ({human_bytes(path.stat().st_size)})")
        for n, path in enumerate(files)
    ]
    rows += report_rows(written) if written else []
    opening = (
        "Open them:\n"
        "  from data_pipeline import ELMDataset\n"
        f'  dataset = ELMDataset({_place(config, config.data_dir)!r}, split="train"'
        + ("" if report.embeddings else ", load_embeddings=False")
        + (f", variant={config.embedding.variant!r}" if config.embedding.variant else "")
        + ")\n"
        '  dataset[0]["text"]' + (', dataset[0]["embedding"].shape' if report.embeddings else "")
    )
    document = {
        "data_dir": config.shown_location,
        "corpus": corpus or report.processed_dir.name,
        "model": report.model or None,
        "seconds": round(seconds, 3),
        **report.to_json(),
        "report": written.path if written else None,
        "files": [_place(config, path) for path in files],
    }
    present(document, f"\nDone in {seconds:.1f} s", Facts(rows), opening)


def _place(config: Config, path: Path) -> str:
    """Return the URL of a path in the data folder, if that has one, else the path as it is shown."""
    if config.data_url is None:
        return str(shown_path(path))
    return "/".join([config.shown_location, *path.relative_to(config.data_dir).parts])


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="source of the text (corpus.source)")
    common_arguments(parser)
    embedding_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")
    parser.add_argument("--limit", type=int, help="read only the first documents, to try a run (corpus.limit)")
    parser.add_argument("--languages", nargs="+", metavar="CODE", help="languages to keep (filters.languages)")
    parser.add_argument("--min-tokens", type=int, help="minimum tokens of a paragraph (preprocess.min_tokens)")
    parser.add_argument("--max-tokens", type=int, help="maximum tokens of a paragraph (preprocess.max_tokens)")
    decontamination_arguments(parser)
    parser.add_argument(
        "--append", action="store_true", help="add what the source has got since the existing paragraphs were made"
    )
    parser.add_argument("--skip-download", action="store_true", help="use the existing paragraphs")
    parser.add_argument("--skip-embeddings", action="store_true", help="stop after the paragraphs")
    parser.add_argument("--dry-run", action="store_true", help="check that the run can start, and write nothing")


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    embedding_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="splits to embed (default: all)")
    parser.add_argument("--no-fp16", action="store_true", help="compute in float32 (embedding.dtype)")
    parser.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="vectors of length 1 (embedding.normalize)"
    )


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "run the main pipeline: corpus -> paragraphs -> embeddings",
        _run_arguments,
        _run,
        example="elm run --preset offline --source jsonl --corpus.path mine.jsonl --output-dir data",
        group="make",
    ),
    "embed": Command(
        "embed existing paragraphs",
        _embed_arguments,
        _embed,
        example="elm embed --precision int8 --embedding.variant int8",
        group="make",
    ),
}
