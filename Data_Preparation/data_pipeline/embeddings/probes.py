"""Probe texts, whose vectors tell models apart, and sketches of those vectors that fit into metadata.

A server does not show its weights, so that a model can be changed behind its name. The vectors of a few texts give it
away. They differ in their last bits from call to call, since servers batch, so no hash of them stays the same. A sketch
does up to that noise: random projections of the vectors to 64 dimensions keep the cosine between two models' vectors
within a fifth of 1 - cosine (Johnson and Lindenstrauss 1984; with random signs: Achlioptas 2003).
"""

import base64
import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import Float32Array

PROBES = (
    "The lighthouse keeper counted the ships that passed before the fog came in from the north, and wrote each of "
    "them into his book: the hour, the flag, the sails she carried, and whether she answered his lamp. In forty years "
    "he had filled eleven of these books, and nobody had ever asked to read a single page of them.",
    "Water boils at 100 °C at sea level; on a high mountain, where the air is thin, it boils at less.",
    "importance",  # known to give non-finite values in float16 with some models
)

SKETCH_TOLERANCE = 1e-3
"""Maximum 1 - cosine between two sketches of one model. Rounding alone gives up to 5e-4 in bfloat16."""
_SKETCH_DIM = 64


def sketch_of(vectors: Float32Array) -> str:
    """Sketch vectors, one for each probe text, shape (texts, D); their lengths do not count."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    projected = (vectors / np.maximum(lengths, np.finfo(np.float64).tiny)) @ _signs(vectors.shape[1])
    return base64.b64encode((projected / np.sqrt(_SKETCH_DIM)).astype("<f2").tobytes()).decode("ascii")


def sketch_loss(sketch: str, other: str) -> float:
    """Maximum 1 - cosine between two sketches, probe by probe; 2 if they cannot be compared."""
    try:
        first, second = (np.frombuffer(base64.b64decode(text, validate=True), "<f2") for text in (sketch, other))
    except ValueError:
        return 2.0
    if first.shape != second.shape or not len(first) or len(first) % _SKETCH_DIM:
        return 2.0
    a, b = (part.astype(np.float64).reshape(-1, _SKETCH_DIM) for part in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    losses = 1 - (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return float(np.max(losses)) if np.isfinite(losses).all() else 2.0


def short_sketch(sketch: str) -> str:
    """Name of a sketch for messages."""
    return hashlib.sha256(sketch.encode()).hexdigest()[:12]


@lru_cache(maxsize=4)
def _signs(dim: int) -> NDArray[np.float64]:
    """Random signs of shape (dim, 64), from a hash: the streams of numpy's generators may change."""
    bits = np.frombuffer(hashlib.shake_256(b"probe sketch 1").digest(dim * _SKETCH_DIM // 8), np.uint8)
    return np.unpackbits(bits).reshape(dim, _SKETCH_DIM).astype(np.float64) * 2 - 1
