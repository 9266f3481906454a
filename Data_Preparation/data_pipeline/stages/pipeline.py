"""Order of the stages of the main pipeline; no other module knows it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_pipeline.config import Config
from data_pipeline.download import open_corpus
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.embeddings import load_embedder, load_tokenizer
from data_pipeline.errors import ConfigError, NotFoundError
from data_pipeline.stages.append import Appended, Growth, open_appended
from data_pipeline.stages.base import Executor, run_in_order, run_stage, write_run_record
from data_pipeline.stages.embed import SplitResult, embed_split, stored_precision
from data_pipeline.stages.preprocess import CorpusParagraphs, Source, is_processed_file
from data_pipeline.stages.reuse import Reuse
from data_pipeline.stages.sparse import SparseResult, make_sparse_vectors
from data_pipeline.store import ParagraphStore
from data_pipeline.store.manifest import ParagraphManifest
from data_pipeline.types import SPLITS, Split
from data_pipeline.user_files import visible
from data_pipeline.utils import exclusive
from data_pipeline.utils.displays import Displayed
from data_pipeline.utils.folders import discarded_on_error, new_folder, recover_folder, replace_folder

logger = logging.getLogger(__name__)


@dataclass(repr=False)
class Report(Displayed):
    """Result of a run of the main pipeline."""

    processed_dir: Path
    manifest: ParagraphManifest | None
    """Manifest of the paragraphs; None if an older pipeline wrote them."""
    preprocess_skipped: bool = False
    preprocess_s: float = 0.0
    embedding_s: float = 0.0
    model: str = ""
    embeddings: dict[Split, SplitResult] = field(default_factory=dict)
    sparse_s: float = 0.0
    sparse_model: str = ""
    sparse: dict[Split, SparseResult] = field(default_factory=dict)

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        rows = [("folder", str(self.processed_dir))]
        if self.manifest is not None:
            counts = self.manifest["counts"]
            dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items()) or "none"
            splits = ", ".join(f"{split} {entry['rows']:,}" for split, entry in self.manifest["splits"].items())
            rows += [("paragraphs", f"{counts['paragraphs']:,} found, {counts['kept']:,} kept"),
                     ("dropped", dropped), ("splits", splits)]  # fmt: skip
        rows += [("model", self.model)] if self.model else []
        rows += [(f"embeddings {split}", result.display_text()) for split, result in self.embeddings.items()]
        rows += [(f"sparse {split}", f"{result.rows:,} rows of {result.width:,} words")
                 for split, result in self.sparse.items()]  # fmt: skip
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, for the record of a run."""
        return {
            "preprocess_skipped": self.preprocess_skipped,
            "preprocess_s": round(self.preprocess_s, 3),
            "embedding_s": round(self.embedding_s, 3),
            "counts": self.manifest["counts"] if self.manifest else None,
            "leakage": self.manifest.get("leakage") if self.manifest else None,
            "embeddings": {
                split: {
                    "rows": result.rows,
                    "dim": result.dim,
                    "skipped": result.skipped,
                    "tokens": result.tally.tokens,
                    "tokens_per_s": round(result.tally.tokens_per_s, 1),
                    "truncated": result.tally.truncated,
                    "reused": result.tally.reused,
                    "recomputed": result.tally.recomputed,
                    "memory_backoffs": result.tally.memory_backoffs,
                    **({"usage": asdict(result.tally.usage)} if result.tally.usage.calls else {}),
                }
                for split, result in self.embeddings.items()
            },
            **({"sparse_s": round(self.sparse_s, 3), "sparse": self._sparse_to_json()} if self.sparse else {}),
        }

    def _sparse_to_json(self) -> dict[str, Any]:
        return {
            split: {"rows": result.rows, "width": result.width, "skipped": result.skipped}
            for split, result in self.sparse.items()
        }


