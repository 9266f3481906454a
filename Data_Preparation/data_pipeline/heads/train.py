"""Training of a head on labelled vectors; the best one on held-out documents is chosen."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data_pipeline.config.training import TrainingConfig
from data_pipeline.embeddings.transformer.loading import choose_device
from data_pipeline.errors import ConfigError
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.heads.labelled import Labelled
from data_pipeline.heads.losses import fit_temperature, make_loss
from data_pipeline.heads.model import Head, Layer, outputs_of
from data_pipeline.heads.task import TrainingTask, check_labels, held_out_rows, make_task
from data_pipeline.types import Float32Array

_MIN_STEPS = 16
"""Number of steps in an epoch, at least: small data gets smaller batches."""
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Trained:
    """A trained head, with its validation data and losses."""

    head: Head
    validation: Labelled
    """Held-out rows on which the head was chosen."""
    curve: list[dict[str, float]]
    """Training and validation loss of each epoch."""
    losses: Mapping[int, float]
    """Best validation loss of each seed."""


def train_head(data: Labelled, config: TrainingConfig, embedder: EmbedderIdentity | None) -> Trained:
    """Train a head.

    Inputs are standardized, and the standardization is folded into the first layer; likewise the targets of a
    regression and the last layer. Probabilities are calibrated on the validation rows by one temperature (Guo et al.,
    2017). The same data, config and number of threads give the same head.

    Args:
        data: vectors with labels.
        config: settings of the training.
        embedder: identity of the embedder that made the vectors, which is stored with the head.

    Raises:
        ConfigError: the labels do not fit the kind, or the training does not converge.
        SourceError: there are too few documents or labels.
    """
    task = make_task(data, config.kind)
    held_out = held_out_rows(data.documents, config.validation_share, config.seeds[0])
    check_labels(task, held_out, data.where)
    vectors = torch.from_numpy(np.ascontiguousarray(data.vectors, dtype=np.float32))
    parts = [torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out, held_out)]
    outcomes = {seed: _train_once(vectors, task, parts, config, seed) for seed in config.seeds}
    losses = {seed: outcome.loss for seed, outcome in outcomes.items()}
    best = min(losses, key=lambda seed: losses[seed])
    outcome, validation = outcomes[best], data.take(held_out)
    head = Head(
        kind=task.kind,
        labels=task.labels,
        layers=outcome.layers,
        embedder=embedder,
        cutpoints=outcome.cutpoints,
        temperature=outcome.temperature,
        about={
            "trained_on": data.where,
            "rows": len(data),
            "validation_rows": len(validation),
            "documents": len(np.unique(data.documents)),
            "seed": best,
            "config": config.model_dump(mode="json"),
            "curve": outcome.curve,
            "validation_loss_by_seed": {str(seed): loss for seed, loss in losses.items()},
        },
    )
    return Trained(head, validation, outcome.curve, losses)


@dataclass(frozen=True)
class _Outcome:
    layers: tuple[Layer, ...]
    cutpoints: Float32Array | None
    temperature: float
    loss: float
    curve: list[dict[str, float]]


class _Network(nn.Module):
    """Layers, and the cutpoints of an ordinal head: positive steps keep them ascending."""

    def __init__(self, width: int, task: TrainingTask, config: TrainingConfig) -> None:
        super().__init__()
        widths = [width, *(units for units in config.hidden if units), outputs_of(task.kind, len(task.labels))]
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.dropout = nn.Dropout(config.dropout)
        cuts = len(task.labels) - 1 if task.kind == "ordinal" else 0
        self.first_cut = nn.Parameter(torch.full((min(cuts, 1),), -cuts / 2))
        self.steps = nn.Parameter(torch.full((max(0, cuts - 1),), 0.5))

    @property
    def cutpoints(self) -> Tensor:
        """Ascending cutpoints, shape (labels - 1,); empty for other kinds."""
        steps = torch.cumsum(functional.softplus(self.steps) + 1e-3, dim=0)
        return torch.cat([self.first_cut, self.first_cut + steps]) if len(self.first_cut) else self.first_cut

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        return self.layers[-1](x)


def _train_once(
    vectors: Tensor, task: TrainingTask, parts: list[Tensor], config: TrainingConfig, seed: int
) -> _Outcome:
    generator = torch.Generator().manual_seed(seed)
    mean, scale = _mean_and_scale(vectors[parts[0]])
    targets, target_mean, target_scale = _standardize(task, parts[0])
    device = torch.device(choose_device(config.device, "device"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(vectors.shape[1], task, config).to(device)
        loss_of = make_loss(task, targets[parts[0]], config)
        optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        batch = max(1, min(config.batch_size, len(parts[0]) // _MIN_STEPS))
        steps = config.epochs * -(-len(parts[0]) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best, best_weights, curve = float("inf"), _copy_weights(network), list[dict[str, float]]()
        for epoch in range(config.epochs):
            order = parts[0][torch.randperm(len(parts[0]), generator=generator)]
            loss_sum = 0.0
            network.train()
            for rows in torch.split(order, batch):
                x = ((vectors[rows] - mean) / scale).to(device)
                loss = loss_of(network(x), targets[rows].to(device), network.cutpoints)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                loss_sum += float(loss.detach()) * len(rows)
            outputs = _outputs(network, vectors, parts[1], mean, scale)
            validation_loss = float(loss_of(outputs, targets[parts[1]], _cutpoints(network)))
            training_loss = loss_sum / len(parts[0])
            curve.append({"epoch": epoch + 1, "train_loss": training_loss, "validation_loss": validation_loss})
            if validation_loss < best:
                best, best_weights = validation_loss, _copy_weights(network)
            elif epoch + 1 - int(min(curve, key=lambda point: point["validation_loss"])["epoch"]) >= config.patience:
                break
        network.load_state_dict(best_weights)
    if not np.isfinite(best):
        raise ConfigError("the training does not converge: the loss is not finite. Lower learning_rate.")
    outputs = _outputs(network, vectors, parts[1], mean, scale)
    temperature = 1.0
    if task.kind != "regression":
        temperature = fit_temperature(loss_of, outputs, targets[parts[1]], _cutpoints(network))
    layers = _fold(network, mean, scale, target_mean, target_scale)
    cutpoints = _cutpoints(network).numpy().astype(np.float32) if task.kind == "ordinal" else None
    return _Outcome(layers, cutpoints, temperature, best, curve)


def _copy_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _cutpoints(network: _Network) -> Tensor:
    return network.cutpoints.detach().cpu()


def _outputs(network: _Network, vectors: Tensor, rows: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Compute outputs without dropout; they are on the CPU, shape (rows, outputs)."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        batches = torch.split(rows, _ROWS_AT_ONCE)
        outputs = [network(((vectors[batch] - mean) / scale).to(device)).cpu() for batch in batches]
    return torch.cat(outputs).clone()


def _mean_and_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and scale of each dimension; a constant dimension has scale 1."""
    mean, scale = vectors.mean(dim=0), vectors.std(dim=0, correction=0)
    return mean, torch.where(scale > 1e-8, scale, torch.ones_like(scale))


