"""How a small head learns each row: its error early on, and how often it forgets the row again.

EL2N and GraNd: Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. Forgetting: Toneva et al., "An
Empirical Study of Example Forgetting during Deep Neural Network Learning" (2019), arXiv:1812.05159. Margin: Pleiss et
al., "Identifying Mislabeled Data using the Area Under the Margin Ranking" (2020), arXiv:2001.10528.

The scores say nothing before every row was trained on once, and the highest ones are those of the noisiest rows:
Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. They are made with the labels of all rows.
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
    Inputs,
    SmallHead,
    SmallHeadConfig,
    class_numbers,
    open_inputs,
    trained_heads,
)
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar
from data_pipeline.utils.devices import in_float64

Looks = Mapping[str, NDArray[np.float64]]


class DynamicsConfig(SmallHeadConfig):
    """The trainings that are watched."""

    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """One training for each; scores are their means."""
    early_epoch: int = Field(1, ge=1)
    """At whose end el2n, grand and loss are taken."""

    @model_validator(mode="after")
    def _is_trained(self) -> Self:
        if self.early_epoch > self.epochs:
            raise ValueError(f"early_epoch ({self.early_epoch}) must be one of the {self.epochs} epochs")
        return self


def training_dynamics(
    embeddings: Embeddings, labels: ArrayLike, config: DynamicsConfig
) -> dict[str, NDArray[np.float64]]:
    """Scores of every row, each the mean over the seeds; high is hard, but for `margin`.

    After each full epoch all rows are looked at once, with the weights of that moment. A look costs about a third of
    an epoch. Columns:

    - `el2n`, 0 to the root of 2: length of (probabilities - one-hot label), after the early epoch.
    - `grand`, 0 or more: length of the gradient of the row's loss by the last layer's weights and biases, then too.
      That is el2n * sqrt(|h|^2 + 1), h being what the layer gets; of a linear head these are all weights.
    - `loss`, 0 or more: cross-entropy, then too.
    - `forgetting`, 0 to the number of epochs: how often the row was right at one look and wrong at the next; the number
      of epochs where it never was right.
    - `margin`: logit of the label less the largest other, the mean over all looks.

    Args:
        embeddings: shape (N, D).
        labels: shape (N,), whole numbers.
        config: of the trainings.

    Raises:
        SelectionError: embeddings or labels are not what they should be.
    """
    inputs = open_inputs(embeddings, config.device)
    classes_of, classes = class_numbers(labels, len(inputs))
    columns = ("el2n", "grand", "loss", "forgetting", "margin")
    totals = {name: np.zeros(len(inputs)) for name in columns}
    with progress_bar(len(config.seeds) * config.epochs, "training dynamics", "epochs") as bar:
        for seed in config.seeds:
            rights = []
            heads = trained_heads(inputs, np.arange(len(inputs)), classes_of, classes, config, seed)
            for epoch, head in enumerate(heads, start=1):
                found = _look(head, inputs, classes_of)
                rights.append(found["right"] > 0)
                totals["margin"] += found["margin"] / config.epochs
                if epoch == config.early_epoch:
                    for name in ("el2n", "grand", "loss"):
                        totals[name] += found[name]
                bar.update()
            totals["forgetting"] += forgetting_events(np.stack(rights))
    return {name: total / len(config.seeds) for name, total in totals.items()}


def forgetting_events(rights: NDArray[np.bool_]) -> IntArray:
    """How often each row goes from right to wrong; the number of looks for a row that never was right.

    Args:
        rights: shape (looks, N): which rows were right at each look.
    """
    events = (rights[:-1] & ~rights[1:]).sum(axis=0)
    return np.where(rights.any(axis=0), events, len(rights))


@torch.inference_mode()
def _look(head: SmallHead, inputs: Inputs, classes_of: IntArray) -> Looks:
    """What the head makes of every row."""
    found = {name: np.empty(len(inputs)) for name in ("el2n", "grand", "loss", "margin", "right")}
    for place, block in inputs.vectors.blocks():
        inner = head.inner(block)
        logits = in_float64(head.last(inner))
        targets = torch.from_numpy(classes_of[place]).to(logits.device)
        for name, values in _scores(logits, in_float64(inner), targets).items():
            found[name][place] = values.cpu().numpy()
    return found


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
