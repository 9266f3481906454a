"""Devices that lack a dtype, or say in other words that their memory is full."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import data_pipeline
from data_pipeline.utils import devices

PACKAGE = Path(data_pipeline.__file__).parent


class OnAppleGpu:
    """A tensor of a device without float64, whose copy on the CPU it gives."""

    def __init__(self, tensor):
        self._tensor, self.device, self.dtype = tensor, torch.device("mps"), tensor.dtype

    def cpu(self):
        return self._tensor

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


def test_float64_is_computed_on_the_cpu_where_the_device_has_none():
    tensor = torch.tensor([1.5, 2.5])
    for found in (devices.in_float64(tensor), devices.in_float64(OnAppleGpu(tensor))):
        assert (found.dtype, found.tolist()) == (torch.float64, [1.5, 2.5])


def test_batches_are_moved_in_a_dtype_that_the_device_has_and_are_waited_for():
    class Tensor:
        def __init__(self, dtype):
            self.dtype, self.calls = dtype, []

        def float(self):
            self.calls.append("float")
            return self

        def to(self, device, non_blocking):
            self.calls.append((device.type, non_blocking))
            return self

    asked = {
        (device, dtype): devices.moved(Tensor(dtype), torch.device(device)).calls
        for device in ("cpu", "cuda", "mps")
        for dtype in (torch.float64, torch.float32)
    }
    assert asked == {
        ("cpu", torch.float64): [("cpu", False)],
        ("cpu", torch.float32): [("cpu", False)],
        ("cuda", torch.float64): [("cuda", True)],
        ("cuda", torch.float32): [("cuda", True)],
        ("mps", torch.float64): ["float", ("mps", False)],
        ("mps", torch.float32): [("mps", False)],
    }


def test_nothing_else_in_the_package_makes_float64_on_a_device():
    # torch.float64 of numbers that come from the CPU is fine; `.double()` of a tensor anywhere is not.
    for path in PACKAGE.rglob("*.py"):
        if path.name == "devices.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
            on_the_cpu = ("linear.py", "train.py")
            if path.name not in on_the_cpu:
                assert not re.search(r"(?<!\.cpu\(\))\.double\(\)", line), where
                assert "dtype=torch.float64" not in line or "torch.as_tensor(alpha" in line, where
            assert not re.search(r"\.to\([^)]*torch\.float64", line), where


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."), True),
        (RuntimeError("no kernel image is available"), False),
    ],
)
def test_a_full_memory_is_known_by_its_words(error, full):
    assert devices.is_out_of_memory(error) is full


def test_memory_that_torch_keeps_is_given_back_where_it_keeps_any(monkeypatch):
    emptied = []
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "empty_cache", lambda name=name: emptied.append(name))
    for name in ("cpu", "cuda", "mps"):
        devices.free_cached_memory(torch.device(name))
    assert emptied == ["cuda", "mps"]


@pytest.mark.parametrize("error", [TypeError("BFloat16 is not supported on MPS"), RuntimeError("no such device")])
def test_a_half_precision_dtype_that_a_device_lacks_is_float32(error, monkeypatch):
    assert devices.half_or_float32("cpu") == "bfloat16"

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(devices, "torch", SimpleNamespace(zeros=refuse, bfloat16=None))
    assert devices.half_or_float32("mps") == "float32"


def test_workers_get_the_gpus_in_turn_unless_a_device_was_asked_for(monkeypatch):
    assert devices.device_of_worker("auto", 1) is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [devices.device_of_worker("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [devices.device_of_worker(asked, 1) for asked in ("cpu", "cuda", "cuda:0")] == [None] * 3
