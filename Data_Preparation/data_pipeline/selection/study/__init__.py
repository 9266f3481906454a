"""Does a subset train as good a classifier as random rows do?

prepare -> select -> train -> eval -> table, each a function of one config; finished work is skipped. Names are loaded
at their first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.selection.study.config import StudyConfig
    from data_pipeline.selection.study.grid import run_study
    from data_pipeline.selection.study.overrides import load_study
    from data_pipeline.selection.study.prepare import prepare
    from data_pipeline.selection.study.runs import evaluate, train
    from data_pipeline.selection.study.subsets import choose
    from data_pipeline.selection.study.table import study_table, write_table

_LAZY = {
    "StudyConfig": "config",
    "choose": "subsets",
    "evaluate": "runs",
    "load_study": "overrides",
    "prepare": "prepare",
    "run_study": "grid",
    "study_table": "table",
    "train": "runs",
    "write_table": "table",
}

__all__ = [
    "StudyConfig",
    "choose",
    "evaluate",
    "load_study",
    "prepare",
    "run_study",
    "study_table",
    "train",
    "write_table",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
