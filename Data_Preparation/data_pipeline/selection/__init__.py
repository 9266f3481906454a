"""Which rows are worth training on: selectors rank them, budgets cut the ranking.

Names are loaded at their first use: the command line lists its flags without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.selection.budget import Budget, interleaved, quotas
    from data_pipeline.selection.description import describe
    from data_pipeline.selection.features import Features
    from data_pipeline.selection.measure_table import MEASURES
    from data_pipeline.selection.measuring import Measure, measure
    from data_pipeline.selection.of_dataset import features_of
    from data_pipeline.selection.ranking import Ranking, Selector, SelectorConfig
    from data_pipeline.selection.registry import SELECTORS
    from data_pipeline.selection.selecting import Selection, StrataConfig, select
    from data_pipeline.selection.stores import StoredSelection, select_from

_LAZY = {
    "Budget": "budget",
    "Features": "features",
    "MEASURES": "measure_table",
    "Measure": "measuring",
    "Ranking": "ranking",
    "SELECTORS": "registry",
    "Selection": "selecting",
    "Selector": "ranking",
    "SelectorConfig": "ranking",
    "StoredSelection": "stores",
    "StrataConfig": "selecting",
    "describe": "description",
    "features_of": "of_dataset",
    "interleaved": "budget",
    "measure": "measuring",
    "quotas": "budget",
    "select": "selecting",
    "select_from": "stores",
}

__all__ = [
    "MEASURES",
    "SELECTORS",
    "Budget",
    "Features",
    "Measure",
    "Ranking",
    "Selection",
    "Selector",
    "SelectorConfig",
    "StoredSelection",
    "StrataConfig",
    "describe",
    "features_of",
    "interleaved",
    "measure",
    "quotas",
    "select",
    "select_from",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
