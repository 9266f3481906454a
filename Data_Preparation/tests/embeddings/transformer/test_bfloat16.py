"""bfloat16 on a CPU from end to end, with the instructions for it and without."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.stages.embed import embed_split
from data_pipeline.stages.pipeline import prepare_paragraphs
from data_pipeline.store import ParagraphStore

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def job(config, tiny_bert):
    """The sample's paragraphs on disk, and the settings of a job in bfloat16."""
    settings = EmbeddingConfig(
        model_name=str(tiny_bert), device="cpu", dtype="bfloat16", max_length=40, batch_tokens=256, flush_s=1e-9
    )
    config = config.model_copy(update={"embedding": settings})
    prepare_paragraphs(config)
    return config, ParagraphStore(config.processed_dir)


def embed(job, embedder, folder, **changes):
    config, store = job
    settings = config.embedding.model_copy(update=changes)
    return embed_split(store, "val", embedder, settings, config.embeddings_dir / folder)


@pytest.mark.parametrize("precision", ["auto", "int8", "ubinary"])
def test_a_job_is_resumed_with_the_same_bytes(job, layers, precision):
    settings = job[0].embedding
    (whole,) = embed(job, load_embedder(settings), "whole", precision=precision).files

    class KilledError(Exception):
        pass

    embedder = load_embedder(settings)
    calls, forward = [], embedder.forward

    def until_killed(texts, dtype=None):
        calls.append(len(texts))
        if len(calls) > 4:
            raise KilledError
        return forward(texts, dtype)

    embedder.forward = until_killed
    with pytest.raises(KilledError):
        embed(job, embedder, "resumed", precision=precision)
    (resumed,) = embed(job, load_embedder(settings), "resumed", precision=precision).files
    assert resumed.read_bytes() == whole.read_bytes()


def test_stored_vectors_are_near_those_of_float32(job, layers):
    config, store = job
    texts = store.read("val")["text"].to_list()
    exact = encode(load_embedder(config.embedding.model_copy(update={"dtype": "float32"})), texts)
    (path,) = embed(job, load_embedder(config.embedding), "half").files
    found = load_file(path)["embeddings"]
    assert found.dtype == np.float16  # half precision, as the model's
    assert (found * exact).sum(axis=1).min() > 0.998


def test_a_vector_that_is_not_finite_is_computed_again_in_float32(job, layers):
    settings = job[0].embedding
    embedder = load_embedder(settings)
    own = embedder._forward
    asked = []

    def overflows(texts):
        asked.append(len(texts))
        return own(texts) * (float("nan") if len(asked) == 1 else 1)

    embedder._forward = overflows
    result = embed(job, embedder, "spoiled")
    assert result.tally.recomputed == {"float32": asked[0]}
    assert np.isfinite(load_file(result.files[0])["embeddings"]).all()
