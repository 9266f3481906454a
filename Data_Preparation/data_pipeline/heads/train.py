"""Training a head: vectors and labels -> a `Head`, the best on documents it was not trained on."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data_pipeline.config.training import TrainingConfig
from data_pipeline.embeddings.transformer.loading import choose_device
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.heads.labelled import Labelled, label_name
from data_pipeline.heads.model import Head, Kind, Layer, outputs_of
from data_pipeline.types import Float32Array
from data_pipeline.utils import shown

_LEAST_STEPS = 16  # of an epoch


@dataclass(frozen=True)
class Trained:
    """A head, and how it came about."""

    head: Head
    validation: Labelled
    """What it was chosen on; not trained on."""
    curve: list[dict[str, float]]
    """Loss on both parts, epoch by epoch."""
    losses: Mapping[int, float]
    """Best validation loss of each seed."""


@dataclass(frozen=True)
class _Task:
    """What is learnt: the kind, its labels, and the targets as the loss wants them."""

    kind: Kind
    labels: tuple[str, ...]
    targets: NDArray[Any]
    """Regression: shape (N, T), float32, NaN where there is none; else the label's number, shape (N,), int64."""


def train_head(data: Labelled, config: TrainingConfig, embedder: EmbedderIdentity | None) -> Trained:
    """Train a head.

    Inputs are standardised, which is then folded into the first layer; targets of a regression likewise. Classifiers'
    probabilities are calibrated on the validation part by one temperature (Guo et al., 2017). The same data, config
    and number of threads give the same head.

    Args:
        data: vectors with labels.
        config: of the training.
        embedder: that made the vectors; it goes with the head.

    Raises:
        ConfigError: the kind does not go with the labels.
        SourceError: there are too few documents or labels.
    """
    task = _task(data, config.kind)
    held_out = held_out_rows(data.documents, config.validation_share, config.seeds[0])
    _check_labels(task, held_out, data.where)
    vectors = torch.from_numpy(np.ascontiguousarray(data.vectors, dtype=np.float32))
    parts = [torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out, held_out)]
    outcomes = {seed: _train_once(vectors, task, parts, config, seed) for seed in config.seeds}
    best = min(outcomes, key=lambda seed: outcomes[seed].loss)
    outcome = outcomes[best]
    validation = data.take(held_out)
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
            "validation_loss_by_seed": {str(seed): found.loss for seed, found in outcomes.items()},
        },
    )
    return Trained(head, validation, outcome.curve, {seed: found.loss for seed, found in outcomes.items()})


