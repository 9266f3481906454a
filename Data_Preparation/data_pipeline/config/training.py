"""How a head is trained; without torch, so that the command line can list it."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from data_pipeline.config.base import Section, setting


class TrainingConfig(Section):
    """How a head is trained."""

    kind: Literal["auto", "regression", "binary", "multiclass", "ordinal"] = "auto"
    """auto: regression for numbers, binary for two strings, multiclass for more."""
    hidden: list[NonNegativeInt] = Field(default_factory=lambda: [1000])
    """Units of the hidden layers; 0 for none: a linear head. JQL's has one of 1000."""
    epochs: int = Field(30, ge=1)
    """At most."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation loss after which it ends; the best one's weights are kept."""
    batch_size: int = Field(256, ge=1)
    """Most rows of a step; fewer where there are few rows, so that an epoch has 16 steps."""
    learning_rate: float = Field(2e-4, gt=0)
    """Of AdamW, at its highest; it falls to 0 as a cosine."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of hidden units left out in a step."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Of the rows, by whole documents."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts equally, however rare."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """One head is trained for each, on the same division; the best on validation is kept, the spread is reported."""
    device: str = setting("cpu", decides=False)
    """That trains."""
