"""Embedding and scoring as a step of a datatrove pipeline.

    from data_pipeline.integrations.datatrove_steps import JQLAnnotator, stats_adapter

Nothing else of this package imports datatrove (extra `annotation`).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from types import MethodType
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from data_pipeline.config import EmbeddingConfig, explain
from data_pipeline.embeddings import Embedder, encode, load_embedder
from data_pipeline.errors import ConfigError
from data_pipeline.heads.apply import Scorer
from data_pipeline.heads.files import load_head
from data_pipeline.heads.identity import check_embedder
from data_pipeline.heads.named import DEFAULT_EMBEDDER, NAMED_HEADS
from data_pipeline.types import Float32Array
from data_pipeline.utils import batched, require, sha256_of_json

require("datatrove", "annotation", "JQLAnnotator")

from datatrove.data import Document, DocumentsPipeline  # noqa: E402
from datatrove.pipeline.base import PipelineStep  # noqa: E402
from datatrove.pipeline.writers.disk_base import DiskWriter  # noqa: E402
from datatrove.utils.typeshelper import StatHints  # noqa: E402

_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?|\d+")

# The default heads were trained on vectors with this pooling and maximum length.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {DEFAULT_EMBEDDER: {"pooling": "cls", "max_length": 8192}}
_NOT_HERE = {
    "model_name": "it is given as embedder_model_id",
    "trust_remote_code": "it is an argument of its own",
    "device": "it is given as device_overwrite",
    "precision": "vectors are kept in float32",
    "variant": "this step writes no files of its own",
    "flush_s": "this step writes no files of its own",
}


def stats_adapter(writer: DiskWriter, document: Document, expand_metadata: bool = True) -> dict[str, Any]:
    """Return the fields of a document for a stats writer: all but the text.

    Args:
        writer: its `expand_metadata` makes every metadata key one of the line's own, its `save_media_bytes` keeps the
            content of media.
        document: to be written; left as it is.
        expand_metadata: False keeps metadata together whatever the writer says.

    Returns:
        The document's fields that are not empty.
    """
    # dataclasses.asdict would copy every number of an embedding.
    fields = {field.name: getattr(document, field.name) for field in dataclasses.fields(document)}
    del fields["text"]
    without_bytes = {} if getattr(writer, "save_media_bytes", False) else {"media_bytes": None}
    fields["media"] = [dataclasses.asdict(media) | without_bytes for media in document.media]
    fields["metadata"] = dict(document.metadata)
    fields = {name: value for name, value in fields.items() if value}
    if expand_metadata and writer.expand_metadata:
        fields |= fields.pop("metadata", {})
    return fields


class JQLAnnotator(PipelineStep):
    """Pipeline step that adds the scores of heads to the metadata of documents, as `score_<name of the head>`.

    A head with several outputs (targets, classes, grades) adds several keys; see `heads.apply.column_names`. Documents
    keep their order, and none is dropped. The model is loaded at the first document of a process, and is not pickled
    with the step.

    Args:
        embedder_model_id: text encoder on the hub, or a local folder.
        regression_head_checkpoints: heads by name, as `heads.files.load_head` takes them; None for those of
            `NAMED_HEADS`, which belong to the default embedder.
        batch_size: number of documents in memory at a time; the batches of the model are limited by tokens.
        device_overwrite: `cpu`, `cuda`, `cuda:1` or `1`; None for one of the CUDA devices by rank, or the CPU.
        stats_writer: writer of the metadata of documents to a second output; without an adapter of its own it uses
            `stats_adapter`, which leaves out the text.
        trust_remote_code: whether to run Python code that comes with the model; only for models whose code you have
            read.
        keep_embedding: whether to store the vector of a document in its metadata (`embedding`, with `embedder` and
            `embedding_sha256`). A later run with the same embedder reuses it if neither the text nor the vector has
            changed.
        embedder: additional settings of `config.EmbeddingConfig`. Where several tasks share a CPU, set `threads`.

    Raises:
        ConfigError: an argument is invalid.
    """

    name = "📊 Score"
    type = "🔢 - JQL-ANNOTATOR"

    def __init__(
        self,
        embedder_model_id: str = DEFAULT_EMBEDDER,
        regression_head_checkpoints: dict[str, str] | None = None,
        batch_size: int = 1000,
        device_overwrite: str | None = None,
        stats_writer: DiskWriter | None = None,
        *,
        trust_remote_code: bool = False,
        keep_embedding: bool = False,
        embedder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
        if device_overwrite is not None and not _DEVICE.fullmatch(device_overwrite):
            raise ConfigError(f"device_overwrite must be cpu, cuda, cuda:N or N, found {device_overwrite!r}")
        self.embedder_model_id = embedder_model_id
        self.regression_head_checkpoints = _heads(embedder_model_id, regression_head_checkpoints)
        self.batch_size = batch_size
        self.device_overwrite = device_overwrite
        self.stats_writer = _without_text(stats_writer)
        self.keep_embedding = keep_embedding
        self.config = _config(embedder_model_id, trust_remote_code, embedder or {})

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Score documents.

        Args:
            data: the documents.
            rank: of this task; chooses the device.
            world_size: number of tasks.

        Yields:
            The same documents, in order.

        Raises:
            WrongEmbedderError: a head was trained on vectors of another embedder.
            ModelError, SourceError: the model or a head cannot be had.
        """
        worker: _Worker | None = None
        with nullcontext() if self.stats_writer is None else self.stats_writer as writer:
            for documents in batched(data or (), self.batch_size):
                worker = worker or _Worker(self, choose_device(self.device_overwrite, rank))
                # Around the work alone: what is done with the documents later is not this step's time.
                with self.track_time("batch"):
                    reused = worker.annotate(documents)
                self.stat_update("embeddings_reused", value=reused, unit="batch")
                for document in documents:
                    self.stat_update(StatHints.total)
                    self.update_doc_stats(document)
                    if writer is not None:
                        writer.write(document, rank)
                    yield document


