"""Heads: small networks that turn vectors of texts into scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from data_pipeline.errors import ModelError, WrongEmbedderError
from data_pipeline.heads.identity import EmbedderIdentity
from data_pipeline.types import Float32Array

Kind = Literal["regression", "binary", "multiclass", "ordinal"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Layer:
    """Linear layer `weight @ x + bias`."""

    weight: Float32Array
    """Weights, shape (outputs, inputs)."""
    bias: Float32Array
    """Biases, shape (outputs,)."""


@dataclass(frozen=True, eq=False)
class Head:
    """Layers with ReLU between them, and the meaning of their outputs.

    | kind | outputs of the last layer | labels |
    |---|---|---|
    | regression | one per target | names of the targets |
    | binary | logit of the second label | the two labels |
    | multiclass | logit of each class | the classes |
    | ordinal | number that is compared with `cutpoints` | the grades, lowest first |

    An ordinal head is a proportional-odds model (McCullagh, 1980): the probability of a grade above k is
    `sigmoid(output - cutpoints[k])`.

    Raises:
        ModelError: shapes or labels do not fit together, or a number is not finite.
    """

    kind: Kind
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    embedder: EmbedderIdentity | None = None
    """Identity of the embedder that the head was trained on; None if a foreign file does not name it."""
    cutpoints: Float32Array | None = None
    """Ascending cutpoints of an ordinal head, one fewer than labels; None for other kinds."""
    temperature: float = 1.0
    """Divisor of the logits (Guo et al., 2017), fitted on held-out data."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How the head was trained or where it comes from, for people; plain JSON."""

    def __post_init__(self) -> None:
        for find_problem in (_find_shape_problem, _find_label_problem, _find_cutpoint_problem):
            if problem := find_problem(self):
                raise ModelError(f"not a valid {self.kind} head: {problem}")

    @property
    def dim(self) -> int:
        """Width of the vectors that the head takes."""
        return int(self.layers[0].weight.shape[1])

    @property
    def grades(self) -> Float32Array:
        """Labels of an ordinal head as numbers; 0, 1, 2, ... if they are not numbers."""
        try:
            return np.array([float(label) for label in self.labels], np.float32)
        except ValueError:
            return np.arange(len(self.labels), dtype=np.float32)

    def bound_to(self, embedder: EmbedderIdentity) -> "Head":
        """Bind the head to an embedder.

        Raises:
            WrongEmbedderError: vectors of the embedder have another width.
        """
        if embedder.settings.get("dim", str(self.dim)) != str(self.dim):
            raise WrongEmbedderError(
                f"the head takes vectors of {self.dim} dimensions, {embedder.settings.get('model', 'the embedder')} "
                f"gives {embedder.settings['dim']}"
            )
        return replace(self, embedder=embedder)


def outputs_of(kind: Kind, labels: int) -> int:
    """Number of outputs of the last layer of a head with this number of labels."""
    return labels if kind in {"regression", "multiclass"} else 1


def _find_shape_problem(head: Head) -> str | None:
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
    if width != expected:
        return f"its last layer gives {width} numbers, {len(head.labels)} labels need {expected}"
    return None


def _find_label_problem(head: Head) -> str | None:
    if len(set(head.labels)) != len(head.labels) or "" in head.labels:
        return f"its labels must be distinct and not empty, found {head.labels}"
    least = {"regression": 1, "binary": 2, "multiclass": 2, "ordinal": 2}[head.kind]
    if len(head.labels) < least or (head.kind == "binary" and len(head.labels) != 2):
        return f"it has {len(head.labels)} labels"
    if not (np.isfinite(head.temperature) and head.temperature > 0):
        return f"its temperature must be above 0, found {head.temperature}"
    return None


def _find_cutpoint_problem(head: Head) -> str | None:
    if (head.cutpoints is not None) != (head.kind == "ordinal"):
        return "only an ordinal head has cutpoints, and it needs them"
    if head.cutpoints is None:
        return None
    if head.cutpoints.shape != (len(head.labels) - 1,) or not (np.diff(head.cutpoints) > 0).all():
        return f"its cutpoints must be {len(head.labels) - 1} ascending numbers, found {head.cutpoints.tolist()}"
    return None
