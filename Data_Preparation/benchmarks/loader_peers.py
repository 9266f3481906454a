"""The loaders that this project's are measured beside: each opens a folder and gives epochs of batches.

`open_NAME(folder)` returns a function that begins an epoch. A batch is its texts and its vectors of shape
(256, dim) in float16. Every peer is used as its documentation says, without worker processes, and where two
ways are documented, the faster one.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_peer_files import without_vision
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

BATCH = 256

Batch = tuple[list[str] | None, torch.Tensor]
Epoch = Callable[[], Iterable[Batch]]


def by_name(loader: Iterable[Any]) -> Iterator[Batch]:
    """Batches that are mappings, as text and vectors."""
    for batch in loader:
        yield batch.get("text"), batch["embedding"]


def _batches_of_rows(dataset: Any) -> "DataLoader[Any]":
    """Torch's loader, asking a dataset for the rows of a whole batch at once."""
    return DataLoader(dataset, batch_size=None, sampler=BatchSampler(RandomSampler(dataset), BATCH, drop_last=False))


def _permuted(rows: int) -> Iterator[NDArray[np.int64]]:
    order = torch.randperm(rows).numpy()
    return (order[start : start + BATCH] for start in range(0, rows, BATCH))


def _of_table(table: Any) -> Batch:
    """An Arrow table's columns; the vectors are not copied."""
    column = table["embedding"].combine_chunks()
    flat = column.flatten().to_numpy()
    return table["text"].to_pylist(), torch.from_numpy(flat.reshape(len(column), -1))


def open_datasets_torch(folder: Path) -> Epoch:
    """Hugging Face datasets, torch format."""
    import datasets

    dataset = datasets.load_from_disk(str(folder)).with_format("torch", dtype=torch.float16)
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, shuffle=True)
    return lambda: by_name(loader)


def open_datasets_torch_batches(folder: Path) -> Epoch:
    """The same, asked for whole batches."""
    import datasets

    dataset = datasets.load_from_disk(str(folder)).with_format("torch", dtype=torch.float16)
    return lambda: by_name(_batches_of_rows(dataset))


def open_datasets_arrow(folder: Path) -> Epoch:
    """Hugging Face datasets, Arrow format, the batch made by hand."""
    import datasets

    dataset = datasets.load_from_disk(str(folder)).with_format("arrow")
    return lambda: map(_of_table, _batches_of_rows(dataset))


def open_litdata(folder: Path) -> Epoch:
    """LitData with its defaults; its shuffle mixes a few hundred neighbouring rows."""
    from litdata import StreamingDataLoader, StreamingDataset

    loader = StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), batch_size=BATCH)
    return lambda: by_name(loader)


def open_mds(folder: Path) -> Epoch:
    """MosaicML's MDS, row by row at random: several times faster than its own iteration over such small rows."""
    without_vision()
    import streaming

    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=BATCH)

    def epoch() -> Iterator[Batch]:
        for rows in _permuted(len(dataset)):
            samples = [dataset[row] for row in rows.tolist()]
            vectors = np.stack([sample["embedding"] for sample in samples])
            yield [sample["text"] for sample in samples], torch.from_numpy(vectors)

    return epoch


def open_lance(folder: Path) -> Epoch:
    """Lance, one `take` a batch."""
    import lance

    dataset = lance.dataset(str(folder / "rows.lance"))
    rows = dataset.count_rows()
    return lambda: (_of_table(dataset.take(some)) for some in _permuted(rows))


class _H5:
    def __init__(self, folder: Path) -> None:
        import h5py

        file = h5py.File(folder / "rows.h5")
        self.vectors, self._bytes = file["embedding"], file["text"]
        self._ends = np.concatenate(([0], file["text_ends"][:])).tolist()

    def read_texts(self) -> None:
        """Into memory: a read of every single text would make batches of random rows many times slower."""
        self._bytes = self._bytes[:]

    def texts(self, rows: Iterable[int]) -> list[str]:
        """Those of some rows, one by one."""
        return [self._bytes[self._ends[row] : self._ends[row + 1]].tobytes().decode() for row in rows]

    def texts_between(self, start: int, stop: int) -> list[str]:
        """Those of neighbouring rows, in one read."""
        ends = self._ends[start : stop + 1]
        read = self._bytes[ends[0] : ends[-1]].tobytes()
        return [read[low - ends[0] : high - ends[0]].decode() for low, high in pairwise(ends)]


