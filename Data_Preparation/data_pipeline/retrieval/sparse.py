"""Exact sparse search: the dot products of every passage with every query, block by block.

Each score is the sum of its products in the order of the vocabulary, in float64, so it does not depend on the block
that a passage lies in.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.config.sparse import SparseConfig
from data_pipeline.embeddings.identity import identity_differences
from data_pipeline.embeddings.sparse.encoder import SparseEncoder, encode_sparse
from data_pipeline.embeddings.sparse.to_file import SparseFile, embed_to_sparse_file
from data_pipeline.errors import ConfigError, CorruptShardError, StoreError
from data_pipeline.retrieval.passages import Passages
from data_pipeline.retrieval.ranked_list import RankedList, top_k
from data_pipeline.store.sparse import SparseRows, open_sparse_shard, sparse_precision
from data_pipeline.store.sparse_split import FOLDER, has_sparse_split, open_sparse_split
from data_pipeline.types import IntArray
from data_pipeline.utils import exclusive, progress_bar, require, sha256_of_json

if TYPE_CHECKING:
    from data_pipeline.store.reader import Rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SparseIndex:
    """Search over the sparse vectors of passages.

    Args:
        read: rows, shape (N,) -> sparse vectors of N passages.
        is_empty: whether each passage is empty, shape (passages,); empty ones are never returned.
        encoder: made the vectors, and makes those of queries.
        passage_rows: number of vectors in memory at a time.
    """

    read: Callable[[IntArray], SparseRows]
    is_empty: NDArray[np.bool_]
    encoder: SparseEncoder
    passage_rows: int = 16_384

    def search(self, queries: Sequence[str], k: int) -> list[RankedList]:
        """Search for the best passages of each query, among those that share a word with it.

        Takes one pass over the vectors.

        Args:
            queries: texts of the queries.
            k: number of passages per query at most; may exceed the number of passages.
        """
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        scipy_sparse = require("scipy.sparse", "weak-labels", "sparse search")
        queries_VQ = _to_scipy(scipy_sparse, encode_sparse(self.encoder, queries, query=True)).T.tocsr()
        best = [RankedList.empty()] * len(queries)
        for start in range(0, len(self.is_empty), self.passage_rows):
            rows = np.arange(start, min(start + self.passage_rows, len(self.is_empty)))
            scores_RQ = (_to_scipy(scipy_sparse, self.read(rows)) @ queries_VQ).tocsc()
            scores_RQ.sort_indices()
            for query in range(len(queries)):
                column = slice(scores_RQ.indptr[query], scores_RQ.indptr[query + 1])
                found, scores = scores_RQ.indices[column].astype(np.int64) + start, scores_RQ.data[column]
                is_kept = (scores > 0) & ~self.is_empty[found]
                best[query] = _merged(best[query], found[is_kept], scores[is_kept], k)
        return best


def open_sparse_index(passages: Passages, work_dir: Path, config: CandidateConfig) -> SparseIndex:
    """Open the sparse vectors of passages for search.

    Those of a dataset are used if they were made by the model of the config. Others are computed once into `work_dir`,
    under a name with the hashes of the passages and the model, and a killed run resumes.

    Args:
        passages: passages to search.
        work_dir: for the vectors of passages that have none.
        config: settings with a sparse model.

    Raises:
        ConfigError: no sparse model is named.
        SourceError, ModelError, StoreError: the model cannot be loaded, or a file cannot be read.
    """
    from data_pipeline.embeddings.sparse.load import load_sparse_encoder  # which imports torch

    if config.sparse is None:
        raise ConfigError("candidates.sparse.model_name is not set: name a model that gives sparse vectors")
    encoder = load_sparse_encoder(config.sparse)
    read = None
    if passages.dataset_rows is not None:
        read = _stored(passages.dataset_rows, config.sparse, encoder)
    return SparseIndex(read or _made_once(passages, work_dir, encoder), passages.is_empty, encoder, config.passage_rows)


def _stored(rows: "Rows", config: SparseConfig, encoder: SparseEncoder) -> Callable[[IntArray], SparseRows] | None:
    """Reader of the sparse vectors of a dataset; None if it has none of this model."""
    folder = rows.source.store.folder.parent / FOLDER
    folder = folder / config.variant if config.variant else folder
    if not has_sparse_split(folder, rows.source.split):
        return None
    vectors = open_sparse_split(folder, rows.source.split, rows.source.paragraphs)
    first = vectors.shards[0]
    for difference in identity_differences(first.metadata, encoder.identity.to_metadata()):
        logger.info(
            "The sparse vectors in %s have %s %s, the model has %s: those of the passages are made in the work folder",
            folder, difference.field, difference.recorded, difference.other,
        )  # fmt: skip
        return None
    return lambda index: vectors.take(rows.of_files(index))


def _made_once(passages: Passages, work_dir: Path, encoder: SparseEncoder) -> Callable[[IntArray], SparseRows]:
    metadata = encoder.identity.to_metadata() | {
        "precision": sparse_precision(encoder.identity.dtype),
        "passages": passages.fingerprint,
    }
    path = work_dir / f"sparse-{sha256_of_json(metadata)[:20]}.safetensors"
    if not path.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(path), progress_bar(len(passages), "Sparse vectors of passages", "row") as bar:
            if not path.exists():
                file = SparseFile(path, len(passages), metadata, row_name=lambda row: passages.ids([row])[0])
                embed_to_sparse_file(file, passages.blocks(), encoder, bar.update)
    try:
        shard = open_sparse_shard(path)
        if (shard.rows, shard.width) != (len(passages), encoder.identity.dim):
            raise CorruptShardError(f"{path} holds {shard.rows} vectors of {shard.width} words")
        return partial(SparseRows.take, shard.stored)
    except StoreError as error:
        raise CorruptShardError(
            f"{error}\n{path} is not what this package wrote there. Delete it; it is made again."
        ) from error


def _to_scipy(scipy_sparse: Any, rows: SparseRows) -> Any:
    arrays = (rows.values.astype(np.float64), rows.indices, rows.indptr)
    return scipy_sparse.csr_array(arrays, shape=(len(rows), rows.width))


def _merged(ranked: RankedList, rows: IntArray, scores: NDArray[np.float64], k: int) -> RankedList:
    """The k best of a list and of later rows."""
    all_rows, all_scores = np.concatenate([ranked.rows, rows]), np.concatenate([ranked.scores, scores])
    order = np.argsort(all_rows, kind="stable")
    return top_k(all_scores[order], all_rows[order], k)
