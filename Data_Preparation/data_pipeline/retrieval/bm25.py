"""BM25 search over passages: an index in its own folder, memory-mapped while it is searched.

Scores are those of Lucene (Kamphuis et al., 2020: "Which BM25 do you mean?"), which bm25s computes in advance
for every token and passage (Lu, 2024, arXiv 2407.03618): idf = ln(1 + (N - df + 0.5) / (df + 0.5)), times
tf / (tf + k1 (1 - b + b length / mean length)), summed over the query's tokens, repeated tokens repeatedly.
"""

import contextlib
import importlib.util
import logging
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.errors import CorruptShardError, MissingExtraError, StoreError
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.ranked_list import RankedList, top_k
from data_pipeline.retrieval.tokenizer import Bm25Tokenizer
from data_pipeline.store import fingerprint, read_manifest, write_manifest
from data_pipeline.store.manifest import IndexManifest
from data_pipeline.types import Float32Array
from data_pipeline.utils import converted_errors, exclusive, progress_bar, refuse_single_text, require
from data_pipeline.utils.folders import new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path

logger = logging.getLogger(__name__)

_ARRAYS = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy")
_FILES = frozenset({*_ARRAYS, "vocab.index.json", "params.index.json"})


class Bm25Index:
    """An open BM25 index; see `open_bm25`. Not safe for use by several threads at once."""

    def __init__(self, retriever: Any | None, tokenizer: Bm25Tokenizer) -> None:
        self._retriever, self._tokenizer = retriever, tokenizer

    def search(self, queries: Sequence[str], k: int) -> Iterator[RankedList]:
        """Search for the best passages of each query, in the order of the queries.

        Passages that share no token with the query are never returned, so there may be fewer than k, or none.

        Args:
            queries: texts of the queries.
            k: number of passages per query at most; may exceed the number of passages.
        """
        refuse_single_text(queries, "queries")
        for query in queries:
            yield self.search_tokens(self._tokenizer.tokens(query), k)

    def has_tokens(self, query: str) -> bool:
        """Whether a query has tokens; stop words, punctuation and emoji are not tokens."""
        return bool(self._tokenizer.tokens(query))

    def search_tokens(self, tokens: Sequence[str], k: int) -> RankedList:
        """Search for the best passages for the tokens of one query."""
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        # bm25s cannot build an index without tokens: there is no retriever then.
        token_ids = [] if self._retriever is None else self._retriever.get_tokens_ids(tokens)
        if self._retriever is None or not token_ids:
            return RankedList.empty()
        scores: Float32Array = self._retriever.get_scores_from_ids(token_ids)
        rows = np.flatnonzero(scores > 0)
        return top_k(scores[rows], rows, k)


def open_bm25(passages: Passages, folder: Path, config: CandidateConfig | None = None) -> Bm25Index:
    """Open the index of passages, and build it first unless one exists for them and these settings.

    The index is built in a temporary folder that replaces the old one when it is complete: after a crash there is the
    previous index, or none.

    Args:
        passages: passages to search.
        folder: folder of the index, and of nothing else.
        config: k1, b, language, stop words and backend.

    Raises:
        ConfigError: the language is unknown.
        MissingExtraError: the extra weak-labels is not installed.
        StoreError: the folder holds other files, or another process is building the index.
    """
    config = config or CandidateConfig()
    bm25s = require("bm25s", "weak-labels", "BM25")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every query
    tokenizer = Bm25Tokenizer(config.language, config.stop_words)
    settings = {"method": "lucene", "k1": config.k1, "b": config.b, "tokens": dict(tokenizer.settings)}
    settings["bm25s"] = bm25s.__version__
    if _is_fresh(folder, settings, passages):
        if new_folder(folder).exists() or folder.with_name(f".{folder.name}.old").exists():
            # Left by a crash, or being written by another process, which holds the lock.
            with contextlib.suppress(StoreError), exclusive(folder):
                recover_folder(folder, _is_index_file)
    else:
        with exclusive(folder):
            recover_folder(folder, _is_index_file)
            if not _is_fresh(folder, settings, passages):
                _reject_unknown_files(folder)
                _build(bm25s, passages, folder, settings, tokenizer)
    has_tokens = len(passages) and (folder / _ARRAYS[0]).exists()
    return Bm25Index(_load(bm25s, folder, config, len(passages)) if has_tokens else None, tokenizer)