def open_h5py_random(folder: Path) -> Epoch:
    """HDF5, the rows of a batch read in the order of the file, texts from memory."""
    file = _H5(folder)
    file.read_texts()

    def epoch() -> Iterator[Batch]:
        for some in _permuted(len(file.vectors)):
            rows = np.sort(some)
            yield file.texts(rows.tolist()), torch.from_numpy(file.vectors[rows])

    return epoch


def open_h5py_bytes(folder: Path) -> Epoch:
    """HDF5 in order, texts as bytes and offsets, cut by hand."""
    file = _H5(folder)

    def epoch() -> Iterator[Batch]:
        rows = len(file.vectors)
        for start in range(0, rows, BATCH):
            stop = min(start + BATCH, rows)
            yield file.texts_between(start, stop), torch.from_numpy(file.vectors[start:stop])

    return epoch


def open_h5py_strings(folder: Path) -> Epoch:
    """HDF5 in order, texts as its own strings."""
    import h5py

    file = h5py.File(folder / "rows.h5")
    vectors, texts = file["embedding"], file["strings"].asstr()
    return lambda: (
        (texts[start : start + BATCH].tolist(), torch.from_numpy(vectors[start : start + BATCH]))
        for start in range(0, len(vectors), BATCH)
    )


def open_rows(folder: Path) -> Epoch:
    """The older way of this project: a Python sample for every row, of a polars frame and an array in memory."""
    import polars as pl

    frame = pl.read_parquet(folder / "texts.parquet")
    vectors = np.load(folder / "vectors.npy")

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(vectors)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"text": frame.row(index, named=True)["text"], "embedding": torch.from_numpy(vectors[index])}

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [sample["text"] for sample in samples]
        return {"text": texts, "embedding": torch.stack([sample["embedding"] for sample in samples])}

    loader = DataLoader(Rows(), BATCH, shuffle=True, collate_fn=collate)
    return lambda: by_name(loader)


def open_ram(folder: Path) -> Epoch:
    """The ceiling: everything in memory, a list of strings and an array."""
    import polars as pl

    texts = pl.read_parquet(folder / "texts.parquet")["text"].to_list()
    vectors = np.load(folder / "vectors.npy")
    return lambda: (([texts[row] for row in rows.tolist()], _gather(vectors, rows)) for rows in _permuted(len(texts)))


def open_take(folder: Path) -> Epoch:
    """The ceiling of a memory map: vectors only, nothing but the gather, into new memory."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    return lambda: ((None, _gather(vectors, rows)) for rows in _permuted(len(vectors)))


def open_take_reused(folder: Path) -> Epoch:
    """The same into the same memory every time, which no loader may do that hands its batches out."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    buffer = np.empty((BATCH, vectors.shape[1]), vectors.dtype)

    def epoch() -> Iterator[Batch]:
        for rows in _permuted(len(vectors)):
            np.take(vectors, rows, axis=0, out=buffer[: len(rows)], mode="clip")
            yield None, torch.from_numpy(buffer[: len(rows)])

    return epoch


def _gather(vectors: NDArray[np.float16], rows: NDArray[np.int64]) -> torch.Tensor:
    found = np.empty((len(rows), vectors.shape[1]), vectors.dtype)
    np.take(vectors, rows, axis=0, out=found, mode="clip")
    return torch.from_numpy(found)


PEERS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], Epoch]]] = {
    "datasets_torch": ("datasets", ("datasets",), open_datasets_torch),
    "datasets_torch_batches": ("datasets", ("datasets",), open_datasets_torch_batches),
    "datasets_arrow": ("datasets", ("datasets",), open_datasets_arrow),
    "litdata": ("litdata", ("litdata",), open_litdata),
    "mds": ("mds", ("streaming",), open_mds),
    "lance": ("lance", ("lance", "pyarrow"), open_lance),
    "h5py_random": ("h5py", ("h5py",), open_h5py_random),
    "h5py_bytes": ("h5py", ("h5py",), open_h5py_bytes),
    "h5py_strings": ("h5py", ("h5py",), open_h5py_strings),
    "rows": ("rows", ("polars",), open_rows),
    "ram": ("rows", ("polars",), open_ram),
    "take": ("rows", (), open_take),
    "take_reused": ("rows", (), open_take_reused),
}
"""By loader: the format it reads, the modules it needs (imported before the clock starts), and how to open it."""
