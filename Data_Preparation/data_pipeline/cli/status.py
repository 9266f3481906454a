"""Command `status`: what the workers of a data folder are doing."""

import argparse
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure, say
from data_pipeline.cli.flags import Given
from data_pipeline.errors import NotFoundError
from data_pipeline.utils import format_table


def _status(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.status import crews_of, lines_of

    config = configure(parsed, given)
    if not config.data_dir.is_dir():
        raise NotFoundError(f"there is no folder {config.data_dir}. Name the data folder of a run: --output-dir FOLDER")
    crews = crews_of(config)
    if not crews:
        say(f"no workers run together in {config.data_dir}, and none did lately")
        return 0
    say("\n\n".join(format_table(lines_of(crew)) for crew in crews))
    return 0


COMMANDS: Mapping[str, Command] = {
    "status": Command(
        "show what the workers of a data folder have done, and when they will be through",
        common_arguments,
        _status,
        example="elm status --output-dir data",
    ),
}
