"""The two file pipelines on Slurm: the script that is handed in, and jobs that a real one-node cluster runs."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.file_jobs import (
    annotation_job,
    clean_logging,  # noqa: F401 - an autouse fixture
    embedding_job,
    save_pt_head,
    texts,
    tree,
    write_lines,
)

pytest.importorskip("datatrove", reason='needs the extra "annotation"')

from data_pipeline.cli import main
from data_pipeline.errors import ConfigError, DataPipelineError
from data_pipeline.integrations.ml_filter import run_annotation_pipeline, run_embedding_pipeline

FAKE_SBATCH = """#!/bin/sh
echo "$@" >> {folder}/arguments
for last; do true; done
cat "$last" >> {folder}/script
echo Submitted batch job 4711
"""


@pytest.fixture
def inputs(tmp_path):
    for number in range(3):
        write_lines(tmp_path / "in" / f"{number}.jsonl", [{"text": text} for text in texts(5, number)])
    return tmp_path


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A command that takes every job and does none; returns what it was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(FAKE_SBATCH.format(folder=folder))
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return lambda name="script": (folder / name).read_text()


def submit(folder, **slurm):
    return run_embedding_pipeline(embedding_job(folder, slurm=slurm))


def test_the_script_has_what_the_job_says(inputs, sbatch):
    report = submit(
        inputs, tasks=200, time="08:00:00", partition="gpu", cpus_per_task=8, mem_per_cpu_gb=3, gpus_per_task=2,
        workers=5, job_name="emb_job", qos="high", account="me", output="/logs/%A.out", error="/logs/%A.err",
        mail_user="a@b.c", mail_type="FAIL",
        sbatch_args={"gres": "gpu:1", "mem_per_gpu": 4, "exclusive": True, "overcommit": False, "nice": None},
        srun_args={"cpu_bind": "none", "exact": True, "wait": 0, "label": False},
    )  # fmt: skip
    assert report.slurm_job_id == "4711"
    assert report.files == []
    lines = {line.removeprefix("#SBATCH --") for line in sbatch().splitlines() if line.startswith("#SBATCH")}
    assert lines == {
        "array=0-199%5", "time=08:00:00", "partition=gpu", "cpus-per-task=8", "mem-per-cpu=3G", "gpus=2", "nodes=1",
        "job-name=emb_job", "qos=high", "account=me", "output=/logs/%A.out", "error=/logs/%A.err", "mail-user=a@b.c",
        "mail-type=FAIL", "gres=gpu:1", "mem-per-gpu=4", "exclusive", "requeue",
    }  # fmt: skip
    run = next(line.strip() for line in sbatch().splitlines() if line.strip().startswith("srun"))
    assert "--cpu-bind=none " in run
    assert "--wait=0 " in run
    assert " --exact " in run  # with a "=", srun refuses it
    assert "label" not in run
    assert "--export=ALL,RUN_OFFSET=0" in sbatch("arguments")
    # One submission, and no job behind it that would wait for a part that failed.
    assert len(sbatch("arguments").splitlines()) == 1


def test_a_job_without_wishes(inputs, sbatch):
    report = submit(inputs, qos="", requeue=False)
    script = sbatch()
    assert "--qos" not in script
    assert "--requeue" not in script
    assert "#SBATCH --job-name=embedding_pipeline" in script
    assert "#SBATCH --array=0-0" in script
    # The environment that submits.
    assert f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH" in script
    assert report.logging_dir == inputs / "out" / "logs"
    (folder,) = report.logging_dir.glob("embedding-slurm-*")
    assert f"launch_pickled_pipeline {folder}/executor.pik" in script
    assert not (inputs / "out" / "embeddings").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"env_command": "module load python"}, "module load python"), ({"condaenv": "ml"}, "conda activate ml"),
        ({"venv_path": "/v/bin/activate"}, "source /v/bin/activate"),
    ],
)  # fmt: skip
def test_the_environment_on_the_node(inputs, sbatch, settings, line):
    submit(inputs, **settings)
    assert line in sbatch()
    assert "export PATH=" not in sbatch()


def test_more_parts_than_an_array_may_have_and_a_job_to_wait_for(inputs, sbatch):
    submit(inputs, tasks=10, tasks_per_job=2, max_array_size=3, depends_job_id="12", run_on_dependency_fail=True)
    assert "#SBATCH --array=0-2" in sbatch()
    first, second = sbatch("arguments").splitlines()
    assert "--dependency=afterany:12" in first
    assert "--export=ALL,RUN_OFFSET=1" in second
    assert "--dependency=afterany:12,afterany:4711" in second


def test_two_submissions_have_folders_of_their_own(inputs, sbatch):
    """In ML-Filter the second one was told that everything had been done."""
    for _ in range(2):
        submit(inputs)
    assert len(list((inputs / "out" / "logs").glob("embedding-slurm-*"))) == 2
    assert len(sbatch("arguments").splitlines()) == 2


@pytest.mark.parametrize("space", ["with space", "new\nline"])
def test_white_space_in_the_folder_for_logs_is_refused(inputs, sbatch, space):
    with pytest.raises(ConfigError, match="cannot have white space"):
        submit(inputs, logging_dir=inputs / space)
    assert not (inputs / "bin" / "arguments").exists()


def test_no_slurm(inputs, monkeypatch, capsys):
    (inputs / "empty").mkdir()
    monkeypatch.setenv("PATH", str(inputs / "empty"))
    with pytest.raises(DataPipelineError, match=r"Slurm is not installed.*Set running_on_slurm: false"):
        submit(inputs)


def test_slurm_refuses_the_job(inputs, sbatch):
    command = inputs / "bin" / "sbatch"
    command.write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
    with pytest.raises(DataPipelineError, match="Slurm did not take the job"):
        submit(inputs)


def has_node():
    if shutil.which("sinfo") is None:
        return False
    found = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, timeout=20)
    return found.returncode == 0 and re.search("idle|mix|alloc", found.stdout) is not None


slurm = pytest.mark.skipif(not has_node(), reason="sinfo finds no Slurm node on this machine")
SETTINGS = {
    "tasks": 2, "time": "00:03:00", "partition": "main", "cpus_per_task": 1, "mem_per_cpu_gb": 1, "requeue": False,
}  # fmt: skip


def states(job_id):
    """State and exit code of each part, when all have ended."""
    started = time.monotonic()
    while subprocess.run(["squeue", "-h", "-j", job_id], capture_output=True, text=True).stdout.strip():
        if time.monotonic() - started > 120:
            subprocess.run(["scancel", job_id], check=False)
            pytest.fail("the job did not end in 120 s")
        time.sleep(0.5)
    shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True).stdout
    found = {}
    for part in shown.strip().split("\n\n"):
        fields = dict(field.split("=", 1) for field in part.split() if "=" in field)
        found[int(fields["ArrayTaskId"])] = (fields["JobState"], fields["ExitCode"])
    return [found[rank] for rank in sorted(found)]


@slurm
@pytest.mark.slow
def test_both_pipelines_on_a_real_slurm_give_the_bytes_of_a_local_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative paths are those of the folder that submits
    heads = {"q": save_pt_head(tmp_path / "q.pt")}
    root, here = Path(), tmp_path
    for number in range(3):
        write_lines(here / "in" / f"{number}.jsonl", [{"text": text} for text in texts(9, number)])
    run_embedding_pipeline(embedding_job(here, output_dir=here / "local"))
    run_annotation_pipeline(
        annotation_job(here, heads, output_dir=here / "local", embeddings_directory=here / "local" / "embeddings")
    )
    done = run_embedding_pipeline(embedding_job(root, slurm=SETTINGS))
    assert states(done.slurm_job_id) == [("COMPLETED", "0:0")] * 2, logs(here)
    done = run_annotation_pipeline(annotation_job(root, heads, slurm=SETTINGS))
    assert states(done.slurm_job_id) == [("COMPLETED", "0:0")] * 2, logs(here)
    assert tree(here / "out") == tree(here / "local")
    assert len(list((here / "out" / "logs").rglob("annotation-*/annotation-*.json"))) == 1
    # One bad input: the task that leads has failed, for Slurm too, and all other files are done.
    (here / "in" / "1.jsonl").write_text("no JSON\n")
    write_lines(here / "in" / "3.jsonl", [{"text": "new"}])
    job = embedding_job(root, slurm=SETTINGS)
    done = run_embedding_pipeline(job)
    good, bad = sorted(states(done.slurm_job_id))
    assert good == ("COMPLETED", "0:0"), logs(here)
    assert bad[0] == "FAILED"
    assert bad[1] != "0:0"
    assert (here / "out" / "embeddings" / "3.h5").exists()
    assert "1.jsonl" in logs(here)


def logs(folder):
    return "\n".join(path.read_text() for path in sorted((folder / "out" / "logs").rglob("*.out")))


@slurm
def test_the_command_says_which_job_it_is_and_a_wrong_partition_is_told(tmp_path, capsys):
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "t"}])
    with pytest.raises(DataPipelineError, match="Slurm did not take the job"):
        submit(tmp_path, partition="no-such-partition")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"running_on_slurm: true\nparams: {{input_dir: {tmp_path}/in, glob_pattern: '*.jsonl', keys_to_index: [text], "
        f"output_dir: {tmp_path}/out, embedding_dir: e, embedding_model: hashing, batch_size: 1}}\n"
        "slurm_settings: {partition: main, cpus_per_task: 1, mem_per_cpu_gb: 1}\n"
    )
    assert main(["run_embedding_pipeline", "--config_file_path", str(job)]) == 0
    job_id = re.search(r"submitted to Slurm as job (\d+); reports will be in", capsys.readouterr().out).group(1)
    subprocess.run(["scancel", job_id], check=True)
