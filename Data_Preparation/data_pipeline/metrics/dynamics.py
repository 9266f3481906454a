"""Training dynamics of a small head: its early error on each row, and how often it forgets the row.

EL2N and GraNd: Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. Forgetting: Toneva et al., "An
Empirical Study of Example Forgetting during Deep Neural Network Learning" (2019), arXiv:1812.05159. Margin: Pleiss et
al., "Identifying Mislabeled Data using the Area Under the Margin Ranking" (2020), arXiv:2001.10528.

The scores are meaningless before every row was trained on once, and the highest ones are those of the noisiest rows:
Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. They are computed from the labels of all rows.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from data_pipeline.metrics.small_head import (
    Embeddings,
    SmallHead,
    SmallHeadConfig,
    StandardizedVectors,
    class_numbers,
    open_inputs,
    trained_heads,
)
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar
from data_pipeline.utils.devices import in_float64

Observations = Mapping[str, NDArray[np.float64]]
"""Values of every row at the end of an epoch, by name."""


class DynamicsConfig(SmallHeadConfig):
    """Settings of the measure `dynamics`."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds, one training for each; scores are means over them."""
    early_epoch: int = Field(1, ge=1)
    """Epoch at whose end el2n, grand and loss are computed."""

    @model_validator(mode="after")
    def _is_within_training(self) -> Self:
        if self.early_epoch > self.epochs:
            raise ValueError(f"early_epoch ({self.early_epoch}) must be one of the {self.epochs} epochs")
        return self


def training_dynamics(
    embeddings: Embeddings, labels: ArrayLike, config: DynamicsConfig
) -> dict[str, NDArray[np.float64]]:
    """Scores of every row, each the mean over the seeds; high is hard, except for `margin`.

    After each epoch all rows are evaluated with the weights of that moment, which costs about a third of an epoch.
    Columns:

    - `el2n`, 0 to the root of 2: length of (probabilities - one-hot label) after the early epoch.
    - `grand`, 0 or more: length of the gradient of the row's loss with respect to weights and biases of the last layer,
      after the early epoch. It is el2n * sqrt(|h|^2 + 1), h being the input of the layer; a linear head has no other
      weights.
    - `loss`, 0 or more: cross-entropy after the early epoch, in nats.
    - `forgetting`, 0 to the number of epochs: how often the row was right after one epoch and wrong after the next; the
      number of epochs for a row that never was right.
    - `margin`: logit of the label minus the largest other logit, the mean over all epochs.

    Args:
        embeddings: Shape (N, D).
        labels: Shape (N,), whole numbers.
        config: Settings.

    Raises:
        SelectionError: Embeddings or labels are invalid.
    """
    inputs = open_inputs(embeddings, config.device)
    classes_of, classes = class_numbers(labels, len(inputs))
    columns = ("el2n", "grand", "loss", "forgetting", "margin")
    totals = {name: np.zeros(len(inputs)) for name in columns}
    with progress_bar(len(config.seeds) * config.epochs, "training dynamics", "epochs") as bar:
        for seed in config.seeds:
            right_by_epoch = []
            heads = trained_heads(inputs, np.arange(len(inputs)), classes_of, classes, config, seed)
            for epoch, head in enumerate(heads, start=1):
                observed = _evaluate(head, inputs, classes_of)
                right_by_epoch.append(observed["right"] > 0)
                totals["margin"] += observed["margin"] / config.epochs
                if epoch == config.early_epoch:
                    for name in ("el2n", "grand", "loss"):
                        totals[name] += observed[name]
                bar.update()
            totals["forgetting"] += forgetting_events(np.stack(right_by_epoch))
    return {name: total / len(config.seeds) for name, total in totals.items()}


def forgetting_events(right: NDArray[np.bool_]) -> IntArray:
    """Number of changes of each row from right to wrong; the number of epochs for a row that never was right.

    Args:
        right: Shape (epochs, N), whether each row was right after each epoch.

    Returns:
        Shape (N,).
    """
    events = (right[:-1] & ~right[1:]).sum(axis=0)
    return np.where(right.any(axis=0), events, len(right))


@torch.inference_mode()
def _evaluate(head: SmallHead, inputs: StandardizedVectors, classes_of: IntArray) -> Observations:
    """Observations of every row with the present weights."""
    observed = {name: np.empty(len(inputs)) for name in ("el2n", "grand", "loss", "margin", "right")}
    for block_slice, block in inputs.vectors.blocks():
        inner = head.inner(block)
        logits = in_float64(head.last(inner))
        targets = torch.from_numpy(classes_of[block_slice]).to(logits.device)
        for name, values in _scores(logits, in_float64(inner), targets).items():
            observed[name][block_slice] = values.cpu().numpy()
    return observed


def _scores(logits: Tensor, inner: Tensor, targets: Tensor) -> dict[str, Tensor]:
    labels = functional.one_hot(targets, logits.shape[1])
    el2n = torch.linalg.vector_norm(logits.softmax(dim=1) - labels, dim=1)
    own = logits.gather(1, targets[:, None])[:, 0]
    margin = own - logits.masked_fill(labels.bool(), -torch.inf).amax(dim=1)
    return {
        "el2n": el2n,
        "grand": el2n * (inner.square().sum(dim=1) + 1).sqrt(),
        "loss": functional.cross_entropy(logits, targets, reduction="none"),
        "margin": margin,
        "right": margin > 0,
    }
