"""What `run` and `embed` do with the engine slurm: they submit jobs, and say how to follow them."""

from collections.abc import Sequence

from data_pipeline.cli.output import Facts, present
from data_pipeline.config import Config
from data_pipeline.types import SPLITS, Split


def submit_and_say(
    config: Config,
    skip_download: bool,
    skip_embeddings: bool,
    overwrite: bool,
    splits: Sequence[Split] = SPLITS,
) -> int:
    """Submit a run to Slurm, and print its jobs.

    Args:
        config: settings of the run.
        skip_download: whether the paragraphs are there already.
        skip_embeddings: whether to stop after the paragraphs.
        overwrite: whether to replace outputs that were made with other settings or are damaged.
        splits: splits to embed.
    """
    from data_pipeline.execution.slurm_run import Part, RunArguments, submit_run

    parts: list[Part] = [] if skip_download else ["paragraphs"]
    parts += [] if skip_embeddings else ["vectors"]
    jobs = submit_run(config, RunArguments(skip_download, skip_embeddings, overwrite, splits), parts)
    rows = [(job.name, f"job {job.job_id}, logs in {job.logs}") for job in jobs]
    rows += [
        ("follow", f"elm status --output-dir {config.data_dir}"),
        ("cancel", f"scancel {' '.join(job.job_id for job in jobs)}"),
        ("go on", "the same command again; finished work is kept"),
    ]
    document = {"jobs": [{"name": job.name, "job_id": job.job_id, "logs": job.logs} for job in jobs]}
    present(document, "Submitted to Slurm", Facts(rows))
    return 0
