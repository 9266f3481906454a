"""Embedding of a split by several processes: what each of them needs to know, and the sum of what they did."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, EncodeStats, Identity, load_embedder
from data_pipeline.errors import ModelError
from data_pipeline.stages.base import Stage, Task, TaskResult, WorkerPlace
from data_pipeline.stages.reuse import Reuse
from data_pipeline.stages.split_output import SplitOutput, SplitStage
from data_pipeline.store import Coding, ParagraphStore

_BLOCK_ROWS = 32_768
_LEAST_ROWS = 64
_PAGE_BYTES = 4096
_BLOCKS_OF_WORKER = 8


def block_rows(rows: int, workers: int, row_bytes: int) -> int:
    """Return the number of rows of a task, where several workers share the files of a split.

    The vectors of each task fill whole pages, so that no two workers write to the same one.

    Args:
        rows: number of rows of the split.
        workers: number of workers.
        row_bytes: size of a stored vector in bytes.
    """
    page_rows = _PAGE_BYTES // math.gcd(_PAGE_BYTES, row_bytes)
    least = -(-_LEAST_ROWS // page_rows) * page_rows
    share = -(-rows // (_BLOCKS_OF_WORKER * workers))
    return min(_BLOCK_ROWS, max(1, -(-share // least)) * least)


@dataclass(frozen=True)
class EmbeddingRecipe(SplitStage):
    """The stage `SplitEmbeddings` as other processes get it."""

    store: ParagraphStore
    identity: Identity
    config: EmbeddingConfig
    output: SplitOutput
    overwrite: bool
    coding: Coding
    attention: str
    """Attention that the header of a file names."""
    reuse_roots: Sequence[Path] | None
    """Data folders with vectors that can be copied; None to compute all."""
    make: Callable[..., Any]
    """The class of the stage."""

    name = "Embedding"

    def run(self, task: Task, advance: Callable[[int], object] = lambda rows: None) -> TaskResult:
        """Refuse: a worker runs the stage that `for_worker` makes."""
        raise NotImplementedError

    def finish(self, results: Sequence[TaskResult]) -> None:
        """Leave the manifest to the process that waits for the workers."""

    def portable(self) -> Self:
        """Return the recipe."""
        return self

    def for_worker(self, place: WorkerPlace) -> Stage[Any]:
        """Load the model on the device of a worker, once for all splits.

        Raises:
            ModelError: it is not the model of the process that waits for the workers.
        """
        config = embedding_at(self.config, place)
        embedder = _embedder(config)
        check_same_model(embedder.identity.to_metadata(), self.identity.to_metadata(), place.name)
        reuse = None
        if self.reuse_roots is not None:
            reuse = Reuse(self.reuse_roots, self.output.folder, embedder, self.coding.precision)
        stage: Any = self.make(self.store, embedder, self.identity, config, self.output, self.overwrite, reuse)
        stage.take_over(self.coding, self.attention)
        worker: Stage[Any] = stage
        return worker


def embedding_at(config: EmbeddingConfig, place: WorkerPlace) -> EmbeddingConfig:
    """Return the settings with the device of a worker, and its threads unless they name a number.

    Args:
        config: settings of the embedder.
        place: where the worker runs.
    """
    changes = {"device": place.device or config.device, "threads": config.threads or place.threads}
    return config.model_copy(update=changes)


def check_same_model(own: Mapping[str, str], first: Mapping[str, str], worker: str) -> None:
    """Check that a worker loaded the model of the first one, whose vectors of probe texts may differ by rounding.

    Args:
        own: identity of the model of the worker, as metadata.
        first: metadata with the identity of the first one, and maybe more.
        worker: name of the worker.

    Raises:
        ModelError: it is another model.
    """
    changed = sorted(name for name, value in own.items() if name != "probes" and first.get(name) != value)
    if changed:
        raise ModelError(f"{worker} loaded another model than the first worker: {', '.join(changed)} differ")


_loaded: list[tuple[EmbeddingConfig, Embedder]] = []
"""The latest model of this process."""


def _embedder(config: EmbeddingConfig) -> Embedder:
    if not _loaded or _loaded[0][0] != config:
        _loaded[:] = [(config, load_embedder(config))]
    return _loaded[0][1]


def tally_since(before: EncodeStats, now: EncodeStats) -> dict[str, Any]:
    """Return the difference of two tallies of this process, as JSON values."""
    changed = {
        field.name: getattr(now, field.name) - getattr(before, field.name)
        for field in fields(EncodeStats)
        if field.name not in {"recomputed", "usage"}
    }
    recomputed = {name: count - before.recomputed.get(name, 0) for name, count in now.recomputed.items()}
    return {"process": os.getpid(), **changed, "recomputed": recomputed}


def with_workers(own: EncodeStats, facts: Iterable[dict[str, Any]]) -> EncodeStats:
    """Add what other processes did to the tally of this one; the time is that of the process that took longest.

    Args:
        own: tally of this process.
        facts: see `tally_since`, of each task.
    """
    total = replace(own, recomputed=dict(own.recomputed))
    seconds: dict[int, float] = {}
    for values in facts:
        for name, value in values.items():
            if name == "recomputed":
                for dtype, count in value.items():
                    total.recomputed[dtype] = total.recomputed.get(dtype, 0) + count
            elif name == "seconds":
                seconds[values["process"]] = seconds.get(values["process"], 0.0) + value
            elif name != "process":
                setattr(total, name, getattr(total, name) + value)
    total.seconds = max([own.seconds, *seconds.values()])
    return total
