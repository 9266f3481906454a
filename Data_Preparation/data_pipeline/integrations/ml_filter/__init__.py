"""The two file pipelines: JSON Lines -> vectors in HDF5 -> JSON Lines with scores."""

from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, read_job
from data_pipeline.integrations.ml_filter.run import JobReport, run_annotation_pipeline, run_embedding_pipeline

__all__ = [
    "AnnotationJob",
    "EmbeddingJob",
    "JobReport",
    "read_job",
    "run_annotation_pipeline",
    "run_embedding_pipeline",
]
