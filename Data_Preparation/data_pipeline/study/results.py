"""The stage `table`: all evaluated runs as a table and a figure."""

import logging
from typing import Any

from data_pipeline.errors import MissingExtraError
from data_pipeline.study.config import StudyConfig
from data_pipeline.study.figure import write_figure
from data_pipeline.study.table import find_runs, markdown, study_table, write_table

logger = logging.getLogger(__name__)


def tabulate(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Collect all evaluated runs into a table and, if matplotlib is installed, a figure.

    Args:
        config: Its section paths.
        overwrite: Ignored; table and figure are always written anew.

    Returns:
        `files`, and the `table` as Markdown.

    Raises:
        NotFoundError: No run has been evaluated.
    """
    del overwrite
    rows = study_table(find_runs(config.artifacts_dir))
    files = write_table(rows, config.artifacts_dir)
    try:
        files += write_figure(rows, config.artifacts_dir)
    except MissingExtraError as error:
        logger.warning("Skipping the figure: %s", error)
    return {"files": [str(path) for path in files], "table": markdown(rows)}
