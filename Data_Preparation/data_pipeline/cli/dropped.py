"""Command `dropped`: the paragraphs that were left out, and why."""

import argparse
from collections.abc import Mapping
from typing import Any

from data_pipeline.cli.command import Command, common_arguments, configure_existing
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Grid, present
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError
from data_pipeline.utils.terminal import one_line

_LIMIT = 10
_TEXT_CHARS = 100


def _dropped(parsed: argparse.Namespace, given: Given) -> int:
    if parsed.limit is not None and parsed.limit < 1:
        raise ConfigError(f"--limit must be 1 or more, found {parsed.limit}")
    is_listing = parsed.reason is not None or parsed.document is not None
    if parsed.limit is not None and not is_listing:
        raise ConfigError("--limit is for the rows of a reason or a document: add --reason or --document")
    config = configure_existing(parsed, given)
    return _list_rows(config, parsed) if is_listing else _count_reasons(config)


def _count_reasons(config: Config) -> int:
    from data_pipeline.store import ParagraphStore
    from data_pipeline.store.dropped import count_dropped

    counts = count_dropped(config.processed_dir)
    manifest, dropped = ParagraphStore(config.processed_dir).manifest, counts.total()
    found = manifest["counts"]["paragraphs"] if manifest else dropped
    reasons: list[dict[str, Any]] = [
        {"reason": reason, "stage": stage, "count": count, "share": count / max(1, found)}
        for (stage, reason), count in sorted(counts.items(), key=lambda item: (item[1], item[0][1]), reverse=True)
    ]
    document = {"folder": config.processed_dir, "found": found, "dropped": dropped, "reasons": reasons}
    if not reasons:
        present(document, f"none of {found:,} paragraphs was dropped")
        return 0
    rows = [(each["reason"], each["stage"], f"{each['count']:,}", f"{each['share']:.2%}") for each in reasons]
    rows.append(("all", "", f"{dropped:,}", f"{dropped / max(1, found):.2%}"))
    table = Grid(("reason", "stage", "rows", "share"), rows, right={2, 3})
    present(document, table, f"\nof {found:,} paragraphs; `elm dropped --reason {reasons[0]['reason']}` lists some")
    return 0


def _list_rows(config: Config, parsed: argparse.Namespace) -> int:
    from data_pipeline.store.dropped import read_dropped, read_example_texts

    ledger = read_dropped(config.processed_dir, parsed.reason, parsed.document)
    limit = parsed.limit or _LIMIT
    texts = read_example_texts(config.processed_dir)
    # Rows with a text first, which are the ones to read.
    records = sorted(ledger.to_pylist(), key=lambda row: (row["text_id"], row["reason"]) not in texts)
    rows = [{**record, "text": texts.get((record["text_id"], record["reason"]))} for record in records[:limit]]
    document = {"folder": config.processed_dir, "reason": parsed.reason, "document_id": parsed.document,
                "count": len(ledger), "rows": rows}  # fmt: skip
    if not rows:
        reason = f" for {parsed.reason}" if parsed.reason else ""
        present(document, f"no paragraph of document {parsed.document} was dropped{reason}")
        return 0
    names = ["text_id", *([] if parsed.reason else ["reason"])]
    names += [name for name in ("duplicate_of", "text") if any(row[name] for row in rows)]
    cells = [[one_line(row[name] or "", _TEXT_CHARS) for name in names] for row in rows]
    more = [f"\n{len(rows):,} of {len(ledger):,} rows; --limit N lists more"] if len(rows) < len(ledger) else []
    present(document, Grid(names, cells), *more)
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="REASON", help="list rows that were dropped for this reason")
    parser.add_argument("--document", metavar="ID", help="list rows of this document")
    parser.add_argument("--limit", type=int, metavar="N", help=f"number of rows to list (default {_LIMIT})")
    common_arguments(parser)


COMMANDS: Mapping[str, Command] = {
    "dropped": Command(
        "count and list the paragraphs that were left out",
        _arguments,
        _dropped,
        example="elm dropped --reason too_few_tokens --limit 20",
    ),
}