def _is_fresh(folder: Path, settings: Mapping[str, Any], passages: Passages) -> bool:
    """Whether the folder holds the index of these passages and settings, by its manifest and file sizes."""
    try:
        manifest = read_manifest(folder, IndexManifest)
    except CorruptShardError as error:
        logger.warning("Rebuilding the BM25 index: %s", error)
        return False
    if manifest is None:
        return False
    if manifest.get("fingerprint") != fingerprint(settings, passages.fingerprint):
        logger.info("Rebuilding the BM25 index %s: it was built from other passages or with other settings", folder)
        return False
    for name, size in manifest["bytes"].items():
        path = folder / Path(name).name
        if not path.is_file() or path.stat().st_size != size:
            logger.warning("Rebuilding the BM25 index: %s is missing or damaged", path)
            return False
    return True


def _is_index_file(name: str) -> bool:
    return name in _FILES or name == "manifest.json" or name.endswith(".tmp")


def _reject_unknown_files(folder: Path) -> None:
    """Make sure that the folder, which will be replaced, holds an index or nothing."""
    if not folder.exists():
        return
    if unknown := sorted(path.name for path in folder.iterdir() if not _is_index_file(path.name)):
        raise StoreError(
            f"{folder} must hold the BM25 index and nothing else, and has {', '.join(unknown[:3])}. "
            "Choose another folder, or move these files."
        )


def _build(bm25s: Any, passages: Passages, folder: Path, settings: Mapping[str, Any], tokenizer: Bm25Tokenizer) -> None:
    new = new_folder(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    vocabulary: dict[str, int] = {}
    token_ids: list[array[int]] = []  # 4 bytes per token
    with progress_bar(len(passages), "indexing", "passage") as bar:
        for _, texts in passages.blocks():
            for text in texts:
                tokens = tokenizer.tokens(text)
                token_ids.append(array("i", [vocabulary.setdefault(token, len(vocabulary)) for token in tokens]))
            bar.update(len(texts))
    if vocabulary:
        retriever = bm25s.BM25(k1=settings["k1"], b=settings["b"], method="lucene", backend="numpy")
        retriever.index((token_ids, vocabulary), create_empty_token=False, show_progress=False)
        retriever.save(new, allow_pickle=False, show_progress=False)
    files = sorted(new.iterdir())
    for path in files:
        fsync_path(path)
    manifest = {
        "stage": "bm25",
        "fingerprint": fingerprint(settings, passages.fingerprint),
        "settings": dict(settings),
        "upstream": passages.fingerprint,
        "rows": len(passages),
        "bytes": {path.name: path.stat().st_size for path in files},
    }
    write_manifest(new, manifest)
    replace_folder(folder, _is_index_file)


def _load(bm25s: Any, folder: Path, config: CandidateConfig, rows: int) -> Any:
    has_numba = importlib.util.find_spec("numba") is not None
    if config.bm25_backend == "numba" and not has_numba:
        raise MissingExtraError(
            "candidates.bm25_backend: numba needs the package numba, which is not installed. Install it with: "
            "pip install numba, or leave the setting at auto."
        )
    backend = "numba" if has_numba and config.bm25_backend != "numpy" else "numpy"
    failures, message = (OSError, ValueError, KeyError, TypeError), f"{folder} cannot be read as a BM25 index"
    with converted_errors(failures, CorruptShardError, message, "Delete it; it will be built again."):
        retriever = bm25s.BM25.load(folder, mmap=True, allow_pickle=False, backend=backend, show_progress=False)
        if backend == "numba":
            retriever.activate_numba_scorer()  # bm25s 0.3 does so itself only if NUMBA_DISABLE_JIT is set
        scores = retriever.scores
        lengths = {len(scores["data"]), len(scores["indices"]), int(scores["indptr"][-1])}
    tokens = len(scores["indptr"]) - 1
    if scores["num_docs"] != rows or len(lengths) > 1 or len(retriever.vocab_dict) != tokens:
        raise CorruptShardError(
            f"{folder} is damaged: its arrays do not fit together. Delete it; it will be built again."
        )
    # As plain arrays over the same memory map: every indexing of a memmap makes another memmap object.
    scores.update({name: np.asarray(scores[name]) for name in ("data", "indices", "indptr")})
    return retriever
