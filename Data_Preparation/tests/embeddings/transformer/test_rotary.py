"""Rotary positions with fewer passes: the bits of transformers' own, in the layers of one model."""

import pytest
import torch
from support.small_models import SIZES, randomised
from transformers import GteConfig, GteModel, Qwen3Config, Qwen3Model
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen3 import modeling_qwen3

from data_pipeline.embeddings.transformer.rotary import _gives_same_bits, fuse_rotary_positions, rotate

QWEN3 = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16)


def test_rotated_queries_and_keys_have_the_bits_of_transformers_own():
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 33, 16).transpose(1, 2).contiguous().transpose(1, 2), torch.randn(1, 2, 33, 16)
    angles = torch.rand(1, 33, 16) * 100
    expected = modeling_qwen3.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for found, own in zip(rotate(q, k, angles.cos(), angles.sin()), expected, strict=True):
        assert torch.equal(found, own)


@pytest.mark.parametrize("make", [lambda: Qwen3Model(QWEN3), lambda: GteModel(GteConfig(**SIZES))])
def test_a_model_gives_the_same_bits_and_others_are_left_alone(make):
    model, other = randomised(make()), randomised(make())
    ids = torch.arange(5, 30)[None]
    before = model(input_ids=ids).last_hidden_state
    own = [vars(layer.self_attn).get("forward") for layer in other.layers]
    fuse_rotary_positions(model)
    assert all("forward" in vars(layer.self_attn) for layer in model.layers)
    assert torch.equal(model(input_ids=ids).last_hidden_state, before)
    assert [vars(layer.self_attn).get("forward") for layer in other.layers] == own
    assert modeling_qwen3.apply_rotary_pos_emb is not rotate


def test_a_family_that_rotates_otherwise_is_left_alone():
    def interleaved(q, k, cos, sin, unsqueeze_dim=1):
        return q.flip(-1) * cos.unsqueeze(1), k * sin.unsqueeze(1)

    assert not _gives_same_bits(interleaved)
    assert not _gives_same_bits(lambda q: q)
    assert _gives_same_bits(modeling_qwen3.apply_rotary_pos_emb)
    assert _gives_same_bits(modeling_phi3.apply_rotary_pos_emb)
