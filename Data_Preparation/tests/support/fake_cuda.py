"""A CUDA GPU that computes nothing, on any machine: wrong devices, dtypes and shapes are found without a card.

torch's fake tensors know their device, dtype and shape and no values. Indexing asks for a driver that a build for CPUs
lacks, so it is done by the operators that it consists of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda:0")
aten = torch.ops.aten


class _IndexByOperators(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__getitem__ and args[0].device.type == "cuda":
            return _item(*args)
        if function is Tensor.__setitem__ and args[0].device.type == "cuda":
            target, key, value = args
            part = _item(target, key)
            assert not isinstance(value, Tensor) or value.device == part.device
            return aten.expand_copy.default(value, part.shape) if isinstance(value, Tensor) else None
        if function is Tensor.contiguous and args[0].device.type == "cuda":
            return aten.clone.default(args[0], memory_format=torch.contiguous_format)
        if function is Tensor.pin_memory:
            return args[0]
        return function(*args, **(kwargs or {}))


def _item(tensor: Tensor, key: Any) -> Tensor:
    keys = list(key) if isinstance(key, tuple) else [key]
    n_used = sum(part is not None and part is not Ellipsis for part in keys)
    if Ellipsis in [part for part in keys if not isinstance(part, Tensor)]:
        place = next(n for n, part in enumerate(keys) if part is Ellipsis)
        keys[place : place + 1] = [slice(None)] * (tensor.dim() - n_used)
    dim, tensors = 0, []
    for part in keys:
        if part is None:
            tensor = aten.unsqueeze(tensor, dim)
            tensors.append(None)
            dim += 1
        elif isinstance(part, int):
            tensor = aten.select.int(tensor, dim, part)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
            tensors.append(None)
            dim += 1
        else:
            assert part.device == tensor.device, f"an index on {part.device} for a tensor on {tensor.device}"
            if part.dtype == torch.bool:  # how many it selects is not known without values: here all of them
                assert dim == 0
                tensor = tensor.flatten(0, part.dim() - 1) if part.dim() > 1 else tensor
                tensors.append(None)
                dim += 1
                continue
            tensors.append(part)
            dim += 1
    if any(part is not None for part in tensors):
        return aten.index.Tensor(tensor, tensors)
    return tensor


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make tensors on CUDA possible; tensors that were made before cannot be used inside."""
    with FakeTensorMode(), _IndexByOperators():
        yield


def to_fake_cuda(model: nn.Module) -> nn.Module:
    """Give the parameters and buffers of a model to the fake GPU, without their values; inside `fake_cuda`."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
                    held[name] = nn.Parameter(fake, requires_grad=False) if held is module._parameters else fake
    return model
