"""A large dataset on disk in a minute: clusters of made-up vectors, and sentences of the bundled sample.

Rows of a cluster have one direction and noise around it, so that projections, clusterings and neighbours have
something to find. A row's cluster is the article of its sentence, so texts and vectors belong together. The files are
written by this project's own writers, in shards, and open like those of any other run.
"""

import re
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
from loader_stores import Texts, Vectors, write_store
from numpy.typing import NDArray

_NOISE_ROWS = 65_536
_NOISE = 0.8  # length of the noise beside a direction of length 1
_SHARD_ROWS = 262_144


def write_large_dataset(folder: Path, rows: int, dim: int = 384) -> float:
    """Write a split `train` of the corpus `benchmark` with float16 vectors of length 1 to an empty folder.

    Returns:
        Seconds that it took.
    """
    started = time.perf_counter()
    write_store(folder, rows, dim, sample_sentences(), clustered_vectors(dim), _SHARD_ROWS)
    return time.perf_counter() - started


def sample_sentences() -> Texts:
    """Give the texts of the rows from `start` to `stop`: sentences of the bundled sample, over and over."""
    sentences = [sentence for _, sentence in _sentences()]
    return lambda start, stop: [f"{row}: {sentences[row % len(sentences)]}" for row in range(start, stop)]


def sample_paragraphs(sentences: int = 6) -> Texts:
    """Give the texts of the rows from `start` to `stop`: paragraphs of sentences of the bundled sample."""
    known = [sentence for _, sentence in _sentences()]

    def text(row: int) -> str:
        return f"{row}: " + " ".join(known[(row + step) % len(known)] for step in range(sentences))

    return lambda start, stop: [text(row) for row in range(start, stop)]


def clustered_vectors(dim: int) -> Vectors:
    """Give the vectors of the rows from `start` to `stop`, shape (stop - start, dim), one cluster for each article."""
    articles = np.array([article for article, _ in _sentences()])
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((articles.max() + 1, dim), dtype=np.float32)
    # Directions of different lengths, as of real embeddings, whose first components hold most of the variance.
    centers *= np.geomspace(1, 0.1, dim, dtype=np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    noise = rng.standard_normal((_NOISE_ROWS, dim), dtype=np.float32) * (_NOISE / dim**0.5)

    def vectors(start: int, stop: int) -> NDArray[np.float16]:
        rows = np.arange(start, stop)
        # An odd step, so that rows with the same noise are of different articles.
        made = centers[articles[rows % len(articles)]] + noise[(rows + rows // _NOISE_ROWS * 7919) % _NOISE_ROWS]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float16)

    return vectors


@cache
def _sentences() -> list[tuple[int, str]]:
    """Return article numbers and sentences of the bundled sample."""
    from data_pipeline.download.sample import FOLDER

    found, article = [], -1
    for line in (FOLDER / "articles.tokens").read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r" ?= [^=]+ = ?", line):
            article += 1
        elif article >= 0 and line.strip() and not line.lstrip().startswith("="):
            found += [(article, sentence) for sentence in re.split(r"(?<= \.) ", line.strip()) if len(sentence) > 30]
    return found


if __name__ == "__main__":
    print(f"{write_large_dataset(Path(sys.argv[1]), int(sys.argv[2])):.1f} s")