def held_out_rows(documents: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are for validation: whole documents, at random, until they are a share of all rows.

    Raises:
        SourceError: there are fewer than two documents.
    """
    names, members = np.unique(documents, return_inverse=True)
    if len(names) < 2:
        raise SourceError(f"training needs two documents or more, to hold some out; found {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(members)[order]
    count = min(max(1, int(np.searchsorted(np.cumsum(sizes), share * len(documents))) + 1), len(names) - 1)
    return np.isin(members, order[:count])


def _task(data: Labelled, asked: str) -> _Task:
    texts = data.labels.dtype.kind == "U"
    kind = asked
    if asked == "auto":
        kind = "regression" if not texts else "binary" if len(np.unique(data.labels)) == 2 else "multiclass"
    if kind == "regression":
        targets = _numbers(data).reshape(len(data), -1).astype(np.float32)
        names = tuple(f"target_{number}" for number in range(targets.shape[1])) if targets.shape[1] > 1 else ("score",)
        return _Task("regression", names, targets)
    if data.labels.ndim != 1:
        raise ConfigError(f"{data.where}: a {kind} head needs one label a row, found {data.labels.shape[1]}")
    values, numbers = np.unique(data.labels, return_inverse=True)
    if kind == "binary" and len(values) != 2:
        raise ConfigError(f"{data.where}: a binary head needs two labels, found {len(values)}: {_some(values)}")
    if len(values) < 2:
        raise ConfigError(f"{data.where}: all rows have the label {_some(values)}; there is nothing to tell apart")
    return _Task(_kind(kind), tuple(label_name(value) for value in values), numbers.astype(np.int64))


def _numbers(data: Labelled) -> NDArray[Any]:
    """The labels of a regression; texts that spell numbers are taken for them, since numbers were asked for."""
    try:
        return data.labels.astype(np.float64)
    except ValueError:
        odd = next(label for label in data.labels.ravel().tolist() if not _is_number(label))
        raise ConfigError(f"{data.where}: a regression needs numbers, found the label {shown(odd)}") from None


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _kind(name: str) -> Kind:
    kinds: dict[str, Kind] = {"binary": "binary", "multiclass": "multiclass", "ordinal": "ordinal"}
    return kinds[name]


def _some(values: NDArray[Any]) -> str:
    return ", ".join(label_name(value) for value in values[:10]) + (", ..." if len(values) > 10 else "")


def _check_labels(task: _Task, held_out: NDArray[np.bool_], where: str) -> None:
    if task.kind == "regression":
        for number, name in enumerate(task.labels):
            if not np.isfinite(task.targets[~held_out, number]).any():
                raise SourceError(f"{where}: no row that is trained on has a label for {name}")
        return
    missing = set(range(len(task.labels))) - set(task.targets[~held_out].tolist())
    if missing:
        names = ", ".join(task.labels[number] for number in sorted(missing))
        raise SourceError(
            f"{where}: after documents were held out for validation, no row is left to train on with the label "
            f"{names}. Add documents, or lower --validation-share."
        )


@dataclass(frozen=True)
class _Outcome:
    layers: tuple[Layer, ...]
    cutpoints: Float32Array | None
    temperature: float
    loss: float
    curve: list[dict[str, float]]


class _Network(nn.Module):
    """The layers, and the cutpoints of an ordinal head, which are kept ascending by their steps."""

    def __init__(self, width: int, task: _Task, config: TrainingConfig) -> None:
        super().__init__()
        widths = [width, *(units for units in config.hidden if units), outputs_of(task.kind, len(task.labels))]
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.dropout = nn.Dropout(config.dropout)
        cuts = len(task.labels) - 1 if task.kind == "ordinal" else 0
        self.first_cut = nn.Parameter(torch.full((min(cuts, 1),), -cuts / 2))
        self.steps = nn.Parameter(torch.full((max(0, cuts - 1),), 0.5))

    @property
    def cutpoints(self) -> Tensor:
        """Ascending, shape (labels - 1,)."""
        steps = torch.cumsum(functional.softplus(self.steps) + 1e-3, dim=0)
        return torch.cat([self.first_cut, self.first_cut + steps]) if len(self.first_cut) else self.first_cut

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        out: Tensor = self.layers[-1](x)
        return out


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs, targets, cutpoints) -> mean over the rows."""


def _train_once(vectors: Tensor, task: _Task, parts: list[Tensor], config: TrainingConfig, seed: int) -> _Outcome:
    generator = torch.Generator().manual_seed(seed)
    mean, scale = _spread(vectors[parts[0]])
    targets, target_mean, target_scale = _standardised(task, parts[0])
    device = torch.device(choose_device(config.device, "--device"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(vectors.shape[1], task, config).to(device)
        loss_of = _loss(task, targets[parts[0]], config)
        optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        batch = max(1, min(config.batch_size, len(parts[0]) // _LEAST_STEPS))
        steps = config.epochs * -(-len(parts[0]) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best, kept, curve = float("inf"), _copy(network), list[dict[str, float]]()
        for epoch in range(config.epochs):
            order = parts[0][torch.randperm(len(parts[0]), generator=generator)]
            trained = 0.0
            network.train()
            for rows in torch.split(order, batch):
                x = ((vectors[rows] - mean) / scale).to(device)
                loss = loss_of(network(x), targets[rows].to(device), network.cutpoints)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                trained += float(loss.detach()) * len(rows)
            checked = float(
                loss_of(_outputs(network, vectors, parts[1], mean, scale), targets[parts[1]], _cuts(network))
            )
            curve.append({"epoch": epoch + 1, "train_loss": trained / len(parts[0]), "validation_loss": checked})
            if checked < best:
                best, kept = checked, _copy(network)
            elif epoch + 1 - int(min(curve, key=lambda point: point["validation_loss"])["epoch"]) >= config.patience:
                break
        network.load_state_dict(kept)
    if not np.isfinite(best):
        raise ConfigError("the training does not converge: the loss is not finite. Lower --learning-rate.")
    outputs = _outputs(network, vectors, parts[1], mean, scale)
    temperature = (
        1.0 if task.kind == "regression" else _temperature(loss_of, outputs, targets[parts[1]], _cuts(network))
    )
    layers = _folded(network, mean, scale, target_mean, target_scale)
    cutpoints = _cuts(network).numpy().astype(np.float32) if task.kind == "ordinal" else None
    return _Outcome(layers, cutpoints, temperature, best, curve)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _cuts(network: _Network) -> Tensor:
    return network.cutpoints.detach().cpu()


def _outputs(network: _Network, vectors: Tensor, rows: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """On the CPU, without dropout."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(((vectors[some] - mean) / scale).to(device)).cpu() for some in torch.split(rows, 8192)]
    return torch.cat(parts).clone()


def _spread(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each dimension; a dimension that never changes is left as it is."""
    mean, scale = vectors.mean(dim=0), vectors.std(dim=0, correction=0)
    return mean, torch.where(scale > 1e-8, scale, torch.ones_like(scale))


def _standardised(task: _Task, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets as they are learnt, and the mean and scale that give them back."""
    targets = torch.from_numpy(task.targets)
    if task.kind != "regression":
        outputs = outputs_of(task.kind, len(task.labels))
        return targets, torch.zeros(outputs), torch.ones(outputs)
    seen = task.targets[rows.numpy()]
    mean, scale = np.nanmean(seen, axis=0), np.nanstd(seen, axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0).astype(np.float32)
    return (targets - torch.from_numpy(mean)) / torch.from_numpy(scale), torch.from_numpy(mean), torch.from_numpy(scale)


def _loss(task: _Task, seen: Tensor, config: TrainingConfig) -> Loss:
    if task.kind == "regression":
        return _masked_mse
    counts = torch.bincount(seen, minlength=len(task.labels)).float()
    weights = len(seen) / (len(counts) * counts) if config.class_weights == "balanced" else torch.ones_like(counts)

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
    there = ~targets.isnan()
    errors = torch.where(there, outputs - targets.nan_to_num(), torch.zeros_like(outputs))
    return errors.square().sum() / there.sum().clamp(min=1)


def _ordinal_losses(outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> Tensor:
    """Of a proportional-odds model: P(grade k) is the difference of two sigmoids, taken without cancellation."""
    padded = functional.pad(cutpoints, (1, 1))
    padded[0], padded[-1] = -torch.inf, torch.inf
    lower = outputs[:, 0] - padded[targets]
    upper = outputs[:, 0] - padded[targets + 1]
    # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), for a > b
    gap = torch.where(torch.isinf(upper - lower), torch.full_like(lower, -1e4), upper - lower)
    return -(functional.logsigmoid(lower) + functional.logsigmoid(-upper) + torch.log1p(-torch.exp(gap)))


def _temperature(loss_of: Loss, outputs: Tensor, targets: Tensor, cutpoints: Tensor) -> float:
    """That minimises the loss on held-out rows, between 1/20 and 20: the loss has one valley."""
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


def _folded(
    network: _Network, mean: Tensor, scale: Tensor, target_mean: Tensor, target_scale: Tensor
) -> tuple[Layer, ...]:
    """The layers for vectors as they are, and targets as they are."""
    linear: Any = network.layers
    pairs = [(layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()) for layer in linear]
    weight, bias = pairs[0]
    weight = weight / scale.double()
    pairs[0] = weight, bias - weight @ mean.double()
    weight, bias = pairs[-1]
    pairs[-1] = weight * target_scale.double()[:, None], bias * target_scale.double() + target_mean.double()
    return tuple(Layer(weight.float().numpy(), bias.float().numpy()) for weight, bias in pairs)
