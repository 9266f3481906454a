"""Linear layers computed by oneDNN from weights that are packed once: a fast path for CPUs that support it.

torch leaves float32 products to MKL, which has no AVX-512 code for processors other than Intel's;
oneDNN, which also comes with torch, has. On an AMD EPYC with AVX-512 it is 2.3 times faster, and unlike
MKL it gives a row the same bits whatever the number of rows.

Which dtypes oneDNN packs depends on the processor and on how torch was built: AVX2 has float32 only,
AVX-512 bfloat16 too, and some builds have no oneDNN at all. No list of processors says so reliably, so
a small layer is packed, multiplied and compared before a model is changed. bfloat16 layers that cannot
be packed are packed in float32, which represents the same numbers, and their results are rounded: on AVX2
ten times faster than torch's own emulation. Other layers stay torch's own.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

_ROWS = 1024  # number of rows that the packing is optimized for; others work as well
_TRIAL_INPUTS, _TRIAL_OUTPUTS = 48, 80
_TRIAL_ROWS = (1, 17)
# Maximum error of a product, as a share of the sum of its terms' magnitudes: a few times the rounding of the dtype,
# and far below that of the next narrower one, with which some processors compute faster.
_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-7}


class PackedLinear(nn.Module):
    """A replacement of `nn.Linear` for inference.

    Args:
        linear: the layer to replace.
        dtype: dtype of the product; None for that of the layer. Results have the dtype of the input.

    Raises:
        RuntimeError: oneDNN does not pack weights of this dtype on this processor.
        AttributeError: this torch has no such operator.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype or linear.weight.dtype
        weight, bias = linear.weight.detach(), linear.bias
        self.weight_packed: Tensor = _operators()._reorder_linear_weight(weight.to(self.dtype), _ROWS)
        # T5 asks for the dtype of the weight; on the meta device, it takes no memory.
        self.weight = torch.empty_like(weight, device="meta")
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(self.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer: shape (..., in) to (..., out)."""
        wide = x.to(self.dtype)
        out: Tensor = _operators()._linear_pointwise(wide, self.weight_packed, self.bias, "none", [], "")
        return out.to(x.dtype)


def pack_linear_layers(model: nn.Module) -> bool:
    """Replace the linear layers of a model on the CPU by packed ones, in the dtypes that this machine can pack.

    The choice is not based on timing, because a resumed run must make the same choice.

    Returns:
        Whether the model had linear layers and all of them were replaced.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear]
    dtypes = {layer.weight.dtype: _choose_product_dtype(layer.weight.dtype) for layer in layers}
    return bool(layers) and _replace(model, dtypes) == len(layers)


def _choose_product_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """Dtype in which this machine can pack layers with weights of a dtype; None if it cannot."""
    for candidate in (dtype, torch.float32) if dtype == torch.bfloat16 else (dtype,):
        reason = unavailable_reason(dtype, candidate)
        if reason is None:
            return candidate
        logger.debug("Linear layers of %s are not packed in %s: %s", dtype, candidate, reason)
    return None


def unavailable_reason(dtype: torch.dtype, multiply_in: torch.dtype | None = None) -> str | None:
    """Why this machine cannot use packed layers in a dtype, found by trying one; None if it can.

    Args:
        dtype: dtype of weights and inputs.
        multiply_in: dtype of the product; None for `dtype`.
    """
    if dtype not in _TOLERANCE:
        return f"packed layers are for float32 and bfloat16, not for {dtype}"
    # Computed numbers instead of random ones, so that the state of torch's generator and the answer stay the same.
    weight = torch.linspace(-1, 1, _TRIAL_OUTPUTS * _TRIAL_INPUTS).sin_().view(_TRIAL_OUTPUTS, _TRIAL_INPUTS).to(dtype)
    bias = torch.linspace(-2, 2, _TRIAL_OUTPUTS).to(dtype)
    layer = nn.Linear(_TRIAL_INPUTS, _TRIAL_OUTPUTS, device="meta", dtype=dtype)
    layer.weight, layer.bias = (nn.Parameter(values, requires_grad=False) for values in (weight, bias))
    try:
        with torch.inference_mode():
            packed = PackedLinear(layer, multiply_in)
            errors = [_error(packed, weight, bias, rows) for rows in _TRIAL_ROWS]
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not max(errors) <= _TOLERANCE[dtype]:
        return (
            f"a packed product is wrong by {max(errors):.2g} of its terms; at most {_TOLERANCE[dtype]:.2g} is allowed"
        )
    return None


def _error(packed: PackedLinear, weight: Tensor, bias: Tensor, rows: int) -> float:
    """Maximum error of a packed layer's products against float64, as a share of the sum of their terms' magnitudes."""
    x = torch.linspace(-3, 5, rows * _TRIAL_INPUTS).cos_().view(rows, _TRIAL_INPUTS).to(weight.dtype)
    exact = functional.linear(x.double(), weight.double(), bias.double())
    terms = functional.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    return float(((packed(x).double() - exact).abs() / terms).amax())


def _operators() -> Any:
    return torch.ops.mkldnn


def _replace(module: nn.Module, dtypes: dict[torch.dtype, torch.dtype | None]) -> int:
    """Replace linear layers by packed ones, with product dtypes by weight dtype; returns the number replaced."""
    replaced = 0
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            replaced += _replace(child, dtypes)
        elif (dtype := dtypes[child.weight.dtype]) is not None:
            try:
                packed = PackedLinear(child, dtype)
            except RuntimeError as error:  # a shape that cannot be packed keeps torch's own layer
                logger.debug("The linear layer %s is not packed: %s", name, error)
                continue
            setattr(module, name, packed)
            replaced += 1
    return replaced
