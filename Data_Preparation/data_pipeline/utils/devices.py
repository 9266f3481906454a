"""What torch's devices differ in: dtypes they lack, and how they say that memory is full."""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = {"mps"}
# Apple's and CPUs' allocators raise a plain RuntimeError, on Windows with other words.
_FULL = ("out of memory", "can't allocate memory", "not enough memory")


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, where it is; on the CPU if its device has no float64 (Apple's GPUs)."""
    return (tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor).double()


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; float64 becomes float32 on one that has no float64.

    Without waiting for a CUDA GPU. Others must be waited for: the memory that is copied may be used again before.
    """
    if tensor.dtype == torch.float64 and device.type in _WITHOUT_FLOAT64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=device.type == "cuda")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that a device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _FULL)


def free_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to a device, where it keeps any."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def half_or_float32(device: torch.device | str, dtype: str = "bfloat16") -> str:
    """A half-precision dtype where the device has it; else float32 (Apple's GPUs before macOS 14 have no bfloat16)."""
    try:
        torch.zeros(1, dtype=getattr(torch, dtype), device=device)
    except (RuntimeError, TypeError):
        return "float32"
    return dtype