def _standardize(task: TrainingTask, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize the targets of a regression; also return the mean and scale that undo it."""
    targets = torch.from_numpy(task.targets)
    if task.kind != "regression":
        outputs = outputs_of(task.kind, len(task.labels))
        return targets, torch.zeros(outputs), torch.ones(outputs)
    training_targets = task.targets[rows.numpy()]
    mean, scale = np.nanmean(training_targets, axis=0), np.nanstd(training_targets, axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0).astype(np.float32)
    return (targets - torch.from_numpy(mean)) / torch.from_numpy(scale), torch.from_numpy(mean), torch.from_numpy(scale)


def _fold(
    network: _Network, mean: Tensor, scale: Tensor, target_mean: Tensor, target_scale: Tensor
) -> tuple[Layer, ...]:
    """Fold the standardization of inputs and targets into the first and last layer."""
    linear: Any = network.layers
    pairs = [(layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()) for layer in linear]
    weight, bias = pairs[0]
    weight = weight / scale.double()
    pairs[0] = weight, bias - weight @ mean.double()
    weight, bias = pairs[-1]
    pairs[-1] = weight * target_scale.double()[:, None], bias * target_scale.double() + target_mean.double()
    return tuple(Layer(weight.float().numpy(), bias.float().numpy()) for weight, bias in pairs)
