"""The commands of the study: prepare, select, train, eval, table."""

import argparse
from collections.abc import Callable, Mapping

from data_pipeline.cli.command import Command, say
from data_pipeline.cli.flags import Given
from data_pipeline.study.arguments import add_arguments
from data_pipeline.utils import configure_logging

_STAGES = {
    "prepare": "a labelled data set into the store, with vectors",
    "select": "the subset",
    "train": "a model on the subset",
    "eval": "measure the model on the dev rows, once",
    "table": "all measured runs beside random rows, with a figure",
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
