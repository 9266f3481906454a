"""Commands of the study, one a stage."""

import argparse
from collections.abc import Callable, Mapping

from data_pipeline.cli.command import Command
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import present
from data_pipeline.study.arguments import add_arguments
from data_pipeline.study.stages import STAGES, run_parsed
from data_pipeline.utils import configure_logging


def _run(stage: str) -> Callable[[argparse.Namespace, Given], int]:
    def run(parsed: argparse.Namespace, given: Given) -> int:
        configure_logging(None)
        result, text = run_parsed(stage, parsed)
        present(result, text)
        return 0

    return run


COMMANDS: Mapping[str, Command] = {
    f"study {name}": Command(
        stage.about,
        add_arguments,
        _run(name),
        settings=False,
        example=f"elm study {name} --config study.yaml",
        group="enrich",
    )
    for name, stage in STAGES.items()
}
