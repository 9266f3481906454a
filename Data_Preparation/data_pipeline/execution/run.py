"""The main pipeline, run by the engine that a config names; see `stages.pipeline`."""

from data_pipeline.execution.engines import with_engine
from data_pipeline.stages import pipeline

run_pipeline = with_engine(pipeline.run_pipeline)
embed_corpus = with_engine(pipeline.embed_corpus)
append_documents = with_engine(pipeline.append_documents)
make_sparse_corpus = with_engine(pipeline.make_sparse_corpus)

run = run_pipeline
"""Former name of `run_pipeline`."""
embed = embed_corpus
"""Former name of `embed_corpus`."""
