"""Files of columns of numbers, which are mapped into memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.utils.files import published, unique_name


def save_numbers(path: Path, **columns: NDArray[np.generic]) -> None:
    """Write columns of one length to a file; several processes may write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})
    with published(path, unique_name(path)) as temporary, pa.ipc.new_file(temporary, batch.schema) as file:
        file.write_batch(batch)


def load_numbers(path: Path) -> dict[str, NDArray[Any]]:
    """Map the columns of a file into memory, each of shape (N,)."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}
