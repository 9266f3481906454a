"""Run these on a machine with a CUDA GPU: `make pytest ARGS='-m gpu'`."""

import numpy as np
import pytest
import torch

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

TEXTS = ["short", "importance", "A sentence of some length about nothing at all.", "word " * 300]


@pytest.mark.parametrize(("dtype", "loss"), [("float32", 1e-5), ("float16", 1e-4), ("bfloat16", 5e-3)])
def test_the_gpu_gives_the_vectors_of_the_cpu(tiny_qwen3, dtype, loss):
    cpu = encode(load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), device="cpu")), TEXTS)
    embedder = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), device="cuda", dtype=dtype))
    gpu = encode(embedder, TEXTS)
    assert (1 - (cpu * gpu).sum(axis=1)).max() < loss


def test_auto_takes_the_gpu_and_half_precision(tiny_qwen3):
    embedder = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3)))
    assert embedder.identity.dtype == "float16"


def test_neighbours_hardly_change_a_vector(tiny_qwen3):
    embedder = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), device="cuda"))
    together = encode(embedder, TEXTS)
    alone = np.concatenate([encode(embedder, [text]) for text in TEXTS])
    assert (1 - (together * alone).sum(axis=1)).max() < 1e-4
