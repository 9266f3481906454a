"""BM25 over passages: an index in a folder of its own, mapped when it is searched.

Scores are those of Lucene (Kamphuis et al., 2020: "Which BM25 do you mean?") as bm25s computes them ahead
for every token and passage (Lu, 2024, arXiv 2407.03618): idf = ln(1 + (N - df + 0.5) / (df + 0.5)), times
tf / (tf + k1 (1 - b + b length / mean length)), summed over the query's tokens, repeated ones repeatedly.
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
from data_pipeline.errors import CorruptShard, MissingExtra, StoreError
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.ranked_list import Ranked, best, nothing
from data_pipeline.retrieval.tokenizer import Tokeniser
from data_pipeline.store import fingerprint, read_manifest, write_manifest
from data_pipeline.store.manifest import IndexManifest
from data_pipeline.types import Float32Array
from data_pipeline.utils import exclusive, progress_bar, refuse_single_text, require
from data_pipeline.utils.folders import new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path

logger = logging.getLogger(__name__)

_ARRAYS = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy")
_NAMES = frozenset({*_ARRAYS, "vocab.index.json", "params.index.json"})


class Bm25Index:
    """An open index; see `open_bm25`. Not for several threads at once."""

    def __init__(self, retriever: Any, tokeniser: Tokeniser) -> None:
        self._retriever, self._tokeniser = retriever, tokeniser

    def search(self, queries: Sequence[str], k: int) -> Iterator[Ranked]:
        """Each query's best passages, in the queries' order.

        Passages that share no token with the query are never among them, so there may be fewer than k, or none.

        Args:
            queries: texts.
            k: passages of a query, at most; may be more than there are.
        """
        refuse_single_text(queries, "queries")
        for query in queries:
            yield self.search_tokens(self._tokeniser.tokens(query), k)

    def has_tokens(self, query: str) -> bool:
        """Whether a query has anything to search for; stop words, punctuation and emoji alone are nothing."""
        return bool(self._tokeniser.tokens(query))

    def search_tokens(self, tokens: Sequence[str], k: int) -> Ranked:
        """The best passages for the tokens of one query."""
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        known = self._retriever.get_tokens_ids(tokens)
        if not known:
            return nothing()
        scores: Float32Array = self._retriever.get_scores_from_ids(known)
        rows = np.flatnonzero(scores > 0)
        return best(scores[rows], rows, k)


def open_bm25(passages: Passages, folder: Path, config: CandidateConfig | None = None) -> Bm25Index:
    """Open the index of some passages; it is built first where there is none for them and these settings.

    A build is written beside the folder and takes its place when it is whole: a crash leaves the index that
    was there, or none.

    Args:
        passages: what is searched.
        folder: of the index, and of nothing else.
        config: k1, b, language, stop words and backend.

    Raises:
        ConfigError: there is no such language.
        MissingExtra: the extra weak-labels is not installed.
        StoreError: the folder holds something else, or another process is building there.
    """
    config = config or CandidateConfig()
    bm25s = require("bm25s", "weak-labels", "BM25")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it narrates every query to whoever listens
    tokeniser = Tokeniser(config.language, config.stop_words)
    settings = {
        "method": "lucene",
        "k1": config.k1,
        "b": config.b,
        "tokens": dict(tokeniser.settings),
        "bm25s": bm25s.__version__,
    }
    if _is_fresh(folder, settings, passages):
        if new_folder(folder).exists() or folder.with_name(f".{folder.name}.old").exists():
            # Left by a crash, or being written by another process, which holds the folder.
            with contextlib.suppress(StoreError), exclusive(folder):
                recover_folder(folder, _is_ours)
    else:
        with exclusive(folder):
            recover_folder(folder, _is_ours)
            if not _is_fresh(folder, settings, passages):
                _check_ours(folder)
                _build(bm25s, passages, folder, settings, tokeniser)
    if not len(passages) or not (folder / _ARRAYS[0]).exists():
        return Bm25Index(_Nothing(), tokeniser)
    return Bm25Index(_load(bm25s, folder, config, len(passages)), tokeniser)


class _Nothing:
    """Stands in for an index without any token, which bm25s cannot have."""

    def get_tokens_ids(self, tokens: Sequence[str]) -> list[int]:
        """No token is known."""
        del tokens
        return []


def _is_fresh(folder: Path, settings: Mapping[str, Any], passages: Passages) -> bool:
    """Whether the folder holds the index of these passages with these settings, by its manifest and file sizes."""
    try:
        manifest = read_manifest(folder, IndexManifest)
    except CorruptShard as error:
        logger.warning("%s: the index is built again", error)
        return False
    if manifest is None:
        return False
    if manifest.get("fingerprint") != fingerprint(settings, passages.fingerprint):
        logger.info("%s was made of other passages or with other settings: it is built again", folder)
        return False
    for name, size in manifest["bytes"].items():
        path = folder / Path(name).name
        if not path.is_file() or path.stat().st_size != size:
            logger.warning("%s is missing or damaged: the index is built again", path)
            return False
    return True


def _is_ours(name: str) -> bool:
    return name in _NAMES or name == "manifest.json" or name.endswith(".tmp")


def _check_ours(folder: Path) -> None:
    """Make sure that what is replaced is an index, or nothing."""
    if not folder.exists():
        return
    strangers = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))
    if strangers:
        raise StoreError(
            f"{folder} is to hold the BM25 index and nothing else, and has {', '.join(strangers[:3])}. "
            "Choose another folder, or move them."
        )


def _build(bm25s: Any, passages: Passages, folder: Path, settings: Mapping[str, Any], tokeniser: Tokeniser) -> None:
    new = new_folder(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    vocabulary: dict[str, int] = {}
    token_ids: list[array[int]] = []  # 4 bytes a token
    with progress_bar(len(passages), "indexing", "passage") as bar:
        for _, texts in passages.blocks():
            for text in texts:
                tokens = tokeniser.tokens(text)
                token_ids.append(array("i", [vocabulary.setdefault(token, len(vocabulary)) for token in tokens]))
            bar.update(len(texts))
    if vocabulary:
        retriever = bm25s.BM25(k1=settings["k1"], b=settings["b"], method="lucene", backend="numpy")
        retriever.index((token_ids, vocabulary), create_empty_token=False, show_progress=False)
        retriever.save(new, allow_pickle=False, show_progress=False)
    files = sorted(new.iterdir())
    for path in files:
        fsync_path(path)
    write_manifest(
        new,
        {
            "stage": "bm25",
            "fingerprint": fingerprint(settings, passages.fingerprint),
            "settings": dict(settings),
            "upstream": passages.fingerprint,
            "rows": len(passages),
            "bytes": {path.name: path.stat().st_size for path in files},
        },
    )
    replace_folder(folder, _is_ours)


def _load(bm25s: Any, folder: Path, config: CandidateConfig, rows: int) -> Any:
    has_numba = importlib.util.find_spec("numba") is not None
    if config.bm25_backend == "numba" and not has_numba:
        raise MissingExtra(
            "bm25_backend numba needs the package numba, which is not installed. Install it with: pip install numba, "
            "or leave bm25_backend at auto."
        )
    backend = "numba" if has_numba and config.bm25_backend != "numpy" else "numpy"
    try:
        retriever = bm25s.BM25.load(folder, mmap=True, allow_pickle=False, backend=backend, show_progress=False)
        if backend == "numba":
            retriever.activate_numba_scorer()  # bm25s 0.3 does so by itself only where NUMBA_DISABLE_JIT is set
        scores = retriever.scores
        whole = scores["num_docs"] == rows and scores["indptr"][-1] == len(scores["data"]) == len(scores["indices"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptShard(
            f"{folder} cannot be read as a BM25 index: {error}. Delete it; it is built again."
        ) from error
    if not whole or len(retriever.vocab_dict) != len(scores["indptr"]) - 1:
        raise CorruptShard(f"{folder} is damaged: its arrays do not belong together. Delete it; it is built again.")
    # As plain arrays over the same map: indexing a memmap makes an object of that class each time.
    scores.update({name: np.asarray(scores[name]) for name in ("data", "indices", "indptr")})
    return retriever
