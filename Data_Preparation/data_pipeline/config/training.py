"""Settings of the training of a head; free of torch, so that the command line can list them."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from data_pipeline.config.base import Section, setting


class TrainingConfig(Section):
    """Training of a head."""

    kind: Literal["auto", "regression", "binary", "multiclass", "ordinal"] = "auto"
    """Kind of head. auto: regression for numbers, binary for two strings, multiclass for more."""
    hidden: list[NonNegativeInt] = Field(default_factory=lambda: [1000])
    """Numbers of units of the hidden layers; 0: no hidden layer, a linear head. JQL has one layer of 1000."""
    epochs: int = Field(30, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(5, ge=1)
    """Number of epochs without a better validation loss after which training stops; the best weights are kept."""
    batch_size: int = Field(256, ge=1)
    """Maximum number of rows in a step; reduced for small datasets, so that an epoch has 16 steps."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW, which decays to 0 on a cosine schedule."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate of the hidden units, 0 to 1."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the rows held out for validation, by whole documents, 0 to 1."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss. balanced: inversely proportional to their frequency; none: equal."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Random seeds; one head is trained for each on the same rows, the best on validation is kept, and the spread
    is reported."""
    device: str = setting("cpu", decides=False)
    """Device used for training."""