class _Worker:
    """A step's model and heads in one process."""

    def __init__(self, step: JQLAnnotator, device: str) -> None:
        self._config = step.config
        self._keep = step.keep_embedding
        self._embedder = _load_embedder(step.config.model_copy(update={"device": device}))
        if step.config.threads is not None:
            torch.set_num_threads(step.config.threads)
        heads = {name: load_head(source) for name, source in step.regression_head_checkpoints.items()}
        for name, head in heads.items():
            check_embedder(name, head.embedder, head.dim, self._embedder)
        self._scorer = Scorer(heads, device if device.startswith("cuda") else "cpu")
        self._identity = self._embedder.identity.to_metadata()

    def annotate(self, documents: Sequence[Document]) -> int:
        """Add scores to documents' metadata; the number of vectors that were there already."""
        vectors, reused = self._vectors(documents)
        for name, values in self._scorer.score(vectors).items():
            plain = values if isinstance(values, list) else values.tolist()
            for document, value in zip(documents, plain, strict=True):
                document.metadata[f"score_{name}"] = value
        if self._keep:
            for document, vector in zip(documents, vectors, strict=True):
                document.metadata["embedding"] = vector.tolist()
                document.metadata["embedder"] = f"{self._identity['model']}@{self._identity['revision']}"
                document.metadata["embedding_sha256"] = self._sha256(document.text, vector)
        return reused

    def _vectors(self, documents: Sequence[Document]) -> tuple[Float32Array, int]:
        vectors = np.empty((len(documents), self._embedder.identity.dim), np.float32)
        missing = []
        for row, document in enumerate(documents):
            kept = self._kept(document)
            if kept is None:
                missing.append(row)
            else:
                vectors[row] = kept
        if missing:
            texts = [documents[row].text for row in missing]
            vectors[missing] = encode(
                self._embedder, texts, batch_tokens=self._config.batch_tokens, batch_size=self._config.batch_size
            )
        return vectors, len(documents) - len(missing)

    def _kept(self, document: Document) -> Float32Array | None:
        """The vector that a document brings, if it is the one that would be computed."""
        sha256 = document.metadata.get("embedding_sha256")
        if not sha256:
            return None
        try:
            vector = np.asarray(document.metadata.get("embedding"), np.float32)
        except (TypeError, ValueError):
            return None
        if vector.shape != (self._embedder.identity.dim,) or sha256 != self._sha256(document.text, vector):
            return None
        return vector

    def _sha256(self, text: str, vector: Float32Array) -> str:
        """SHA-256 of what ties a vector to its text: the embedder, the text, and the values."""
        return sha256_of_json([self._identity, text, vector.astype("<f4").tobytes().hex()])


def choose_device(asked: str | None, rank: int) -> str:
    """Name of the device that a task computes on.

    Args:
        asked: `device_overwrite` of the step.
        rank: of the task.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    if asked is None:
        return f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    device = f"cuda:{asked}" if asked.isdigit() else asked
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device_overwrite is {asked!r}, but there is no CUDA device. Use 'cpu', or leave it out.")
    return device


@lru_cache(maxsize=8)  # the devices of a machine, whose tasks may follow each other in one process
def _load_embedder(config: EmbeddingConfig) -> Embedder:
    return load_embedder(config)


def _heads(embedder: str, heads: Mapping[str, str] | None) -> dict[str, str]:
    if heads is None:
        if embedder != DEFAULT_EMBEDDER:
            raise ConfigError(
                f"the default heads belong to {DEFAULT_EMBEDDER}, found the embedder {embedder!r}: give "
                "regression_head_checkpoints that were trained on its vectors"
            )
        return {name: name for name in NAMED_HEADS}
    if not heads or "" in heads:
        raise ConfigError(f"regression_head_checkpoints must name at least one head, found {dict(heads)}")
    return {name: str(source) for name, source in heads.items()}


def _config(model: str, trust_remote_code: bool, settings: Mapping[str, Any]) -> EmbeddingConfig:
    wrong = [f"{name} has no effect here: {_NOT_HERE[name]}" for name in settings if name in _NOT_HERE]
    if wrong:
        raise ConfigError("embedder: " + "; ".join(wrong))
    defaults = _DEFAULTS.get(model, {})
    try:
        return EmbeddingConfig(model_name=model, trust_remote_code=trust_remote_code, **{**defaults, **settings})
    except ValidationError as error:
        raise ConfigError(f"embedder: {explain(error)}") from error


def _without_text(writer: DiskWriter | None) -> DiskWriter | None:
    """The writer; with `stats_adapter` where datatrove's own would write the text."""
    if isinstance(writer, DiskWriter) and getattr(writer.adapter, "__func__", None) is DiskWriter._default_adapter:
        writer.adapter = MethodType(stats_adapter, writer)
    return writer
