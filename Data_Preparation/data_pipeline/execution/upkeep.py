"""Functions that change a dataset in one process, published where its data folder is at a URL."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from data_pipeline.config import Config
from data_pipeline.stages import compact as compaction
from data_pipeline.stages import select, versions
from data_pipeline.working_copy.opened import published

P = ParamSpec("P")
R = TypeVar("R")


def with_publication(function: Callable[Concatenate[Config, P], R]) -> Callable[Concatenate[Config, P], R]:
    """Publish what a function makes; see `working_copy.opened.published`."""

    @wraps(function)
    def run_and_publish(config: Config, *arguments: P.args, **named: P.kwargs) -> R:
        with published(config):
            return function(config, *arguments, **named)

    return cast(Callable[Concatenate[Config, P], R], run_and_publish)


roll_back = with_publication(versions.roll_back)
remove_garbage = with_publication(versions.remove_garbage)
compact = with_publication(compaction.compact)
select_subset = with_publication(select.select_subset)
select_listed = with_publication(select.select_listed)
