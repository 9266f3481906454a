"""Command `status`: what the workers of a data folder are doing."""

import argparse
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, Part, present
from data_pipeline.errors import NotFoundError


def _status(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.status import crew_to_json, crews_of, lines_of

    config = configure(parsed, given)
    if not config.data_dir.is_dir():
        raise NotFoundError(f"there is no folder {config.data_dir}. Name the data folder of a run: --output-dir FOLDER")
    crews = crews_of(config)
    parts: list[Part] = []
    for crew in crews:
        parts += [*([""] if parts else []), Facts(lines_of(crew))]
    none = f"no workers run together in {config.data_dir}, and none did lately"
    present({"data_dir": config.data_dir, "crews": [crew_to_json(crew) for crew in crews]}, *(parts or [none]))
    return 0


COMMANDS: Mapping[str, Command] = {
    "status": Command(
        "show what workers have done, and when they will be through",
        common_arguments,
        _status,
        example="elm status --output-dir data",
    ),
}
