"""Differences between the devices of torch: missing dtypes, and errors for full memory."""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = {"mps"}
# The allocators of Apple GPUs and CPUs raise a plain RuntimeError, with other words on Windows.
_FULL = ("out of memory", "can't allocate memory", "not enough memory")


def in_float64(tensor: Tensor) -> Tensor:
    """Convert a tensor to float64, on its device or on the CPU if the device has no float64 (Apple GPUs)."""
    return (tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor).double()


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device; float64 becomes float32 if the device has no float64.

    The copy to a CUDA GPU is asynchronous. Other devices are waited for, since the source memory may be reused.
    """
    if tensor.dtype == torch.float64 and device.type in _WITHOUT_FLOAT64:
        tensor = tensor.float()
    return tensor.to(device, non_blocking=device.type == "cuda")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that the memory of a device is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _FULL)


def free_cached_memory(device: torch.device) -> None:
    """Return cached memory of torch to a device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def half_or_float32(device: torch.device | str, dtype: str = "bfloat16") -> str:
    """Return a half-precision dtype if the device has it, else float32 (no bfloat16 on Apple GPUs before macOS 14)."""
    try:
        torch.zeros(1, dtype=getattr(torch, dtype), device=device)
    except (RuntimeError, TypeError):
        return "float32"
    return dtype


def device_of_worker(asked: str, number: int) -> str | None:
    """Return the device of one of several workers: one of the GPUs for `auto`, None for the device that was asked for.

    Args:
        asked: device that the settings name.
        number: number of the worker.
    """
    if asked != "auto" or not torch.cuda.is_available():
        return None
    return f"cuda:{number % torch.cuda.device_count()}"
