"""RMS norms against their formula, and what is left alone."""

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from data_pipeline.embeddings.transformer.norms import FusedRMSNorm, fuse_rms_norms


def filled(norm):
    nn.init.uniform_(norm.weight, 0.5, 2)
    return norm


def replaced(norm):
    model = nn.Sequential(norm)
    fuse_rms_norms(model)
    return model[0]


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
def test_a_norm_is_replaced_by_one_with_the_values_of_the_formula(kind):
    norm = filled(kind(96, eps=1e-6))
    fused = replaced(norm)
    assert isinstance(fused, FusedRMSNorm)
    states = torch.randn(2, 7, 4, 96) * 3
    wide = states.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    torch.testing.assert_close(fused(states).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused(states), norm(states), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "norm",
    [
        filled(Gemma3RMSNorm(96)),  # adds 1 to its weights
        filled(LlamaRMSNorm(96)).to(torch.bfloat16),
        filled(T5LayerNorm(96)),
        nn.LayerNorm(96),
    ],
    ids=["gemma", "bfloat16", "t5", "layer norm"],
)
def test_norms_of_another_kind_are_left_alone(norm):
    assert replaced(norm) is norm


def test_the_bits_of_a_row_do_not_depend_on_the_others_or_on_threads():
    fused = FusedRMSNorm(filled(LlamaRMSNorm(1024)).weight, 1e-6)
    states = torch.randn(1000, 1024)
    threads = torch.get_num_threads()
    try:
        together = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together.append(fused(states))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together[0], together[1])
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[0][17:18], fused(states[17:18]))
