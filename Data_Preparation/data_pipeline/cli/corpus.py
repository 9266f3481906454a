"""Commands that make and inspect a corpus: `run`, `embed`, `verify`, `info`, `doctor`."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.cli.append import append_and_say
from data_pipeline.cli.command import (
    FAILED,
    Command,
    common_arguments,
    configure,
    configure_existing,
    decontamination_arguments,
    say,
)
from data_pipeline.cli.embedding import check_ready, embedding_arguments, embedding_rows
from data_pipeline.cli.flags import Given
from data_pipeline.cli.plan import plan_of_run
from data_pipeline.cli.slurm import submit_and_say
from data_pipeline.cli.sparse import sparse_rows
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.user_files import visible
from data_pipeline.utils import format_table, human_bytes

if TYPE_CHECKING:
    from data_pipeline.stages.pipeline import Report
    from data_pipeline.store.manifest import ParagraphManifest


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
        return append_and_say(config, parsed.skip_embeddings, started)
    check_ready(config, corpus=not parsed.skip_download, weights=not parsed.skip_embeddings)
    if parsed.dry_run:
        return _say_plan(config, parsed.skip_download, parsed.skip_embeddings)
    if config.execution.engine == "slurm":
        return submit_and_say(config, parsed.skip_download, parsed.skip_embeddings, parsed.overwrite)
    report = run_pipeline(config, parsed.skip_download, parsed.skip_embeddings, parsed.overwrite)
    say(_summary(config, report, time.monotonic() - started))
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
    say(_summary(config, report, time.monotonic() - started))
    return 0


def _verify(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.verify import verify_corpus

    config = configure_existing(parsed, given)
    good, bad = verify_corpus(config, parsed.level, parsed.rows)
    for line in good:
        print(f"ok     {line}")
    for line in bad:
        print(f"FAULT  {line}")
    print(f"{config.processed_dir}: " + (f"{len(bad)} faults" if bad else "everything is in order"))
    return FAILED if bad else 0


def _info(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.dataset import ELMDataset
    from data_pipeline.store import ParagraphStore, open_scores
    from data_pipeline.store.manifest import EmbeddingManifest, SparseManifest, read_manifest

    config = configure_existing(parsed, given)
    store = ParagraphStore(config.processed_dir)
    corpus = store.manifest.get("corpus") if store.manifest else None
    rows = [("corpus", corpus or store.folder.name), ("folder", str(store.folder))]
    if store.manifest:
        from data_pipeline.stages.licenses import licenses_of

        rows.append(("licence", ", ".join(licenses_of(store.manifest))))
    rows += _paragraph_rows(store.manifest)
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    embedded: Mapping[str, Any] = manifest["splits"] if manifest else {}
    for split in store.splits:
        dataset = ELMDataset(split=split, load_embeddings=split in embedded, config=config)
        statistics = dataset.get_statistics()
        tokens = statistics["token_count"]
        text = f"{statistics['rows']:,} rows, {tokens['total']:,} tokens"
        if "embedding" in statistics and len(dataset):
            vector = statistics["embedding"]
            text += f", {vector['dim']} dimensions ({vector['precision']}), mean norm {vector['norm_mean']:.4f}"
        rows.append((split, text))
    for split in store.splits:
        if names := [scores.name for scores in open_scores(config.scores_dir, split)]:
            rows.append((f"{split} scores", ", ".join(names)))
    selections = [
        path.parent.name for path in visible(config.selections_dir.glob("*/manifest.json"), config.selections_dir)
    ]
    if selections:
        rows.append(("selections", ", ".join(selections)))
    for name, entry in embedded.items():
        settings = entry["settings"]
        rows.append((f"{name} made by", f"{settings['model']} {settings['revision'][:32]}, {settings['pooling']}"))
    sparse = read_manifest(config.sparse_dir, SparseManifest)
    for name, entry in sparse["splits"].items() if sparse else ():
        rows.append((f"{name} sparse", f"{entry['rows']:,} rows by {entry['settings']['model']}"))
    say(format_table(rows))
    return 0


def _doctor(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.machine import facts

    config = configure(parsed, given)
    marks = {True: "yes", False: "no ", None: "   "}
    say("\n".join(f"{marks[fact.good]}  {fact.name:<18} {fact.value}" for fact in facts(config.data_dir)))
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
    say("dry run: everything is there, nothing was written. This would be made:\n" + format_table(rows))
    return 0


def _paragraph_rows(manifest: "ParagraphManifest | None") -> list[tuple[str, str]]:
    """Return rows of a table about the paragraphs."""
    if manifest is None:
        return [("paragraphs", "made by an older pipeline, without counts")]
    counts, leakage = manifest["counts"], manifest["leakage"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items()) or "none"
    rows = [
        ("paragraphs", f"{counts['paragraphs']:,} found, {counts['kept']:,} kept"),
        ("dropped", dropped),
        (
            "splits",
            ", ".join(f"{split} {entry['rows']:,}" for split, entry in manifest["splits"].items())
            + f" (by {manifest['settings']['split']['method']}, seed {manifest['settings']['split']['seed']})",
        ),
    ]
    from data_pipeline.store.manifest import version_of

    if (version := version_of(manifest)) > 1:
        rows.append(("version", f"{version}; `elm versions` lists the earlier ones that are kept"))
    if personal := counts.get("personal_data"):
        handling = "masked" if manifest["settings"]["filters"]["pii"] == "mask" else "found and dropped"
        found = ", ".join(f"{count:,} {kind}" for kind, count in personal.items())
        rows.append(("personal data", f"{found} ({handling})"))
    if (share := counts.get("too_long_token_share")) is not None:
        from data_pipeline.stages.preprocess import too_long_advice

        rows.append(("too long", too_long_advice(share, manifest["settings"]["preprocess"]["max_tokens"])))
    return [*rows, ("leakage", _leakage_text(leakage))]


def _leakage_text(leakage: Mapping[str, Any]) -> str:
    article, near = leakage["article_in_train"], leakage["near_duplicate_in_train"]
    if article is None or near is None:
        return "not measured: train or test is empty"
    compared, rows = leakage["test_paragraphs_compared"], leakage["test_paragraphs"]
    of = "" if compared == rows else f" (of the first {compared:,})"
    return f"{article:.1%} of the test paragraphs have their article in train, {near:.1%} a near duplicate{of}"


def _summary(config: Config, report: "Report", seconds: float) -> str:
    manifest = report.manifest
    corpus = manifest.get("corpus") if manifest else None
    rows = [("corpus", corpus or report.processed_dir.name), *_paragraph_rows(manifest)]
    splits = manifest["splits"].values() if manifest else ()
    files = [report.processed_dir / shard["file"] for split in splits for shard in split["shards"]]
    rows += embedding_rows(report)
    files += [path for result in report.embeddings.values() for path in result.files]
    rows += sparse_rows(report)
    rows += [
        ("files" if n == 0 else "", f"{_place(config, path)} ({human_bytes(path.stat().st_size)})")
        for n, path in enumerate(files)
    ]
    opening = (
        "Open them:\n"
        "  from data_pipeline import ELMDataset\n"
        f'  dataset = ELMDataset({_place(config, config.data_dir)!r}, split="train"'
        + ("" if report.embeddings else ", load_embeddings=False")
        + (f", variant={config.embedding.variant!r}" if config.embedding.variant else "")
        + ")\n"
        '  dataset[0]["text"]' + (', dataset[0]["embedding"].shape' if report.embeddings else "")
    )
    return f"\nDone in {seconds:.1f} s\n{format_table(rows)}\n{opening}"


def _place(config: Config, path: Path) -> str:
    """Return the URL of a path in the data folder, if that has one, else the path as it is shown."""
    if config.data_url is None:
        return str(_shown(path))
    return "/".join([config.shown_location, *path.relative_to(config.data_dir).parts])


def _shown(path: Path) -> Path:
    """Return a path relative to the current folder, if it is inside."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path


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


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument(
        "--level", choices=("size", "hash", "reembed", "canary"), metavar="{size,hash,reembed}", default="hash",
        help="size: files, sizes and headers; hash: also every byte (default); reembed: also some rows embedded again",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=64, help="rows of each split to embed again with --level reembed")


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "run the main pipeline: corpus -> paragraphs -> embeddings",
        _run_arguments,
        _run,
        example="elm run --preset offline --source jsonl --corpus.path mine.jsonl --output-dir data",
    ),
    "embed": Command(
        "embed existing paragraphs",
        _embed_arguments,
        _embed,
        example="elm embed --precision int8 --embedding.variant int8",
    ),
    "verify": Command(
        "verify checksums, counts, norms and alignment of the files on disk",
        _verify_arguments,
        _verify,
        example="elm verify --level hash",
    ),
    "info": Command("describe the dataset on disk", common_arguments, _info, example="elm info --output-dir data"),
    "doctor": Command("report what this machine can run", common_arguments, _doctor, example="elm doctor"),
}
