"""Writes the loader benchmark's rows in the formats of the peers, each with its own writer."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 26  # of LitData and MDS, the size both give in their examples

Writer = Callable[[Path, list[str], NDArray[np.float16]], None]


def flush_folder(folder: Path) -> None:
    """Push every file below to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def without_vision() -> None:
    """Let mosaicml-streaming be imported where torchvision is not there, or is of another build of torch.

    Its own vision part is the only one that uses it.
    """
    import sys
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        module = ModuleType("torchvision" + name)
        module.__spec__ = ModuleSpec(module.__name__, None)
        module.VisionDataset, module.to_tensor = object, None  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module


def _datasets(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    import datasets
    import pyarrow as pa

    features = datasets.Features(
        {"text": datasets.Value("string"), "embedding": datasets.List(datasets.Value("float16"), vectors.shape[1])}
    )
    table = pa.table({"text": texts, "embedding": _fixed_size_lists(vectors)}, schema=features.arrow_schema)
    datasets.Dataset(table).save_to_disk(folder)


def _lance(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    import lance
    import pyarrow as pa

    lance.write_dataset(pa.table({"text": texts, "embedding": _fixed_size_lists(vectors)}), str(folder / "rows.lance"))


def _litdata(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for index, (text, vector) in enumerate(zip(texts, vectors, strict=True)):  # ten times as fast as of tensors
        writer[index] = {"text": text, "embedding": vector}
    writer.done()
    writer.merge()


def _mds(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    without_vision()
    from streaming import MDSWriter

    columns = {"text": "str", "embedding": f"ndarray:float16:{vectors.shape[1]}"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["xxh64"], size_limit=_CHUNK_BYTES) as writer:
        for text, vector in zip(texts, vectors, strict=True):
            writer.write({"text": text, "embedding": vector})


def _h5py(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    import h5py

    encoded = [text.encode() for text in texts]
    with h5py.File(folder / "rows.h5", "w") as file:
        file["embedding"] = vectors
        file["text"] = np.frombuffer(b"".join(encoded), np.uint8)
        file.create_dataset("strings", data=texts, dtype=h5py.string_dtype())
        file["text_ends"] = np.cumsum([len(text) for text in encoded])


def _rows(folder: Path, texts: list[str], vectors: NDArray[np.float16]) -> None:
    import polars as pl

    pl.DataFrame({"text": texts}).write_parquet(folder / "texts.parquet")
    np.save(folder / "vectors.npy", vectors)


def _fixed_size_lists(vectors: NDArray[np.float16]) -> "pa.FixedSizeListArray":  # noqa: F821
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


WRITERS: dict[str, tuple[tuple[str, ...], Writer]] = {
    "datasets": (("datasets",), _datasets),
    "litdata": (("litdata",), _litdata),
    "mds": (("streaming",), _mds),
    "lance": (("lance",), _lance),
    "h5py": (("h5py",), _h5py),
    "rows": (("polars",), _rows),
}
"""By format: the modules it needs, and its writer."""
