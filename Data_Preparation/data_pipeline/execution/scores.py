"""Scores and measures, computed by the engine that a config names; see `stages.score` and `stages.measure`."""

from data_pipeline.execution.engines import with_engine
from data_pipeline.stages import measure as measures
from data_pipeline.stages import score

annotate = with_engine(score.annotate)
compute_metric = with_engine(measures.compute_metric)

measure = compute_metric
"""Former name of `compute_metric`."""
