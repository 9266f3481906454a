"""`--embedding.compile` without a GPU: its layers, with a stand-in for the GPU's attention kernels."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.errors import ConfigError

attention = pytest.importorskip("data_pipeline.embeddings.transformer.attention")


@torch.library.custom_op("elm_test::varlen", mutates_args=())
def by_bounds(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, longest: int
) -> torch.Tensor:
    """Takes what the real kernels take, so that torch can compile around it."""
    out = torch.empty_like(q)
    for a, b, c, d in zip(starts[:-1], starts[1:], ends[:-1], ends[1:], strict=True):
        heads = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        causal = bool(b - a == d - c)
        found = scaled_dot_product_attention(*heads, is_causal=causal, enable_gqa=True)
        out[a:b] = found[0].transpose(0, 1)
    return out


@by_bounds.register_fake
def _(q, k, v, starts, ends, longest):
    return torch.empty_like(q)


def kernel(query, key, value, segments, rule):
    starts, ends, _ = attention._bounds(query, segments)
    return torch.ops.elm_test.varlen(query, key, value, starts, ends, segments.longest)


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own code
def test_compiled_layers_give_the_same_vectors_and_are_compiled_for_good(tiny_qwen3, monkeypatch):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["sea", "ship", "of", "the", "lamp"], rng.integers(3, 60))) for _ in range(60)]
    expected = encode(load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3))), texts)
    monkeypatch.setitem(attention.KERNELS, "varlen", kernel)
    monkeypatch.setattr("data_pipeline.embeddings.transformer.paths.unavailable_reason", lambda *_: None)
    monkeypatch.setattr(
        "data_pipeline.embeddings.transformer.paths.pack_linear_layers", lambda _: False
    )  # for CPUs only
    # Traced and guarded as ever, but without a C++ compiler, which a machine may not have.
    compile_layer = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: compile_layer(layer, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = EmbeddingConfig(model_name=str(tiny_qwen3), attention="varlen", compile=True, batch_tokens=256)
    embedder = load_embedder(settings)
    assert embedder.runtime.row_multiple == 256
    found = encode(embedder, texts, batch_tokens=256)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # For a first pack, for one of another number of texts, for one text alone; not for each of a dozen packs.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiling_around_attention_text_by_text_is_refused(tiny_qwen3):
    with pytest.raises(ConfigError, match=r"embedding.compile needs .* varlen: segments calls another number"):
        load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), compile=True))
