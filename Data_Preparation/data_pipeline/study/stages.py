"""The stages of the study by name, and one command line for all of them.

    prepare -> select -> train -> eval     for every subset
    table                                  all evaluated runs
    sweep                                  the runs to do, for a workflow

Importing this module loads neither torch nor Hydra; a stage loads its function when it runs.
"""

import argparse
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import (
    ConfigError,
    DataPipelineError,
    MissingExtraError,
    SelectionError,
    SourceError,
    StaleStageError,
)
from data_pipeline.study.arguments import add_arguments
from data_pipeline.utils import atomic_write_json, configure_logging

if TYPE_CHECKING:
    from data_pipeline.study.config import StudyConfig

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_NOT_PRINTED = {"history", "study", "config"}


@dataclass(frozen=True)
class StudyStage:
    """Stage of the study."""

    about: str
    """Effect, in a line."""
    function: str
    """Module and name of the function (config, overwrite) -> JSON values."""

    def run(self, config: "StudyConfig", overwrite: bool) -> dict[str, Any]:
        """Run the stage.

        Raises:
            DataPipelineError: The stage fails.
        """
        return pkgutil.resolve_name(self.function)(config, overwrite)


STAGES: Mapping[str, StudyStage] = {
    "prepare": StudyStage("store a labelled dataset with its embeddings", "data_pipeline.study.prepare:prepare"),
    "select": StudyStage("select the subset", "data_pipeline.study.subsets:choose"),
    "train": StudyStage("train a model on the subset", "data_pipeline.study.runs:train"),
    "eval": StudyStage("evaluate the model on the dev rows, once", "data_pipeline.study.runs:evaluate"),
    "table": StudyStage("compare all evaluated runs with random rows", "data_pipeline.study.results:tabulate"),
    "sweep": StudyStage("list the runs of the sweep", "data_pipeline.study.sweep:list_sweep"),
}


def run_parsed(stage: str | None, parsed: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run a stage.

    Args:
        stage: Name of the stage; None for the one that `stage=` in the settings names.
        parsed: Arguments of `add_arguments`. The file that `record` names is written when the stage is finished.

    Returns:
        The result as JSON values, and for people.

    Raises:
        ConfigError: No stage is named, or two different ones.
        DataPipelineError: The stage fails.
    """
    from data_pipeline.study.overrides import config_file, load_study

    config = load_study(parsed.overrides, config_file(parsed.config, parsed.config_dir))
    if stage is not None and config.stage not in {None, stage}:
        raise ConfigError(f"two stages are named: {stage}, and stage={config.stage} in the settings. Leave one out")
    name = stage or config.stage
    if name is None:
        raise ConfigError(f"no stage is named; expected one of {', '.join(STAGES)}")
    result = STAGES[name].run(config, parsed.overwrite)
    if parsed.record is not None:
        atomic_write_json(parsed.record, result)
    if name == "table":
        return result, "\n".join([result["table"], "", *result["files"]])
    printed = {key: value for key, value in result.items() if key not in _NOT_PRINTED}
    return printed, json.dumps(printed, indent=2, ensure_ascii=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m data_pipeline.study STAGE KEY=VALUE ...`; exit code 0 done, 1 failed, 2 bad input, 130 interrupted."""
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
        sys.stdout.write(run_parsed(stage, parsed)[1] + "\n")
    except (ConfigError, SourceError, MissingExtraError, SelectionError, StaleStageError) as error:
        return _report_error(error, _BAD_INPUT)
    except (DataPipelineError, OSError) as error:
        return _report_error(error, _FAILED)
    except KeyboardInterrupt:
        return _report_error("interrupted; run the same command again to resume", _INTERRUPTED)
    return 0


def _report_error(error: object, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code
