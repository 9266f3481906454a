"""Command `report`: a page about a dataset, or about how two differ."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.cli.command import Command, common_arguments, configure, configure_existing, local_path, shown_path
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError, DataPipelineError
from data_pipeline.utils import human_bytes

if TYPE_CHECKING:
    from data_pipeline.report.make import WrittenReport

logger = logging.getLogger(__name__)

_COMPARISON = "comparison.html"
_TWO = 2


def _report(parsed: argparse.Namespace, given: Given) -> int:
    if len(parsed.datasets) not in (0, _TWO):
        raise ConfigError(
            f"expected no dataset, for a report, or two to compare; found {' '.join(parsed.datasets)}. A report of "
            "another folder: elm report --output-dir FOLDER"
        )
    if parsed.rows < 1:
        raise ConfigError(f"--rows must be 1 or more, found {parsed.rows}")
    written = _compare(parsed, given) if parsed.datasets else _describe(parsed, given)
    present({"report": written}, Facts(report_rows(written)))
    return 0


def _describe(parsed: argparse.Namespace, given: Given) -> "WrittenReport":
    from data_pipeline.report.make import write_report

    return write_report(configure_existing(parsed, given), parsed.output, rows=parsed.rows, umap=parsed.umap)


def _compare(parsed: argparse.Namespace, given: Given) -> "WrittenReport":
    from data_pipeline.report.comparison import write_comparison
    from data_pipeline.stages.pipeline import find_corpus
    from data_pipeline.working_copy.opened import refresh

    if parsed.umap:
        raise ConfigError("a comparison has no map; leave --umap out")
    config = configure(parsed, given)
    named = "name" in given(parsed).get("corpus", {})
    configs = [_config_of(config, name) for name in parsed.datasets]
    for one in configs:
        refresh(one)
    opened = [_checked(find_corpus(one, named)) for one in configs]
    path = parsed.output or opened[0].data_dir / _COMPARISON
    return write_comparison((opened[0], opened[1]), (parsed.datasets[0], parsed.datasets[1]), path, rows=parsed.rows)


def _config_of(config: Config, name: str) -> Config:
    """Return the configuration of a dataset that is named by its folder or URL, and `@` and a variant if it is one."""
    folder, variant = name, None
    if "@" in name and not Path(name).is_dir():
        folder, _, variant = name.rpartition("@")
    if "://" not in folder and not Path(folder).is_dir():
        raise ConfigError(f"no such data folder: {folder}. Name two data folders, or FOLDER@VARIANT")
    values = config.model_dump(exclude={"data_dir", "data_url", "logs_dir"})
    values["embedding"]["variant"] = variant
    return Config(data_dir=folder, **values)


def _checked(config: Config) -> Config:
    """Check that a named variant exists."""
    from data_pipeline.store.versions import embedding_folders

    root = config.data_dir / "embeddings"
    names = sorted(folder.name for folder in embedding_folders(root) if folder != root)
    if (variant := config.embedding.variant) and variant not in names:
        existing = ", ".join(names) or "none"
        raise ConfigError(f"{config.shown_location} has no variant {variant!r}; expected one of {existing}")
    return config


def report_after_run(config: Config) -> "WrittenReport | None":
    """Write the report of a dataset that a run has made, unless that is off.

    The run is done, so a report that cannot be made is a warning, and no failure.
    """
    from data_pipeline.report.make import missing_extra, write_report

    if not config.report:
        return None
    if (reason := missing_extra()) is not None:
        logger.warning("%s, or leave the report out with --no-report", reason)
        return None
    try:
        return write_report(config)
    except (DataPipelineError, OSError) as error:
        logger.warning("no report was written: %s", error)
        return None


def report_rows(written: "WrittenReport") -> list[tuple[str, str]]:
    """Return rows of a table about a report."""
    of = "" if written.rows == written.total else f", of {written.rows:,} rows drawn from {written.total:,}"
    return [("report", f"{shown_path(written.path)} ({human_bytes(written.bytes)}{of}); open it in a browser")]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "datasets", nargs="*", metavar="DATASET",
        help="two data folders to compare, or a folder and one of its variants: data data@int8",
    )  # fmt: skip
    common_arguments(parser)
    parser.add_argument(
        "--output", type=local_path, metavar="FILE",
        help=f"path of the page (default: report.html, or {_COMPARISON}, in the data folder)",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=int, default=20_000, metavar="N", help="rows to read at most, drawn at random (default: 20,000)"
    )
    parser.add_argument(
        "--umap", action="store_true", help="add a UMAP map to the one of principal components; takes minutes"
    )


COMMANDS: Mapping[str, Command] = {
    "report": Command(
        "write a page about a dataset to look at, or compare two datasets",
        _arguments,
        _report,
        example="elm report --output-dir data\n  elm report data data@int8",
    ),
}
