"""Run these on a machine with a CUDA GPU: `make pytest ARGS='-m gpu'`."""

import importlib.util
import threading

import numpy as np
import pytest
import torch

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Engine, encode, load_embedder
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.embeddings.tokens import from_rows
from data_pipeline.embeddings.transformer.attention import KERNELS, unavailable_reason
from data_pipeline.errors import OutOfMemoryError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

TEXTS = ["short", "importance", "A sentence of some length about nothing at all.", "word " * 300, *"abcdefgh"]
LOSS = {"float32": 1e-5, "float16": 1e-4, "bfloat16": 5e-3}


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), **{"device": "cuda", **config}))


@pytest.fixture(scope="module")
def exact(tiny_qwen3):
    """Vectors by transformers' own code, padded, in float32 on the CPU."""
    return encode(load(tiny_qwen3, device="cpu", attention="padded"), TEXTS)


def loss_of(found, exact):
    return (1 - (found * exact).sum(axis=1)).max()


def skip_unless_possible(attention, dtype):
    reason = unavailable_reason(attention, torch.device("cuda"), dtype) if attention in KERNELS else None
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("attention", [*KERNELS, "padded"])
def test_the_gpu_gives_the_vectors_of_the_cpu(tiny_qwen3, exact, attention, dtype):
    skip_unless_possible(attention, dtype)
    embedder = load(tiny_qwen3, attention=attention, dtype=dtype)
    assert embedder.runtime.attention == attention
    assert loss_of(encode(embedder, TEXTS), exact) < LOSS[dtype]
    assert loss_of(encode(embedder, TEXTS, batch_tokens=20), exact) < LOSS[dtype]


def test_auto_takes_the_gpu_half_precision_and_the_first_kernel_that_can_run(tiny_qwen3):
    embedder = load(tiny_qwen3, device="auto")
    assert embedder.identity.dtype == "float16"
    first = next(name for name in KERNELS if unavailable_reason(name, torch.device("cuda"), "float16") is None)
    assert embedder.runtime.attention == first


@pytest.mark.parametrize("attention", KERNELS)
def test_other_texts_hardly_change_a_vector(tiny_qwen3, attention):
    skip_unless_possible(attention, "float16")
    embedder = load(tiny_qwen3, attention=attention, dtype="float16")
    together = encode(embedder, TEXTS)
    alone = np.concatenate([encode(embedder, [text]) for text in TEXTS])
    assert loss_of(together, alone) < 1e-3
    if not embedder.runtime.batch_dependent:
        np.testing.assert_array_equal(together, alone)


def test_two_packs_are_in_flight(tiny_qwen3, exact, monkeypatch):
    embedder = load(tiny_qwen3)
    assert embedder.runtime.in_flight == 2
    meeting, own = threading.Barrier(2, timeout=60), embedder.forward

    def forward(texts, dtype=None):
        meeting.wait()
        return own(texts, dtype)

    monkeypatch.setattr(embedder, "forward", forward)
    assert loss_of(encode(embedder, TEXTS, batch_size=2), exact) < LOSS["float16"]


def test_compiled_layers_give_the_same_vectors(tiny_qwen3, exact):
    if all(unavailable_reason(name, torch.device("cuda"), "bfloat16") for name in ("flash_attention_2", "varlen")):
        pytest.skip("compiling goes with a kernel for variable lengths")
    embedder = load(tiny_qwen3, dtype="bfloat16", compile=True, batch_tokens=1024)
    assert embedder.runtime.row_multiple == 1024
    assert loss_of(encode(embedder, TEXTS), exact) < LOSS["bfloat16"]
    assert loss_of(encode(embedder, TEXTS[::-1])[::-1], exact) < LOSS["bfloat16"]


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason='needs the extra "fp8"')
def test_float8_is_near(tiny_qwen3, exact):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("this GPU has no float8 row by row")
    embedder = load(tiny_qwen3, fp8=True)
    assert embedder.identity.dtype == "bfloat16+float8"
    assert loss_of(encode(embedder, TEXTS), exact) < 0.05


def test_memory_that_runs_out_halves_the_packs(tiny_qwen3):
    embedder = load(tiny_qwen3, attention="padded")
    generator = np.random.default_rng(0)
    plan = make_plan(from_rows([generator.integers(0, 1000, 1000) for _ in range(1000)], [False] * 1000))
    few = embedder.forward(plan.tokens.take(plan.order[:4]))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 500e6) / total)
    try:
        with pytest.raises(OutOfMemoryError, match=r"1000 texts of up to 1000 tokens do not fit into cuda"):
            embedder.forward(plan.tokens)
        engine = Engine(embedder, 10**6)
        found = {row: vector for rows, some in engine.run(plan, str) for row, vector in zip(rows, some, strict=True)}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert engine.tally.memory_backoffs > 0
    assert sorted(found) == list(range(1000))
    expected = few / np.linalg.norm(few, axis=1, keepdims=True)
    assert loss_of(np.array([found[row] for row in plan.order[:4]]), expected) < 1e-3


def test_a_safer_precision_makes_room_and_gives_the_device_back(tiny_qwen3):
    embedder = load(tiny_qwen3, dtype="float16")
    texts = embedder.tokenize(TEXTS)
    before = embedder.forward(texts)
    safer = embedder.forward(texts, "float32")
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(safer, axis=1)
    assert (1 - (before * safer).sum(axis=1) / lengths).max() < LOSS["float16"]
    np.testing.assert_array_equal(embedder.forward(texts), before)
