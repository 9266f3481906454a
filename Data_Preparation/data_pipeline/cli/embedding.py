"""What the commands share that embed paragraphs: the checks before, the flags, and the summary after."""

import argparse
from typing import TYPE_CHECKING

from data_pipeline.cli.command import local_path
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from data_pipeline.stages.pipeline import Report


def check_ready(config: Config, corpus: bool, weights: bool) -> None:
    """Check that a command can start.

    Raises:
        ConfigError: something is missing; the message names all of it.
    """
    from data_pipeline.machine import preflight

    # Reading a corpus includes counting its tokens.
    problems = preflight(config, corpus, tokenizer=corpus, weights=weights)
    if problems:
        raise ConfigError("this run cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))


def embedding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the short forms of the settings of the embedder."""
    parser.add_argument("--model-name", help="embedding model (embedding.model_name)")
    parser.add_argument("--batch-size", type=int, help="maximum number of texts in a batch (embedding.batch_size)")
    parser.add_argument("--precision", help="precision of the stored vectors: float16, int8, ... (embedding.precision)")
    parser.add_argument(
        "--no-flash-attention",
        action="store_true",
        help="use the attention of torch, text by text (embedding.attention)",
    )
    parser.add_argument("--workers", metavar="N", help="number of worker processes (execution.workers)")
    parser.add_argument(
        "--devices", metavar="NAMES", help="a worker for each of these devices, or all GPUs (execution.devices)"
    )
    parser.add_argument("--log-file", type=local_path, help="path of the log file")


def embedding_rows(report: "Report") -> list[tuple[str, str]]:
    """Return rows of a table about the vectors; empty if a run made none."""
    if not report.embeddings:
        return []
    results = report.embeddings.values()
    tallies = [result.tally for result in results]
    tokens, inside = sum(tally.tokens for tally in tallies), sum(tally.seconds for tally in tallies)
    reused = sum(tally.reused for tally in tallies)
    speed = f"{tokens / inside:,.0f} tokens/s" if inside else "copied" if reused else "finished before"
    truncated = sum(tally.truncated for tally in tallies)
    all_rows, new_rows = (sum(getattr(result, name) for result in results) for name in ("rows", "new_rows"))
    made = f"{all_rows:,} rows" if new_rows in (0, all_rows) else f"{new_rows:,} new rows"
    rows = [
        ("model", report.model),
        ("embeddings", f"{made} x {next(iter(results)).dim}, {speed}"),
    ]
    if reused:
        rows.append(("reused", f"embedded {new_rows - reused:,} of {new_rows:,} rows; {reused:,} reused"))
    if truncated:
        rows.append(("truncated", f"{truncated:,} texts were longer than the limit of the model"))
    for dtype in sorted({name for tally in tallies for name in tally.recomputed}):
        count = sum(tally.recomputed.get(dtype, 0) for tally in tallies)
        rows.append(("recomputed", f"{count:,} vectors were not finite and were computed again in {dtype}"))
    return rows