def run_pipeline(
    config: Config,
    skip_download: bool = False,
    skip_embeddings: bool = False,
    overwrite: bool = False,
    execute: Executor = run_in_order,
) -> Report:
    """Run the main pipeline: corpus -> paragraphs -> embeddings, and sparse vectors if their model is named.

    Finished work is skipped, and interrupted work resumes.

    Args:
        config: all settings.
        skip_download: whether to use the existing paragraphs without reading the corpus.
        skip_embeddings: whether to stop after the paragraphs.
        overwrite: whether to replace outputs that were made with other settings or are damaged.
        execute: runs the tasks of the stages.

    Raises:
        DataPipelineError: see `data_pipeline.errors`.
    """
    report = prepare_paragraphs(config, skip_download, overwrite, execute)
    if not skip_embeddings:
        embed_corpus(config, SPLITS, overwrite, report, execute)
        if config.sparse.model_name is not None:
            make_sparse_corpus(config, SPLITS, overwrite, report, execute)
    save_run(config, report)
    return report


run = run_pipeline
"""Former name of `run_pipeline`."""


def prepare_paragraphs(
    config: Config, skip_download: bool = False, overwrite: bool = False, execute: Executor = run_in_order
) -> Report:
    """Make the paragraphs of a corpus, unless they exist.

    Raises:
        StaleStageError: paragraphs with other settings exist, and `overwrite` is false.
    """
    folder = config.processed_dir
    with exclusive(folder):
        recover_folder(folder, is_processed_file)
        if skip_download:
            store = ParagraphStore(folder)
            store.check()
            return Report(folder, store.manifest, preprocess_skipped=True)
        started = time.monotonic()
        evaluation_sets = open_evaluation_sets(config.decontamination)
        tokenizer, source = load_tokenizer(config.embedding), Source(open_corpus(config.corpus), config.corpus)
        appended = partial(open_appended, folder, source, config.sources_root)
        stage = CorpusParagraphs(config, source.corpus, tokenizer, evaluation_sets, appended, execute)
        prepared = run_stage(stage, overwrite=overwrite)
        seconds = 0.0 if prepared.skipped else time.monotonic() - started
        return Report(folder, prepared.manifest, prepared.skipped, seconds)


def append_documents(
    config: Config, skip_embeddings: bool = False, execute: Executor = run_in_order
) -> tuple[Growth, Report]:
    """Append the documents of a source to a dataset, and embed what they add; see `stages.append`.

    A reader sees the dataset as it was until all is there.

    Args:
        config: settings of the dataset, with the source to append, or with its own source that has grown.
        skip_embeddings: whether to leave the new rows without vectors.
        execute: runs the tasks of the stages.

    Returns:
        What was appended, and the report of the embeddings.

    Raises:
        DataPipelineError: see `data_pipeline.errors`; the dataset stays as it was.
    """
    folder = config.processed_dir
    with exclusive(folder), discarded_on_error(folder):
        recover_folder(folder, is_processed_file)
        started = time.monotonic()
        evaluation_sets = open_evaluation_sets(config.decontamination)
        source = Source(open_corpus(config.corpus), config.corpus)
        growth = Appended(config, source, load_tokenizer(config.embedding), evaluation_sets, execute).write()
        report = Report(folder, growth.manifest, not growth.is_written, time.monotonic() - started)
        store = ParagraphStore(new_folder(folder) if growth.is_written else folder)
        if not skip_embeddings:
            embed_store(config, store, SPLITS, report=report, execute=execute)
        if growth.is_written:
            replace_folder(folder, is_processed_file)
    if not skip_embeddings and config.sparse.model_name is not None:
        make_sparse_corpus(config, SPLITS, report=report, execute=execute)
    save_run(config, report)
    return growth, report


def embed_corpus(
    config: Config,
    splits: Sequence[Split],
    overwrite: bool = False,
    report: Report | None = None,
    execute: Executor = run_in_order,
) -> Report:
    """Embed existing paragraphs.

    Args:
        config: configuration with the folders and the embedder.
        splits: splits to embed.
        overwrite: whether to replace embeddings that were made with other settings or are damaged.
        report: report to extend; None for a new one.
        execute: runs the tasks.

    Returns:
        The extended report.

    Raises:
        NotFoundError: the corpus has no paragraphs.
        StaleStageError: embeddings with other settings exist, and `overwrite` is false.
    """
    store = ParagraphStore(config.processed_dir)
    store.check()
    return embed_store(config, store, splits, overwrite, report, execute)


