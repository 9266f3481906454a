"""Rows embedded again: the only check that finds vectors of other texts, or of another pooling.

Hashes say that files are as they were written. That row i was the vector of text i in the first place
they cannot say.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings import Embedder, encode
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ShardMismatch
from data_pipeline.store import EmbeddingShard
from data_pipeline.store.corpus_files import MAKE_EMBEDDINGS
from data_pipeline.store.reader import Rows
from data_pipeline.types import Split

if TYPE_CHECKING:
    from data_pipeline.dataset.dataset import ELMDataset

# Between a vector and the same text's, computed again on another machine or in another precision.
_LEAST_COSINE = 0.999
# A bit flips where a number is nearly 0.
_LEAST_COSINE_OF_BITS = 0.95


def check_canaries(dataset: "ELMDataset", rows: int, seed: int) -> list[str]:
    """See `ELMDataset.canary`."""
    if rows < 1:
        raise ValueError(f"rows must be 1 or more, got {rows}")
    everything = Rows(dataset.rows.source)
    if not everything.source.with_embeddings or not len(everything):
        return [f"{dataset.split}: no embeddings"]
    if dataset.embedder is None:
        dataset.embedder = load_maker(everything.first_shard)
    chosen = np.random.default_rng(seed).choice(len(everything), min(rows, len(everything)), replace=False)
    ids = everything.columns.records(chosen, ["text_id"])["text_id"].to_pylist()
    texts, stored = everything.columns.texts(chosen), everything.vectors(chosen)
    return _compared(dataset.split, dataset.embedder, everything.first_shard, ids, texts, stored)


def _compared(
    split: Split,
    embedder: Embedder,
    shard: EmbeddingShard,
    ids: Sequence[str],
    texts: Sequence[str],
    stored: NDArray[Any],
) -> list[str]:
    least = _LEAST_COSINE_OF_BITS if shard.coding.precision == "ubinary" else _LEAST_COSINE
    fresh = shard.decode(shard.coding.encode(encode(embedder, list(texts)))).astype(np.float64)
    lengths = np.linalg.norm(fresh, axis=1) * np.linalg.norm(stored.astype(np.float64), axis=1)
    cosines = (fresh * stored).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    wrong = np.flatnonzero(~(cosines >= least))
    where = shard.path.parent
    if len(wrong):
        worst = int(np.argmin(cosines))
        raise ShardMismatch(
            f"{where}: {len(wrong)} of {len(ids)} rows of {split} do not have the vector of their text: that of "
            f"{ids[worst]} has the cosine {cosines[worst]:.4f} to it, at least {least} was expected. The rows are "
            "permuted, or the vectors are of another model, pooling or prompt than the file says. "
            f"{MAKE_EMBEDDINGS} --overwrite"
        )
    return [
        f"{split}: {len(ids)} random rows embedded again, least cosine {cosines.min(initial=1):.6f}; "
        f"if 5 % of all rows were wrong, this would have missed it with probability {0.95 ** len(ids):.1g}"
    ]
