"""Small models with random weights, and texts for them, as several tests of this folder need them."""

import numpy as np
import torch
from torch import nn

from data_pipeline.embeddings.tokens import from_rows


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def texts_of(*lengths):
    generator = np.random.default_rng(0)
    return from_rows([generator.integers(5, 100, length) for length in lengths], [False] * len(lengths))
