"""Command `plan`, and the plan that `run --dry-run` prints: the work before it begins."""

import argparse
import shutil
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.config import Config
from data_pipeline.errors import ConfigError


def _plan(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.engines import worker_places
    from data_pipeline.execution.plan import (
        Devices,
        Rows,
        devices_of,
        estimate_work,
        limits_of,
        plan_rows,
        sample_rows,
        this_machine,
    )
    from data_pipeline.machine import existing_parent

    config = configure(parsed, given)
    for name in ("rows", "tokens_per_row", "rate", "parameters", "price"):
        value = getattr(parsed, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be more than 0, found {value:g}")
    if parsed.rows is None:
        rows = sample_rows(config)
    else:
        rows = Rows(int(parsed.rows), parsed.tokens_per_row, 4.5 * parsed.tokens_per_row, 0)
    dim = parsed.dim or width_of(config)
    devices: Devices | None = None
    if parsed.machines is not None:
        devices = devices_of(parsed.machines, config, parsed.rate, parsed.parameters, parsed.price)
    elif parsed.rate or parsed.parameters or parsed.price:
        raise ConfigError("--rate, --parameters and --price describe --devices; name these, such as 64xH100")
    elif config.embedding.backend != "api":
        devices = this_machine(config)
    workers = config.execution.workers or len(worker_places(config.execution))
    work = estimate_work(config, rows, dim, workers, devices)
    import psutil

    free, memory = shutil.disk_usage(existing_parent(config.data_dir)).free, psutil.virtual_memory().total
    limits = limits_of(config, rows, dim, free, memory, devices)
    lines = [(f"x {times:,.2g}" if times < 1000 else "x 1000+", what) for times, what in limits]
    document = {"work": work, "limits": [{"times": times, "about": what} for times, what in limits]}
    tight = "What is tight, by how many times the rows would fit:"
    present(document, Facts(plan_rows(work)), tight, Facts(lines))
    return 0


def plan_of_run(config: Config, skip_embeddings: bool) -> list[tuple[str, str]]:
    """Describe a run in rows of a table, by a sample of its corpus and a measurement of this machine.

    Args:
        config: settings of the run.
        skip_embeddings: whether it stops after the paragraphs.
    """
    from data_pipeline.execution.engines import worker_places
    from data_pipeline.execution.plan import estimate_work, plan_rows, sample_rows, this_machine

    try:
        rows = sample_rows(config)
    except ConfigError as error:  # a stream, for example
        return [("work", str(error))]
    is_measured = not skip_embeddings and config.embedding.backend != "api"
    devices = this_machine(config) if is_measured else None
    workers = (
        len(worker_places(config.execution)) if config.execution.engine != "slurm" else config.execution.slurm.tasks
    )
    table = plan_rows(estimate_work(config, rows, width_of(config), workers, devices))
    return [row for row in table if not (skip_embeddings and row[0] == "vectors")]


def width_of(config: Config) -> int:
    """Return the width of the vectors of a config, by the table of models.

    Raises:
        ConfigError: the table does not know the model.
    """
    from data_pipeline.embeddings.recipes import find_card

    if config.embedding.dim is not None:
        return config.embedding.dim
    if config.embedding.model_name == "hashing":
        return 256
    match = find_card(config.embedding.model_name)
    if match is None or match.card.dim is None:
        raise ConfigError(f"the width of vectors of {config.embedding.model_name!r} is not known; give it: --dim N")
    return int(match.card.dim)


def _arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--source", help="source of the text (corpus.source)")
    parser.add_argument("--model-name", help="embedding model (embedding.model_name)")
    parser.add_argument("--rows", type=float, metavar="N", help="number of rows; default: from a sample of the corpus")
    parser.add_argument(
        "--tokens-per-row", type=float, default=128.0, metavar="N", help="tokens of a row, with --rows (default: 128)"
    )
    parser.add_argument("--dim", type=int, metavar="N", help="width of a vector; default: by the table of models")
    parser.add_argument(
        "--devices",
        dest="machines",
        metavar="NxNAME",
        help="devices that embed, such as 64xH100; default: that of this machine, which is measured",
    )
    parser.add_argument("--rate", type=float, metavar="N", help="tokens a second of one device, of elm doctor")
    parser.add_argument("--parameters", type=float, metavar="N", help="parameters of the model; default: by its name")
    parser.add_argument("--price", type=float, metavar="X", help="price of one device for an hour")
    parser.add_argument("--workers", metavar="N", help="number of workers that preprocess (execution.workers)")


COMMANDS: Mapping[str, Command] = {
    "plan": Command(
        "say what a run would read, write, take and cost",
        _arguments,
        _plan,
        example="elm plan --rows 1e9 --model-name Qwen/Qwen3-Embedding-4B --devices 64xH100",
        group="make",
    ),
}
