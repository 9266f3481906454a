"""Tracking of runs on Weights & Biases, off by default."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_pipeline.study.config import StudyConfig
from data_pipeline.utils import require

Log = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def tracked(config: StudyConfig, stage: str, name: str) -> Iterator[Log]:
    """Open a run and yield a function that logs numbers to it. With tracking disabled wandb is not even imported.

    The key comes from the environment (`WANDB_API_KEY`) or the login of wandb, and never through this program.

    Args:
        config: Settings of the study, all of which are recorded with the run.
        stage: train or eval.
        name: Name of the run.

    Raises:
        MissingExtraError: Tracking is enabled and wandb is not installed.
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
