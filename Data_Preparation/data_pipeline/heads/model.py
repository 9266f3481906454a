"""A head: a few small layers that turn a text's vector into scores, and what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from data_pipeline.errors import ModelError, WrongEmbedder
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.types import Float32Array

Kind = Literal["regression", "binary", "multiclass", "ordinal"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer: `weight @ x + bias`."""

    weight: Float32Array
    """Shape (outputs, inputs)."""
    bias: Float32Array
    """Shape (outputs,)."""


@dataclass(frozen=True, eq=False)
class Head:
    """Layers with ReLU between them, and what their outputs mean.

    | kind | outputs of the last layer | labels |
    |---|---|---|
    | regression | one a target | names of the targets |
    | binary | one logit, of the second label | the two labels |
    | multiclass | one logit a class | the classes |
    | ordinal | one number, compared with `cutpoints` | the grades, lowest first |

    An ordinal head is a proportional-odds model (McCullagh, 1980): the probability of more than grade k is
    `sigmoid(output - cutpoints[k])`.

    Raises:
        ModelError: shapes or labels do not fit together, or a number is not finite.
    """

    kind: Kind
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    embedder: EmbedderIdentity | None = None
    """Whose vectors it was trained on; None where a foreign file does not say."""
    cutpoints: Float32Array | None = None
    """Of an ordinal head, ascending, one fewer than labels."""
    temperature: float = 1.0
    """Logits are divided by it (Guo et al., 2017); fitted on held-out data."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained or where it came from, for people; JSON."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ModelError(f"this is no {self.kind} head: {problem}")

    @property
    def dim(self) -> int:
        """Width of the vectors it takes."""
        return int(self.layers[0].weight.shape[1])

    @property
    def grades(self) -> Float32Array:
        """Of an ordinal head, its labels as numbers; 0, 1, 2, ... where they are not."""
        try:
            return np.array([float(label) for label in self.labels], np.float32)
        except ValueError:
            return np.arange(len(self.labels), dtype=np.float32)

    def bound_to(self, embedder: EmbedderIdentity) -> "Head":
        """The same head, for the vectors of this embedder.

        Raises:
            WrongEmbedder: its vectors have another width.
        """
        if embedder.settings.get("dim", str(self.dim)) != str(self.dim):
            raise WrongEmbedder(
                f"the head takes vectors of {self.dim} dimensions, {embedder.settings.get('model', 'the embedder')} "
                f"gives {embedder.settings['dim']}"
            )
        return replace(self, embedder=embedder)


def outputs_of(kind: Kind, labels: int) -> int:
    """Outputs of the last layer of a head with so many labels."""
    return labels if kind in {"regression", "multiclass"} else 1


def _problem(head: Head) -> str | None:
    """What is wrong with a head."""
    checks = (_shape_problem, _label_problem, _cutpoint_problem)
    return next((found for check in checks if (found := check(head))), None)


def _shape_problem(head: Head) -> str | None:
    if head.kind not in KINDS:
        return f"kind must be one of {', '.join(KINDS)}, found {head.kind!r}"
    if not head.layers:
        return "it has no layers"
    width: int | None = None
    for number, layer in enumerate(head.layers):
        if layer.weight.ndim != 2 or layer.bias.shape != layer.weight.shape[:1]:
            return f"layer {number} has weights of shape {layer.weight.shape} and biases of shape {layer.bias.shape}"
        if width is not None and layer.weight.shape[1] != width:
            return f"layer {number} takes {layer.weight.shape[1]} numbers, the layer before it gives {width}"
        if layer.weight.dtype != np.float32 or layer.bias.dtype != np.float32:
            return f"layer {number} is {layer.weight.dtype}, expected float32"
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            return f"layer {number} has numbers that are not finite"
        width = layer.weight.shape[0]
    expected = outputs_of(head.kind, len(head.labels))
    return (
        None
        if width == expected
        else f"its last layer gives {width} numbers, {len(head.labels)} labels need {expected}"
    )


def _label_problem(head: Head) -> str | None:
    if len(set(head.labels)) != len(head.labels) or "" in head.labels:
        return f"its labels must be distinct and not empty, found {head.labels}"
    least = {"regression": 1, "binary": 2, "multiclass": 2, "ordinal": 2}[head.kind]
    if len(head.labels) < least or (head.kind == "binary" and len(head.labels) != 2):
        return f"it has {len(head.labels)} labels"
    if not (np.isfinite(head.temperature) and head.temperature > 0):
        return f"its temperature must be above 0, found {head.temperature}"
    return None


def _cutpoint_problem(head: Head) -> str | None:
    if (head.cutpoints is not None) != (head.kind == "ordinal"):
        return "only an ordinal head has cutpoints, and it needs them"
    if head.cutpoints is None:
        return None
    if head.cutpoints.shape != (len(head.labels) - 1,) or not (np.diff(head.cutpoints) > 0).all():
        return f"its cutpoints must be {len(head.labels) - 1} ascending numbers, found {head.cutpoints.tolist()}"
    return None
