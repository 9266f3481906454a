"""Losses of the four kinds of heads, and the temperature that calibrates probabilities."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_pipeline.config.training import TrainingConfig
from data_pipeline.heads.task import TrainingTask

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function (outputs, targets, cutpoints) -> mean loss over the rows."""


def make_loss(task: TrainingTask, training_targets: Tensor, config: TrainingConfig) -> Loss:
    """Make the loss of a task.

    Args:
        task: task of the training.
        training_targets: targets of the training rows, whose counts decide the weights of the labels.
        config: whether labels are weighted.
    """
    if task.kind == "regression":
        return _masked_mse
    counts = torch.bincount(training_targets, minlength=len(task.labels)).float()
    is_balanced = config.class_weights == "balanced"
    weights = len(training_targets) / (len(counts) * counts) if is_balanced else torch.ones_like(counts)

    def negative_log_likelihood(outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> Tensor:
        weight = weights.to(outputs.device)[targets]
        if task.kind == "binary":
            losses = functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")
        elif task.kind == "multiclass":
            losses = functional.cross_entropy(outputs, targets, reduction="none")
        else:
            losses = _ordinal_losses(outputs, targets, cutpoints)
        return (losses * weight).sum() / weight.sum()

    return negative_log_likelihood


def _masked_mse(outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> Tensor:
    del cutpoints
    is_labelled = ~targets.isnan()
    errors = torch.where(is_labelled, outputs - targets.nan_to_num(), torch.zeros_like(outputs))
    return errors.square().sum() / is_labelled.sum().clamp(min=1)


def _ordinal_losses(outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> Tensor:
    """Losses of a proportional-odds model: P(grade k) is a difference of sigmoids, computed without cancellation."""
    padded = functional.pad(cutpoints, (1, 1))
    padded[0], padded[-1] = -torch.inf, torch.inf
    lower = outputs[:, 0] - padded[targets]
    upper = outputs[:, 0] - padded[targets + 1]
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), for a > b
    gap = torch.where(torch.isinf(upper - lower), torch.full_like(lower, -1e4), upper - lower)
    return -(functional.logsigmoid(lower) + functional.logsigmoid(-upper) + torch.log1p(-torch.exp(gap)))


def fit_temperature(loss_of: Loss, outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> float:
    """Find the temperature between 1/20 and 20 that minimizes the loss, by golden-section search: it has one minimum.

    Args:
        loss_of: loss of the task.
        outputs: outputs of the last layer for held-out rows.
        targets: targets of these rows.
        cutpoints: cutpoints of an ordinal head; else empty.
    """
    golden = (5**0.5 - 1) / 2
    low, high = -np.log(20), np.log(20)

    def loss(logarithm: float) -> float:
        divisor = float(np.exp(logarithm))
        return float(loss_of(outputs / divisor, targets, cutpoints / divisor))

    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
