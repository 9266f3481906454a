"""The stages by name, and one command line for all of them."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import (
    ConfigError,
    DataPipelineError,
    MissingExtra,
    SelectionError,
    SourceError,
    StaleStage,
)
from data_pipeline.study.arguments import add_arguments
from data_pipeline.study.config import StudyConfig
from data_pipeline.study.figure import write_figure
from data_pipeline.study.overrides import config_file, load_study
from data_pipeline.study.prepare import prepare
from data_pipeline.study.runs import evaluate, train
from data_pipeline.study.subsets import choose
from data_pipeline.study.table import find_runs, markdown, study_table, write_table
from data_pipeline.utils import atomic_write_json, configure_logging

logger = logging.getLogger(__name__)

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_LONG = {"history", "study", "config"}


def tabulate(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Gather all measured runs into a table and, where matplotlib is installed, a figure.

    Returns:
        The files, and the table as Markdown.

    Raises:
        StoreError: nothing was measured yet.
    """
    del overwrite  # it is always made anew
    rows = study_table(find_runs(config.artifacts_dir))
    files = write_table(rows, config.artifacts_dir)
    try:
        files += write_figure(rows, config.artifacts_dir)
    except MissingExtra as error:
        logger.warning("no figure: %s", error)
    return {"files": [str(path) for path in files], "table": markdown(rows)}


STAGES: Mapping[str, Callable[[StudyConfig, bool], dict[str, Any]]] = {
    "prepare": prepare,
    "select": choose,
    "train": train,
    "eval": evaluate,
    "table": tabulate,
}


def run_stage(
    stage: str | None,
    overrides: Sequence[str],
    file: Path | None = None,
    overwrite: bool = False,
    record: Path | None = None,
) -> str:
    """Run a stage; the one that `stage=` in the overrides names, where none is given.

    Args:
        stage: one of `STAGES`.
        overrides: settings, see `load_study`.
        file: config file instead of the package's.
        overwrite: replace what was made from something else.
        record: JSON file for what the stage gives back, written when it is finished.

    Returns:
        What it did, for people.

    Raises:
        ConfigError: no stage is named, or two.
        DataPipelineError: the stage fails.
    """
    config = load_study(overrides, file)
    if stage is not None and config.stage not in {None, stage}:
        raise ConfigError(f"which stage, {stage} or {config.stage} (stage={config.stage})? Leave one out")
    name = stage or config.stage
    if name is None:
        raise ConfigError(f"say which stage: {', '.join(STAGES)}")
    found = STAGES[name](config, overwrite)
    if record is not None:
        atomic_write_json(record, found)
    if name == "table":
        return "\n".join([found["table"], "", *found["files"]])
    return json.dumps({key: value for key, value in found.items() if key not in _LONG}, indent=2, ensure_ascii=False)


def run_parsed(stage: str | None, parsed: argparse.Namespace) -> str:
    """Run a stage with the arguments of `add_arguments`."""
    file = config_file(parsed.config, parsed.config_dir)
    return run_stage(stage, parsed.overrides, file, parsed.overwrite, parsed.record)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m data_pipeline.study STAGE KEY=VALUE ...`; exit code 0 done, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.study",
        description=f"Does a subset train as good a classifier as random rows do? Stages: {', '.join(STAGES)}.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parsed = parser.parse_intermixed_args(arguments)
    configure_logging(None)
    stage = parsed.overrides.pop(0) if parsed.overrides and parsed.overrides[0] in STAGES else None
    try:
        sys.stdout.write(run_parsed(stage, parsed) + "\n")
    except (ConfigError, SourceError, MissingExtra, SelectionError, StaleStage) as error:
        return _complain(error, _BAD_INPUT)
    except (DataPipelineError, OSError) as error:
        return _complain(error, _FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted; run the same command again", _INTERRUPTED)
    return 0


def _complain(error: object, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code
