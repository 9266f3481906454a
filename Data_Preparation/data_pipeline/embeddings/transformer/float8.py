"""Matrix products in float8 (torchao), for GPUs that support it."""

from typing import Any

import torch

from data_pipeline.errors import ConfigError
from data_pipeline.utils import require


def to_float8(model: Any, device: torch.device) -> None:
    """Quantize the weights and activations of a model's linear layers to float8, scaled row by row.

    Raises:
        ConfigError: the device does not support float8.
        MissingExtraError: torchao is not installed.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(f"embedding.fp8 needs a GPU with float8 (Ada, Hopper or newer); the device is {device}")
    quantization: Any = require("torchao.quantization", "fp8", "embedding.fp8")
    quantization.quantize_(
        model, quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    )
