"""Checks a fast path against the plain path of a model before it is used.

The probe texts are computed one at a time by transformers' own code, and together by the fast path, in two orders.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.embeddings.transformer.forward import Forward
from data_pipeline.types import Float32Array

# Maximum 1 - cosine. Rounding alone gives up to 5e-4 in bfloat16 and 8e-6 in float16; texts that
# attend to each other give 1e-2 and more.
_TOLERANCE = {"float32": 1e-6, "float16": 2e-4, "bfloat16": 3e-3}


@dataclass(frozen=True)
class Probes:
    """The probe texts, and their vectors computed by the plain path."""

    tokens: Tokens
    plain: Float32Array
    """Vectors of the plain path, shape (probe texts, D)."""

    def fault(self, forward: Forward, dtype: str, tolerance: float | None = None) -> str | None:
        """Why a path is wrong; None if its vectors are correct.

        Args:
            forward: the path.
            dtype: dtype of the computation.
            tolerance: maximum 1 - cosine; None for that of the dtype.
        """
        limit = _TOLERANCE[dtype] if tolerance is None else tolerance
        if not np.isfinite(self.plain).all(axis=1).any():
            return f"the model itself gives no finite vector for any probe text in {dtype}"
        try:
            together = forward(self.tokens).cpu().numpy()
            reordered = forward(self.tokens.take(np.array([2, 0, 1]))).cpu().numpy()[[1, 2, 0]]
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError, ImportError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        for vectors, name in ((together, "three texts together"), (reordered, "the same in another order")):
            loss = cosine_loss(vectors, self.plain)
            if not loss <= limit:  # also if it is NaN
                return f"{name} differ from each text alone by 1 - cosine {loss:.2g}, at most {limit:g} is allowed"
        return None

    def is_batch_dependent(self, forward: Forward) -> bool:
        """Whether the bits of a vector depend on the other texts of its pack, of other lengths or of its own."""
        rows = np.arange(len(self.tokens))
        alone = np.concatenate([forward(self.tokens.take(rows[row : row + 1])).cpu().numpy() for row in rows])
        return any(
            not np.array_equal(forward(self.tokens.take(pack)).cpu().numpy(), alone[pack], equal_nan=True)
            for pack in (rows, np.repeat(rows, 3))
        )


def make_probes(tokens: Tokens, forward: Callable[[Tokens], Float32Array]) -> Probes:
    """Compute the probe texts one at a time with the plain path.

    Args:
        tokens: tokens of `probes.PROBES`.
        forward: the plain path.
    """
    rows = [forward(tokens.take(np.array([row]))) for row in range(len(tokens))]
    return Probes(tokens, np.concatenate(rows))


def cosine_loss(vectors: Float32Array, expected: Float32Array) -> float:
    """Maximum 1 - cosine between two sets of vectors, row by row.

    Rows whose expected vector is not finite (float16 that overflows) are left out.
    """
    a, b = vectors.astype(np.float64), expected.astype(np.float64)
    usable = np.isfinite(b).all(axis=1)
    a, b = a[usable], b[usable]
    with np.errstate(invalid="ignore"):  # zeros and infinities have no direction and give NaN
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(np.max(1 - (a * b).sum(axis=1) / norms, initial=0.0))
