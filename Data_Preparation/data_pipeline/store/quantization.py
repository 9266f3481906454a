"""Codings of stored vectors: floats, or quantized values in a quarter of the bytes of float32 or less.

int8 and float8 are calibrated once on a sample before the first row is written (`calibrate`). All shards of all splits
share the calibration, so that a code means the same value everywhere. It is stored in the metadata of each file and in
the manifest.
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

# Data types of safetensors and numpy, by precision.
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
_FLOAT8_MAX = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)  # type: ignore[no-untyped-call]  # of ml_dtypes
_INT8_STEPS = 255


@dataclass(frozen=True, eq=False)
class Coding:
    """Coding that converts vectors to stored values and back.

    int8: the range of each dimension, `low` to `high`, in 255 equal steps, with codes from -128 (as in
    sentence-transformers). float8: E4M3 after division by a common scale. ubinary: one bit per dimension, 1 for values
    above 0, packed into bytes from the highest bit.
    """

    precision: str
    low: Float32Array | None = None
    """Minimum of each dimension, shape (dim,) (int8)."""
    high: Float32Array | None = None
    """Maximum of each dimension, shape (dim,) (int8), or of all absolute values, shape (1,) (float8)."""

    @property
    def format(self) -> str:
        """Data type of the tensor in a safetensors header."""
        return _FORMATS[self.precision][0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored array."""
        return _FORMATS[self.precision][1]

    @property
    def is_float(self) -> bool:
        """Whether the vectors are stored as floats."""
        return self.precision in {"float32", "float16"}

    def width(self, dim: int) -> int:
        """Return the number of stored values of a vector of `dim` dimensions.

        Raises:
            ConfigError: the precision is ubinary and `dim` is not a multiple of 8.
        """
        if self.precision != "ubinary":
            return dim
        if dim % 8:
            raise ConfigError(
                f"embedding.precision ubinary stores 8 dimensions in a byte, and {dim} is no multiple of 8"
            )
        return dim // 8

    def row_bytes(self, dim: int) -> int:
        """Return the bytes of a stored vector of `dim` dimensions; see `width`."""
        return self.width(dim) * self.dtype.itemsize

    def dim(self, width: int) -> int:
        """Return the number of dimensions of a vector of `width` stored values."""
        return width * 8 if self.precision == "ubinary" else width

    def encode(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Encode vectors of shape (N, dim) to stored values of shape (N, width); values out of range are clipped."""
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
        """Decode stored values of shape (N, width) to vectors of shape (N, dim): float32, or the stored floats.

        ubinary gives unit vectors whose dimensions all have the same absolute value.
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
        """Return the coding as JSON values, for a manifest and for `coding_from_json`."""
        content: dict[str, Any] = {"precision": self.precision}
        for name, values in (("low", self.low), ("high", self.high)):
            if values is not None:
                content[name] = [float(str(value)) for value in values]  # the shortest digits that round-trip
        return content

    def to_metadata(self) -> dict[str, str]:
        """Return the coding as strings, for a safetensors header."""
        if self.precision not in CALIBRATED:
            return {"precision": self.precision}
        return {"precision": self.precision, "calibration": json.dumps(self.to_json(), separators=(",", ":"))}

    def _int8(self) -> tuple[Float32Array, Float32Array]:
        assert self.low is not None
        assert self.high is not None
        # A constant dimension still needs a step above 0 to divide by.
        return self.low, np.maximum((self.high - self.low) / np.float32(_INT8_STEPS), np.float32(1e-12))

    def _float8(self) -> np.float32:
        assert self.high is not None
        return np.float32(max(float(self.high[0]) / _FLOAT8_MAX, 1e-30))


def calibrate(precision: str, sample: Float32Array) -> Coding:
    """Return the coding for vectors distributed like a sample of shape (N, dim)."""
    if precision == "int8":
        return Coding(precision, sample.min(axis=0), sample.max(axis=0))
    if precision == "float8":
        return Coding(precision, high=np.abs(sample).max(keepdims=True).reshape(1))
    return Coding(precision)


def coding_from_json(content: Any, precision: str, width: int, where: object) -> Coding:
    """Make a coding from the output of `Coding.to_json`.

    Args:
        content: JSON values.
        precision: expected precision.
        width: number of stored values of a vector.
        where: file, for the message.

    Raises:
        CorruptShardError: the calibration is damaged, or does not fit the precision and width.
    """
    try:
        with np.errstate(over="ignore"):  # _is_valid rejects values that are too large
            low, high = (np.array(content[name], np.float32) if name in content else None for name in ("low", "high"))
        coding = Coding(str(content["precision"]), low, high)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise _missing_calibration(precision, where, error) from error
    if coding.precision != precision or not _is_valid(coding, width):
        raise CorruptShardError(
            f"{where} holds {precision} with a calibration that is damaged or of other vectors. "
            "Make it again with --overwrite."
        )
    return coding


def coding_of(format_name: str, width: int, metadata: Mapping[str, str], where: object) -> Coding:
    """Return the coding of a file from its header.

    Raises:
        CorruptShardError: the data type is unknown, or the calibration is missing.
    """
    precision = PRECISION_OF_FORMAT.get(format_name)
    if precision is None:
        raise CorruptShardError(f"{where} holds {format_name}, expected one of {', '.join(PRECISION_OF_FORMAT)}")
    if precision not in CALIBRATED:
        return Coding(precision)
    try:
        calibration = json.loads(metadata["calibration"])
    except (KeyError, ValueError, TypeError) as error:
        raise _missing_calibration(precision, where, error) from error
    return coding_from_json(calibration, precision, width, where)


def _missing_calibration(precision: str, where: object, error: Exception) -> CorruptShardError:
    return CorruptShardError(f"{where} holds {precision} without its calibration ({error}): it cannot be read")


def _is_valid(coding: Coding, width: int) -> bool:
    """Return whether a calibration has the shapes of its precision and finite values in order."""
    low, high = coding.low, coding.high
    if high is None or (low is None) != (coding.precision == "float8"):
        return False
    shape, low = ((1,), np.zeros(1, np.float32)) if low is None else ((width,), low)
    return low.shape == high.shape == shape and bool((np.isfinite(low) & np.isfinite(high) & (low <= high)).all())
