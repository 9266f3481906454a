"""How vectors are stored: as floats, or in a quarter or less of the bytes.

int8 and float8 need to know what values occur. They are told once, from a sample, before the first
row is written (`calibrate`); all shards of all splits share it, so that the same code means the same
value everywhere. It is kept in each file's metadata, and in the manifest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, CorruptShardError
from data_pipeline.types import Float32Array

# Of safetensors, by precision; and of the array in memory.
_FORMATS: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype("<f4")),
    "float16": ("F16", np.dtype("<f2")),
    "float8": ("F8_E4M3", np.dtype("u1")),
    "int8": ("I8", np.dtype("i1")),
    "ubinary": ("U8", np.dtype("u1")),
}
PRECISION_OF_FORMAT = {name: precision for precision, (name, _) in _FORMATS.items()}
CALIBRATED = ("int8", "float8")
_FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
_FLOAT8_MAX = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
_INT8_STEPS = 255


@dataclass(frozen=True, eq=False)
class Coding:
    """Vectors <-> what is stored of them.

    int8: each dimension's range, `low` to `high`, in 255 equal steps, codes from -128 (the scheme
    of sentence-transformers). float8: E4M3, after division by one scale. ubinary: one bit a
    dimension, 1 where it is above 0, eight to a byte, the first in the highest bit.
    """

    precision: str
    low: Float32Array | None = None
    """int8: smallest value of each dimension, shape (dim,)."""
    high: Float32Array | None = None
    """int8: largest value of each dimension, shape (dim,); float8: largest of all, shape (1,)."""

    @property
    def format(self) -> str:
        """The tensor's type in a safetensors header."""
        return _FORMATS[self.precision][0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored array."""
        return _FORMATS[self.precision][1]

    @property
    def is_float(self) -> bool:
        """What is stored are the vectors themselves."""
        return self.precision in {"float32", "float16"}

    def width(self, dim: int) -> int:
        """Stored numbers of a vector of `dim` dimensions.

        Raises:
            ConfigError: the vector cannot be stored like this.
        """
        if self.precision != "ubinary":
            return dim
        if dim % 8:
            raise ConfigError(f"--embedding.precision ubinary stores 8 dimensions in a byte, and {dim} is no multiple")
        return dim // 8

    def dim(self, width: int) -> int:
        """Dimensions of a vector of `width` stored numbers."""
        return width * 8 if self.precision == "ubinary" else width

    def encode(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Vectors of shape (N, dim) -> what is stored, shape (N, width); values out of range are clipped."""
        if self.precision == "ubinary":
            return np.packbits(vectors > 0, axis=1)
        if self.precision == "int8":
            low, step = self._int8()
            return np.clip(np.rint((vectors - low) / step) - 128, -128, 127).astype(np.int8)
        if self.precision == "float8":
            scaled = np.clip(vectors / self._float8(), -_FLOAT8_MAX, _FLOAT8_MAX)
            return scaled.astype(_FLOAT8).view(np.uint8)
        return vectors.astype(self.dtype)

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """What is stored, shape (N, width) -> vectors of shape (N, dim), of float32 or as they are.

        ubinary gives unit vectors whose dimensions are all equally far from 0.
        """
        if self.precision == "ubinary":
            signs = np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
            return signs / np.float32(np.sqrt(signs.shape[1]))
        if self.precision == "int8":
            low, step = self._int8()
            return low + (stored.astype(np.float32) + 128) * step
        if self.precision == "float8":
            return stored.view(_FLOAT8).astype(np.float32) * self._float8()
        return stored

    def to_json(self) -> dict[str, Any]:
        """For a manifest, and for `coding_from_json`."""
        found: dict[str, Any] = {"precision": self.precision}
        for name, values in (("low", self.low), ("high", self.high)):
            if values is not None:
                found[name] = [float(str(value)) for value in values]  # the shortest digits that give it back
        return found

    def to_metadata(self) -> dict[str, str]:
        """For a safetensors header, whose values are strings."""
        if self.precision not in CALIBRATED:
            return {"precision": self.precision}
        return {"precision": self.precision, "calibration": json.dumps(self.to_json(), separators=(",", ":"))}

    def _int8(self) -> tuple[Float32Array, Float32Array]:
        assert self.low is not None
        assert self.high is not None
        # A dimension that never changed still needs a step to divide by.
        return self.low, np.maximum((self.high - self.low) / np.float32(_INT8_STEPS), np.float32(1e-12))

    def _float8(self) -> np.float32:
        assert self.high is not None
        return np.float32(max(float(self.high[0]) / _FLOAT8_MAX, 1e-30))


def calibrate(precision: str, sample: Float32Array) -> Coding:
    """The coding for vectors like those of a sample of shape (N, dim)."""
    if precision == "int8":
        return Coding(precision, sample.min(axis=0), sample.max(axis=0))
    if precision == "float8":
        return Coding(precision, high=np.abs(sample).max(keepdims=True).reshape(1))
    return Coding(precision)


def coding_from_json(found: Any, precision: str, width: int, where: object) -> Coding:
    """Read back what `Coding.to_json` gave.

    Args:
        found: from JSON.
        precision: that is expected.
        width: stored numbers of a vector.
        where: file, for the message.

    Raises:
        CorruptShardError: it is damaged, or a calibration of something else.
    """
    try:
        with np.errstate(over="ignore"):  # what is too large is found below
            low, high = (np.array(found[name], np.float32) if name in found else None for name in ("low", "high"))
        coding = Coding(str(found["precision"]), low, high)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CorruptShardError(
            f"{where} holds {precision} without its calibration ({error}): it cannot be read"
        ) from error
    if coding.precision != precision or not _is_whole(coding, width):
        raise CorruptShardError(
            f"{where} holds {precision}, and a calibration that is damaged or of something else. "
            "Make it again with --overwrite."
        )
    return coding


def coding_of(format_name: str, width: int, metadata: Mapping[str, str], where: object) -> Coding:
    """The coding of a file, from its header.

    Raises:
        CorruptShardError: it is stored in a form that is not known, or its calibration is missing.
    """
    precision = PRECISION_OF_FORMAT.get(format_name)
    if precision is None:
        raise CorruptShardError(f"{where} holds {format_name}; known are {', '.join(PRECISION_OF_FORMAT)}")
    if precision not in CALIBRATED:
        return Coding(precision)
    try:
        found = json.loads(metadata["calibration"])
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptShardError(
            f"{where} holds {precision} without its calibration ({error}): it cannot be read"
        ) from error
    return coding_from_json(found, precision, width, where)


def _is_whole(coding: Coding, width: int) -> bool:
    """Whether a calibration has the shapes of its precision, and values that can be."""
    low, high = coding.low, coding.high
    if high is None or (low is None) != (coding.precision == "float8"):
        return False
    shape, least = ((1,), np.zeros(1, np.float32)) if low is None else ((width,), low)
    return least.shape == high.shape == shape and bool((np.isfinite(least) & np.isfinite(high) & (least <= high)).all())
