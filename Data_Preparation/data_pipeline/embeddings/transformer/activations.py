"""Deterministic activations: their bits do not depend on how a CPU's threads share the work.

torch rounds SiLU and the tanh form of GELU differently at the end of each thread's part of a tensor, and
where that is depends on the number of threads and of rows. exp and tanh are rounded alike everywhere;
built from them, the activations take a little longer (5 % of a model that is mostly activations).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUTanh, SiLUActivation


class DeterministicSiLU(nn.Module):
    """SiLU, `x * sigmoid(x)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each element, any shape."""
        if x.dtype != torch.float32:  # torch computes in float32, so the rounding to the dtype is the same everywhere
            return functional.silu(x)
        # Into the memory of the divisor: new memory for every pack costs as much as the arithmetic.
        divisor = torch.neg(x).exp_().add_(1)
        return torch.div(x, divisor, out=divisor)


class DeterministicTanhGELU(nn.Module):
    """Approximation of GELU by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each element, any shape."""
        wide = x.float()
        inner = torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide))
        return (0.5 * wide * (1 + inner)).to(x.dtype)


def use_deterministic_activations(model: nn.Module) -> None:
    """Replace the activations of a model on the CPU whose bits depend on the number of threads."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU | SiLUActivation):
                setattr(module, name, DeterministicSiLU())
            elif isinstance(child, GELUTanh) or (isinstance(child, nn.GELU) and child.approximate == "tanh"):
                setattr(module, name, DeterministicTanhGELU())
