"""Every path for a GPU with tensors on a CUDA GPU that computes nothing: devices, dtypes and shapes are checked."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.fake_cuda import CUDA, fake_cuda, to_fake_cuda
from support.small_models import SIZES, pooled_by, randomised, save_bert, texts_of
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GteConfig,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.transformer import loading
from data_pipeline.embeddings.transformer.attention import KERNELS, PACKED
from data_pipeline.embeddings.transformer.forward import Packed, Padded
from data_pipeline.embeddings.transformer.last_layer import prune_last_layer
from data_pipeline.embeddings.transformer.loading import is_causal
from data_pipeline.embeddings.transformer.paths import _first_position, _norm_in_float32
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers

GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES)),
    "modernbert": lambda: ModernBertModel(ModernBertConfig(**SIZES, local_attention=16, pad_token_id=0)),
    "gte": lambda: GteModel(GteConfig(**SIZES)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**GROUPED)),
}
TEXTS = (40, 20, 20, 3)


def flash_attn_varlen_func(  # the signature of flash-attn 2.8.3
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    """What the kernel demands of its arguments."""
    assert {x.device for x in (q, k, v, cu_seqlens_q, cu_seqlens_k)} == {CUDA}
    assert {x.dtype for x in (q, k, v)} <= {torch.float16, torch.bfloat16}
    assert q.dtype == k.dtype == v.dtype
    assert (cu_seqlens_q.dtype, cu_seqlens_k.dtype) == (torch.int32, torch.int32)
    assert all(x.stride(-1) == 1 and x.dim() == 3 for x in (q, k, v))
    assert q.shape[1] % k.shape[1] == 0
    assert k.shape == v.shape
    assert isinstance(max_seqlen_q, int)
    assert isinstance(max_seqlen_k, int)
    assert len(cu_seqlens_q) == len(cu_seqlens_k)
    assert q.shape[2] % 8 == 0
    return torch.empty_like(q)


@pytest.fixture(params=list(KERNELS))
def kernel(request, monkeypatch):
    if request.param == "varlen":
        pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no varlen_attn")
    if request.param == "flash_attention_2":
        module = ModuleType("flash_attn")
        module.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, "flash_attn", module)
    return KERNELS[request.param]


def check(vectors, width):
    assert (vectors.device, vectors.dtype, tuple(vectors.shape)) == (CUDA, torch.float32, (len(TEXTS), width))


def make(name, dtype):
    model = randomised(MODELS[name]()).to(dtype)
    _norm_in_float32(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_packed_texts_stay_on_the_gpu_in_the_dtypes_of_the_kernels(name, dtype, kernel):
    model = make(name, dtype)
    texts, first = texts_of(*TEXTS), _first_position(model)
    model.set_attn_implementation(PACKED)
    projected = SentenceLayers(Pooling(("mean",)), nn.Sequential(nn.Linear(64, 32)))
    with fake_cuda(), torch.inference_mode():
        to_fake_cuda(model)
        for pooling in ("mean", "cls", "last_token", "max+weighted_mean"):
            pack = Packed(model, pooled_by(pooling), kernel, CUDA, 64, first, pruned=False)
            check(pack(texts), 64 * len(pooling.split("+")))
        to_fake_cuda(projected.modules)
        check(Packed(model, projected, kernel, CUDA, 64, first, pruned=False)(texts), 32)
        pooling = "last_token" if is_causal(model) else "cls"
        if prune_last_layer(model, Pooling((pooling,))):
            check(Packed(model, pooled_by(pooling), kernel, CUDA, 64, first, pruned=True)(texts), 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_padded_texts_stay_on_the_gpu(name, dtype):
    model = make(name, dtype)
    with fake_cuda(), torch.inference_mode():
        to_fake_cuda(model)
        check(Padded(model, pooled_by("mean"), CUDA, is_causal(model), 0)(texts_of(*TEXTS)), 64)


def test_a_model_that_stayed_behind_would_be_noticed(kernel):
    model = make("qwen3", torch.float16)
    model.set_attn_implementation(PACKED)
    with fake_cuda(), torch.inference_mode():
        to_fake_cuda(model)
        model.norm.weight = nn.Parameter(torch.empty(64), requires_grad=False)  # on the CPU
        pack = Packed(model, pooled_by("mean"), kernel, CUDA, 64, 0, pruned=False)
        with pytest.raises(RuntimeError, match=r"cuda.*cpu|cpu.*cuda"):
            pack(texts_of(*TEXTS))


def test_a_kernel_for_half_precision_would_notice_float32(monkeypatch):
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    model = make("qwen3", torch.float32)
    model.set_attn_implementation(PACKED)
    with fake_cuda(), torch.inference_mode():
        to_fake_cuda(model)
        pack = Packed(model, pooled_by("mean"), KERNELS["flash_attention_2"], CUDA, 64, 0, pruned=False)
        with pytest.raises(AssertionError):
            pack(texts_of(*TEXTS))


def test_texts_that_overflow_float16_are_repaired_with_the_real_arithmetic(tmp_path, monkeypatch, caplog):
    """float16 of a GPU by torch on the CPU: the letter z overflows the sum of a model's input vectors."""
    save_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    z = 4 + 25  # its number in the vocabulary, behind the special tokens
    for token in (z, z + 36):
        weights["embeddings.word_embeddings.weight"][token] = 65_000 * torch.randn(64).sign()
    weights["embeddings.token_type_embeddings.weight"][0] = weights["embeddings.word_embeddings.weight"][z] / 20
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    exact = load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))
    monkeypatch.setattr(loading, "choose_dtype", lambda *_: "float16")
    half = load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))
    texts = ["a cat", "a maze", "zz", "the ships"]
    raw = half.forward(half.tokenize(texts))
    assert [bool(np.isfinite(row).all()) for row in raw] == [True, False, False, True]
    vectors, expected = encode(half, texts), encode(exact, texts)
    assert (1 - (vectors * expected).sum(axis=1)).max() < 0.02
    assert "2 vectors were not finite; 2 of them are after computing them again in bfloat16" in caplog.text
