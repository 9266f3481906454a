"""Poolings against values by hand: texts of two, three and one tokens with states of two dimensions."""

import numpy as np
import pytest
import torch

from data_pipeline.config.embedding import POOLINGS
from data_pipeline.embeddings.transformer.pooling import MODES, Pooling

HIDDEN = torch.tensor([[1.0, 2], [3, 6], [1, 0], [2, 0], [6, 3], [7, 8]])
LENGTHS = torch.tensor([2, 3, 1])
ROOT2, ROOT3 = 2**0.5, 3**0.5
EXPECTED = {
    "mean": [[2, 4], [3, 1], [7, 8]],
    "last_token": [[3, 6], [6, 3], [7, 8]],
    "cls": [[1, 2], [1, 0], [7, 8]],
    "max": [[3, 6], [6, 3], [7, 8]],
    "mean_sqrt_len": [[4 / ROOT2, 8 / ROOT2], [9 / ROOT3, 3 / ROOT3], [7, 8]],
    "weighted_mean": [[7 / 3, 14 / 3], [23 / 6, 9 / 6], [7, 8]],
}
# The first token of each text is its prompt; the third text was cut inside it, and keeps its last token.
WITHOUT_PROMPT = {
    "mean": [[3, 6], [4, 1.5], [7, 8]],
    "last_token": [[3, 6], [6, 3], [7, 8]],
    "cls": [[3, 6], [2, 0], [7, 8]],
    "max": [[3, 6], [6, 3], [7, 8]],
    "mean_sqrt_len": [[3, 6], [8 / ROOT2, 3 / ROOT2], [7, 8]],
    "weighted_mean": [[3, 6], [22 / 5, 9 / 5], [7, 8]],  # weights are those of the positions in the whole text
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_a_pooling_gives_the_values_by_hand(mode):
    torch.testing.assert_close(Pooling((mode,))(HIDDEN, LENGTHS), torch.tensor(EXPECTED[mode], dtype=torch.float32))


@pytest.mark.parametrize("mode", WITHOUT_PROMPT)
def test_tokens_of_the_prompt_are_left_out_where_the_model_says_so(mode):
    expected = torch.tensor(WITHOUT_PROMPT[mode], dtype=torch.float32)
    torch.testing.assert_close(Pooling((mode,), include_prompt=False)(HIDDEN, LENGTHS, prompt_tokens=1), expected)
    with_prompt = Pooling((mode,))(HIDDEN, LENGTHS, prompt_tokens=1)
    torch.testing.assert_close(with_prompt, torch.tensor(EXPECTED[mode], dtype=torch.float32))


def test_several_poolings_are_concatenated_in_order():
    pooled = Pooling(("cls", "mean"))(HIDDEN, LENGTHS)
    np.testing.assert_array_equal(pooled, np.hstack([EXPECTED["cls"], EXPECTED["mean"]]).astype(np.float32))


def test_only_poolings_of_one_state_have_a_position():
    positions = {modes: Pooling(modes).position for modes in [("cls",), ("last_token",), ("mean",), ("cls", "mean")]}
    assert positions == {("cls",): "first", ("last_token",): "last", ("mean",): None, ("cls", "mean"): None}
    assert Pooling(("cls",), include_prompt=False).position is None
    assert Pooling(("last_token",), include_prompt=False).position == "last"


def test_half_precision_means_are_taken_in_float32():
    # 1,000 times 100 is beyond float16, whose largest number is 65,504.
    hidden = torch.full((1000, 1), 100.0, dtype=torch.float16)
    for mode in ("mean", "weighted_mean"):
        assert Pooling((mode,))(hidden, torch.tensor([1000])).tolist() == [[100.0]]


def test_the_settings_name_every_pooling():
    assert set(POOLINGS) == set(MODES)
