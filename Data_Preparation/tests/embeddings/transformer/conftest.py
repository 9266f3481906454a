"""What the tests of transformers share: a model of a few thousand weights, and both kinds of linear layers."""

import pytest
import torch
from support.linear_stand_ins import RefusingOperators, StandInOperators, pack_with, packs_here
from support.small_models import save_bert


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A random BERT of two layers, and a tokenizer of letters, as a folder that no test changes."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    save_bert(folder)
    return folder


@pytest.fixture(params=["packed", "plain"])
def layers(request, monkeypatch):
    """Both kinds of linear layers, each on every machine: the kind it lacks through a stand-in."""
    if request.param == "plain":
        pack_with(RefusingOperators(), monkeypatch)
    elif not packs_here(torch.float32, torch.bfloat16):
        pack_with(StandInOperators(), monkeypatch)
    return request.param