embed = embed_corpus
"""Former name of `embed_corpus`."""


def embed_and_encode(
    config: Config, splits: Sequence[Split], overwrite: bool = False, execute: Executor = run_in_order
) -> Report:
    """Embed existing paragraphs, and make their sparse vectors if a model of those is named; see `run_pipeline`."""
    report = embed_corpus(config, splits, overwrite, execute=execute)
    if config.sparse.model_name is not None:
        make_sparse_corpus(config, splits, overwrite, report, execute)
    return report


def embed_store(
    config: Config,
    store: ParagraphStore,
    splits: Sequence[Split],
    overwrite: bool = False,
    report: Report | None = None,
    execute: Executor = run_in_order,
) -> Report:
    """Embed the paragraphs of a store, which need not be published yet; see `embed_corpus`."""
    report = report or Report(store.folder, store.manifest, preprocess_skipped=True)
    started = time.monotonic()
    with exclusive(config.embeddings_dir):
        embedder = load_embedder(config.embedding)
        report.model = embedder.identity.model
        reuse = None
        if config.embedding.reuse:
            roots = (config.data_dir, *config.embedding.reuse_from)
            precision = stored_precision(embedder, config.embedding)
            reuse = Reuse(roots, config.embeddings_dir, embedder, precision)
        for split in splits:
            report.embeddings[split] = embed_split(
                store, split, embedder, config.embedding, config.embeddings_dir, overwrite, reuse, execute
            )
    report.embedding_s = time.monotonic() - started
    return report


def make_sparse_corpus(
    config: Config,
    splits: Sequence[Split],
    overwrite: bool = False,
    report: Report | None = None,
    execute: Executor = run_in_order,
) -> Report:
    """Make the sparse vectors of existing paragraphs.

    Args:
        config: configuration with the folders and the sparse model.
        splits: splits to encode.
        overwrite: whether to replace sparse vectors that were made with other settings or are damaged.
        report: report to extend; None for a new one.
        execute: runs the tasks.

    Returns:
        The extended report.

    Raises:
        ConfigError: no sparse model is named.
        NotFoundError: the corpus has no paragraphs.
        StaleStageError: sparse vectors with other settings exist, and `overwrite` is false.
    """
    from data_pipeline.embeddings.sparse.load import load_sparse_encoder  # which imports torch

    store = ParagraphStore(config.processed_dir)
    store.check()
    report = report or Report(store.folder, store.manifest, preprocess_skipped=True)
    started = time.monotonic()
    with exclusive(config.sparse_dir):
        encoder = load_sparse_encoder(config.sparse)
        report.sparse_model = encoder.identity.model
        for split in splits:
            report.sparse[split] = make_sparse_vectors(
                store, split, encoder, config.sparse_dir, overwrite, config.sparse, execute
            )
    report.sparse_s = time.monotonic() - started
    return report


def find_corpus(config: Config, named: bool) -> Config:
    """Return the config with the name of the only corpus on disk, if the user named none.

    Args:
        config: configuration with the data folder.
        named: whether the user named the corpus, which is then kept.

    Raises:
        ConfigError: the data folder has several corpora.
        NotFoundError: the data folder has no corpus.
    """
    if named or config.processed_dir.is_dir():
        return config
    folders = [path for path in visible(config.data_dir.glob("*_processed"), config.data_dir) if path.is_dir()]
    names = [path.name.removesuffix("_processed") for path in folders]
    if len(names) > 1:
        raise ConfigError(f"{config.data_dir} holds several corpora: {', '.join(names)}. Set corpus.name to one.")
    if not names:
        raise NotFoundError(f"No paragraphs in {config.data_dir}. Run `elm run` first.")
    return config.model_copy(update={"corpus": config.corpus.model_copy(update={"name": names[0]})})


def save_run(config: Config, report: Report) -> Path:
    """Write the resolved config and the report of a run to the logs folder."""
    content = {"config": config.model_dump(mode="json"), "report": report.to_json()}
    return write_run_record(config.logs_dir / "runs", content)
