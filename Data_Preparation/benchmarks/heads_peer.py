"""The peer of `heads.py`: reading, scoring and writing document by document, as steps of datatrove."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import JsonlWriter
from torch import nn

from data_pipeline.heads import Head
from data_pipeline.utils import batched


class Reader(PipelineStep):
    """Every row becomes a document whose text is a list of floats."""

    type, name = "reader", "HDF5"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents."""
        with h5py.File(self._path) as file:
            vectors, ids = file["train"]["embeddings"][:], file["train"]["document_id"].asstr()[:]
        for vector, identity in zip(vectors, ids, strict=True):
            document = Document(text=vector.tolist(), id=identity, metadata={"document_id": identity})
            self.update_doc_stats(document)
            yield document


class Scores(PipelineStep):
    """The heads, one after the other, over a batch of documents; each number is taken out alone."""

    type, name = "annotator", "heads"

    def __init__(self, heads: Mapping[str, nn.Module], batch_size: int) -> None:
        super().__init__()
        self._heads, self._batch_size = heads, batch_size

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The documents, with scores in their metadata."""
        for batch in batched(data, self._batch_size):
            vectors = torch.stack([torch.tensor(document.text, dtype=torch.float32) for document in batch])
            with torch.no_grad():
                scores = {name: head(vectors).squeeze(1) for name, head in self._heads.items()}
            for place, document in enumerate(batch):
                for name, values in scores.items():
                    document.metadata[f"score_{name}"] = values[place].item()
                yield document


def run_of(path: Path, output: Path, heads: Mapping[str, Head], batch_size: int) -> Callable[[], None]:
    """All that is timed, ready to be called."""
    modules = {name: _module(head) for name, head in heads.items()}

    def only_metadata(writer: Any, document: Document) -> dict[str, Any]:
        del writer
        return dict(document.metadata)

    def run() -> None:
        writer = JsonlWriter(str(output.parent), output.name, compression=None, adapter=only_metadata)
        data: Any = None
        for step in (Reader(path), Scores(modules, batch_size), writer):
            data = step(data, 0, 1)
        for _ in data:
            pass

    return run


def _module(head: Head) -> nn.Module:
    linear = [nn.Linear(*reversed(layer.weight.shape)) for layer in head.layers]
    for module, layer in zip(linear, head.layers, strict=True):
        module.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
    return nn.Sequential(linear[0], nn.ReLU(), linear[1])
