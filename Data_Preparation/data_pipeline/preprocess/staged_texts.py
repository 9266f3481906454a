"""Single texts of a column of an Arrow file, read from the file.

A memory map would do too, but each page of it that was touched stays in the memory of the process.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.types import IntArray


class StagedTexts:
    """Texts of a column without nulls, by row number.

    Args:
        path: uncompressed Arrow file.
        column: column of texts.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._file = path.open("rb", buffering=0)
        source = pa.memory_map(str(path))
        base, starts = source.read_buffer(source.size()).address, [0]
        self._ends: list[NDArray[np.signedinteger]] = []
        self._positions = []
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            texts = reader.get_batch(index)[column]
            _, ends, values = texts.buffers()
            self._ends.append(np.frombuffer(ends, np.int64 if pa.types.is_large_string(texts.type) else np.int32))
            self._positions.append(values.address - base if values else 0)
            starts.append(starts[-1] + len(texts))
        self._starts: IntArray = np.array(starts)

    def __getitem__(self, row: int) -> str:
        batch = int(np.searchsorted(self._starts, row, "right")) - 1
        local = row - int(self._starts[batch])
        first, last = self._ends[batch][local : local + 2].tolist()
        self._file.seek(self._positions[batch] + first)
        return self._file.read(last - first).decode()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
