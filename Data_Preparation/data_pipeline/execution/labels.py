"""Weak labels, whose passages are embedded by the engine that a config names; see `stages.label`."""

from data_pipeline.config.labels import LabelConfig
from data_pipeline.embeddings import Embedder
from data_pipeline.execution.engines import new_crew, open_engine
from data_pipeline.judge import Judge
from data_pipeline.stages import label as labels
from data_pipeline.stages.label import LabelReport


def make_weak_labels(
    config: LabelConfig, *, judge: Judge | None = None, embedder: Embedder | None = None
) -> LabelReport:
    """Make weak labels; see `stages.label.make_weak_labels`.

    Raises:
        ConfigError: the engine cannot be opened; see `engines.open_engine`.
        DataPipelineError: see `stages.label.make_weak_labels`.
    """
    with open_engine(config.execution, config.work_dir / ".crews" / new_crew()) as (place, execute):
        embedding = config.candidates.embedding
        if place is not None and place.device is not None and embedding is not None:
            embedding = embedding.model_copy(update={"device": place.device})
            candidates = config.candidates.model_copy(update={"embedding": embedding})
            config = config.model_copy(update={"candidates": candidates})
        return labels.make_weak_labels(config, judge=judge, embedder=embedder, execute=execute)


label = make_weak_labels
"""Former name of `make_weak_labels`."""
