"""Runs on Weights & Biases, where somebody asks for it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_pipeline.study.config import StudyConfig
from data_pipeline.utils import require

Log = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def tracked(config: StudyConfig, stage: str, name: str) -> Iterator[Log]:
    """Somewhere to log numbers to; nowhere, and wandb is not even imported, where tracking is disabled.

    Its key comes from the environment (`WANDB_API_KEY`) or its own login, and never through this program.

    Args:
        config: the study; all of it is recorded with the run.
        stage: train or eval.
        name: of the run.

    Raises:
        MissingExtra: wandb is wanted and not installed.
    """
    tracking = config.tracking
    if tracking.wandb_mode == "disabled":
        yield lambda numbers: None
        return
    wandb = require("wandb", "tracking", "tracking.wandb_mode other than disabled")
    config.artifacts_dir.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=tracking.project, entity=tracking.entity, mode=tracking.wandb_mode, name=name, job_type=stage,
        dir=str(config.artifacts_dir), config=config.model_dump(mode="json"),
    ) as run:  # fmt: skip
        yield run.log
