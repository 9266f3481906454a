"""Activations whose bits do not depend on how a CPU's threads share the work.

torch rounds SiLU and the tanh form of GELU in another way where one thread's part of a tensor ends, and
where that is depends on the number of threads and of rows. Made of exp and tanh, which it rounds
alike everywhere, they take a little longer (5 % of a model that is mostly activations).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh, SiLUActivation


class SteadySiLU(nn.Module):
    """`x * sigmoid(x)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if x.dtype != torch.float32:  # torch computes it in float32 then, and rounds alike everywhere
            return functional.silu(x)
        return x / torch.neg(x).exp_().add_(1)


class SteadyTanhGELU(nn.Module):
    """The approximation of GELU by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        wide = x.float()
        inner = torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide))
        return (0.5 * wide * (1 + inner)).to(x.dtype)


def steady_activations(model: nn.Module) -> None:
    """Replace the activations of a model on the CPU that are not steady."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU | SiLUActivation):
                setattr(module, name, SteadySiLU())
            elif isinstance(child, GELUTanh) or (isinstance(child, nn.GELU) and child.approximate == "tanh"):
                setattr(module, name, SteadyTanhGELU())
