"""Verification levels, and the spot check: random rows are embedded again and compared.

Checksums prove that files are as they were written. That row i was the vector of text i when it was
written, and of the stated model and pooling, only the model can tell.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings import Embedder, encode
from data_pipeline.errors import ShardMismatchError
from data_pipeline.store import EmbeddingShard
from data_pipeline.store.corpus_files import MAKE_EMBEDDINGS
from data_pipeline.store.reader import Rows

Level = Literal["size", "hash", "reembed"]
LEVELS: tuple[Level, ...] = ("size", "hash", "reembed")
_FORMER_LEVELS: dict[str, Level] = {"canary": "reembed"}

# Smallest cosine between a vector and that of the same text computed on another machine or in another precision.
_MIN_COSINE = 0.999
# Lower for bits, because a bit flips where a component is nearly 0.
_MIN_COSINE_OF_BITS = 0.95


def parse_level(level: str) -> Level:
    """Verification level of a name.

    Raises:
        ValueError: the name is not a level.
    """
    current = _FORMER_LEVELS.get(level, level)
    if current not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}; got {level!r}")
    return current


def cosines_to_fresh(
    shard: EmbeddingShard, stored: NDArray[Any], texts: Sequence[str], embedder: Embedder
) -> tuple[NDArray[np.float64], float]:
    """Embed texts again and compare the vectors with stored ones.

    Args:
        shard: file of the stored vectors, whose coding the new ones go through.
        stored: decoded vectors of the texts, shape (N, dim of the embedder).
        texts: texts, N of them.
        embedder: embedder that made the stored vectors.

    Returns:
        Cosine for each text, shape (N,), NaN for a vector that is not finite; and the smallest one of right vectors.
    """
    fresh = shard.decode(shard.coding.encode(encode(embedder, texts))).astype(np.float64)
    norms = np.linalg.norm(fresh, axis=1) * np.linalg.norm(stored.astype(np.float64), axis=1)
    cosines = (fresh * stored).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosines, _MIN_COSINE_OF_BITS if shard.coding.precision == "ubinary" else _MIN_COSINE


def spot_check(rows: Rows, count: int, seed: int, load_embedder: Callable[[], Embedder]) -> list[str]:
    """Embed random rows again and compare them with the stored vectors; see `ELMDataset.spot_check`.

    Args:
        rows: all rows of a split.
        count: number of rows to embed; at most all.
        seed: seed of the choice of rows.
        load_embedder: returns the embedder that made the vectors.
    """
    if count < 1:
        raise ValueError(f"rows must be 1 or more, got {count}")
    split = rows.source.split
    if not rows.source.with_embeddings or not len(rows):
        return [f"{split}: no embeddings"]
    embedder = load_embedder()
    chosen = np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False)
    ids = rows.columns.records(chosen, ["text_id"])["text_id"].to_pylist()
    shard = rows.first_shard
    cosines, minimum = cosines_to_fresh(shard, rows.vectors(chosen), rows.columns.texts(chosen), embedder)
    n_wrong = int((~(cosines >= minimum)).sum())  # NaN counts as wrong
    if n_wrong:
        worst = int(np.argmin(cosines))
        raise ShardMismatchError(
            f"{shard.path.parent}: {n_wrong} of {len(ids)} rows of {split} do not have the vector of their text: the "
            f"cosine for {ids[worst]} is {cosines[worst]:.4f}, expected {minimum} or more. The rows are permuted, or "
            "the vectors are of another model, pooling or prompt than the file says. "
            f"{MAKE_EMBEDDINGS} --overwrite"
        )
    return [
        f"{split}: {len(ids)} random rows embedded again, smallest cosine {cosines.min(initial=1):.6f}; "
        f"if 5 % of all rows were wrong, this would have missed it with probability {0.95 ** len(ids):.1g}"
    ]
