"""Command `append`: documents that a dataset gets after it was made."""

import argparse
import time
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure_existing, decontamination_arguments
from data_pipeline.cli.embedding import check_ready, embedding_arguments, embedding_rows
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.cli.sparse import sparse_rows
from data_pipeline.config import Config


def append_and_say(config: Config, skip_embeddings: bool, started: float) -> int:
    """Append the documents of the configured source, and print what changed.

    Args:
        config: settings of the dataset, and the source.
        skip_embeddings: whether to leave new rows without vectors.
        started: time when the command started, of `time.monotonic`.
    """
    from data_pipeline.execution.run import append_documents
    from data_pipeline.store.manifest import version_of

    check_ready(config, corpus=True, weights=not skip_embeddings)
    growth, report = append_documents(config, skip_embeddings)
    found, manifest = growth.documents, growth.manifest
    rows = [
        ("folder", str(report.processed_dir)),
        ("documents", ", ".join(f"{found[name]:,} {name}" for name in ("added", "changed", "gone", "unchanged"))),
    ]
    for split, counts in growth.rows.items():
        change = f"{counts['added']:,} added, {counts['removed']:,} removed"
        rows.append((split, f"{manifest['splits'][split]['rows']:,} rows ({change})"))
    version, has_changed = version_of(manifest), any(sum(counts.values()) for counts in growth.rows.values())
    parent = f", made from version {manifest['parent']}" if has_changed else "; no row changed, so there is no new one"
    rows += [("version", f"{version}{parent}"), *embedding_rows(report), *sparse_rows(report)]
    seconds = time.monotonic() - started
    document = {
        "folder": report.processed_dir,
        "documents": found,
        "rows": growth.rows,
        "version": version,
        "parent": manifest["parent"] if has_changed else None,
        "seconds": round(seconds, 3),
        **report.to_json(),
    }
    present(document, f"\nDone in {seconds:.1f} s", Facts(rows))
    return 0


def _append(parsed: argparse.Namespace, given: Given) -> int:
    started = time.monotonic()
    config = configure_existing(parsed, given, "pipeline.log")
    return append_and_say(config, parsed.skip_embeddings, started)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", help="source of the text (corpus.source)")
    parser.add_argument(
        "--on-changed",
        choices=("fail", "replace", "keep"),
        help="documents that changed or are gone (corpus.on_changed)",
    )
    common_arguments(parser)
    embedding_arguments(parser)
    decontamination_arguments(parser)
    parser.add_argument("--min-tokens", type=int, help="minimum tokens of a paragraph (preprocess.min_tokens)")
    parser.add_argument("--max-tokens", type=int, help="maximum tokens of a paragraph (preprocess.max_tokens)")
    parser.add_argument("--skip-embeddings", action="store_true", help="leave new rows without vectors")


COMMANDS: Mapping[str, Command] = {
    "append": Command(
        "add new and changed documents, and embed only these",
        _arguments,
        _append,
        example="elm append --source jsonl --corpus.path more.jsonl",
        group="make",
    ),
}
