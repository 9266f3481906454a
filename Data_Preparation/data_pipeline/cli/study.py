"""Commands of the study: `prepare`, `select`, `train`, `eval`, `table`."""

import argparse
from collections.abc import Callable, Mapping

from data_pipeline.cli.command import Command, say
from data_pipeline.cli.flags import Given
from data_pipeline.study.arguments import add_arguments
from data_pipeline.utils import configure_logging

_STAGES = {
    "prepare": "import and embed a labelled dataset",
    "select": "select the subset",
    "train": "train a model on the subset",
    "eval": "evaluate the model on the dev rows, once",
    "table": "compare all evaluated runs with random subsets, as a table and a figure",
}


def _run(stage: str) -> Callable[[argparse.Namespace, Given], int]:
    def run(parsed: argparse.Namespace, given: Given) -> int:
        from data_pipeline.study.stages import run_parsed

        configure_logging(None)
        say(run_parsed(stage, parsed))
        return 0

    return run


COMMANDS: Mapping[str, Command] = {
    f"study {stage}": Command(about, add_arguments, _run(stage), settings=False) for stage, about in _STAGES.items()
}
