"""The main pipeline on a real one-node Slurm: the bytes of one process, whatever happens to its tasks."""

import json
import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from execution.test_slurm import slurm
from support.file_jobs import clean_logging  # noqa: F401 - an autouse fixture
from support.slow_model import slow_model

pytest.importorskip("datatrove", reason='needs the extra "annotation"')

from data_pipeline.cli import main
from data_pipeline.config.load import load_config
from data_pipeline.errors import ConfigError
from data_pipeline.execution.slurm_run import CrewStep, RunArguments, submit_run
from data_pipeline.stages.pipeline import run

SETTINGS = {"time": "00:05:00", "partition": "main", "cpus_per_task": 1, "mem_per_cpu_gb": 1}


@pytest.fixture
def corpus(tmp_path):
    path, chosen = tmp_path / "in.jsonl", random.Random(0)
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join(chosen.choices(words, k=chosen.randint(5, 60))) for _ in range(900)]
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def settings(corpus, folder):
    return {"corpus.source": "jsonl", "corpus.path": str(corpus), "corpus.id_field": "id", "corpus.name": "x",
            "preprocess.min_tokens": 1, "preprocess.min_chars": 0, "preprocess.near_dedup": True,
            "embedding.model_name": "hashing", "embedding.batch_size": 4, "embedding.flush_s": 0.1,
            "storage.shard_rows": 400, "data_dir": str(folder), "logs_dir": str(folder / "logs")}  # fmt: skip


def with_slurm(config, tasks, **more):
    job = {**SETTINGS, "tasks": tasks, **more}
    execution = config.execution.model_validate({"engine": "slurm", "slurm": job})
    return config.model_copy(update={"execution": execution})


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"logs", ".cache", ".crews"} & set(path.parts) and path.suffix != ".lock"
    }


def queue(*jobs):
    ids = ",".join(jobs)
    shown = subprocess.run(["squeue", "-h", "-r", "-j", ids, "-o", "%i %T"], capture_output=True, text=True)
    return dict(line.split() for line in shown.stdout.splitlines())


def wait_for(jobs, folder, seconds=150):
    end = time.monotonic() + seconds
    while queue(*(job.job_id for job in jobs)):
        if time.monotonic() > end:
            subprocess.run(["scancel", *(job.job_id for job in jobs)], check=False)
            pytest.fail(f"the jobs did not end in {seconds} s:\n{logs(folder)}")
        time.sleep(0.5)


def logs(folder):
    return "\n".join(path.read_text() for path in sorted((folder / "logs").rglob("*.out")))


@slurm
@pytest.mark.slow
def test_two_arrays_give_the_bytes_of_one_process(tmp_path, corpus, capsys):
    run(load_config(None, settings(corpus, tmp_path / "inline")))
    file = tmp_path / "job.json"
    sections = {}
    for name, value in settings(corpus, tmp_path / "slurm").items():
        section, _, field = name.rpartition(".")
        (sections.setdefault(section, {}) if section else sections)[field] = value
    sections["execution"] = {"engine": "slurm", "slurm": {**SETTINGS, "tasks": 2}}
    file.write_text(json.dumps(sections))
    assert main(["run", "--config", str(file)]) == 0
    shown = capsys.readouterr().out
    ids = re.findall(r"job (\d+), logs in", shown)
    assert len(ids) == 2
    assert f"scancel {' '.join(ids)}" in shown
    end = time.monotonic() + 150
    while queue(*ids) and time.monotonic() < end:
        time.sleep(0.5)
    assert tree(tmp_path / "slurm") == tree(tmp_path / "inline"), logs(tmp_path / "slurm")
    assert main(["status", "--output-dir", str(tmp_path / "slurm")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("over") == 2
    assert re.search(r"Embedding train +\d+ of \d+ tasks done", shown)


@slurm
@pytest.mark.slow
def test_tasks_that_are_killed_requeued_and_cancelled_change_no_byte(tmp_path, corpus, monkeypatch):
    calls = slow_model(tmp_path, monkeypatch, here=False)
    config = load_config(None, settings(corpus, tmp_path / "inline"))
    run(config)
    own = load_config(None, settings(corpus, tmp_path / "slurm"))
    (jobs,) = [submit_run(with_slurm(own, 2, requeue=True), RunArguments(), ["paragraphs", "vectors"])]
    vectors = jobs[1].job_id

    def wait_for_work(count):
        end = time.monotonic() + 90
        while len(calls()) < count:
            assert time.monotonic() < end, logs(tmp_path / "slurm")
            time.sleep(0.1)

    wait_for_work(60)
    assert len(set(calls())) == 2
    # One task is killed, the other one goes on; then that is requeued.
    subprocess.run(["scancel", "--signal=KILL", "--full", f"{vectors}_0"], check=True)
    wait_for_work(len(calls()) + 20)
    subprocess.run(["scontrol", "requeue", f"{vectors}_1"], check=False)
    time.sleep(1)
    subprocess.run(["scancel", *(job.job_id for job in jobs)], check=True)
    wait_for(jobs, tmp_path / "slurm")
    assert not (tmp_path / "slurm" / "embeddings" / "manifest.json").exists() or len(calls()) > 200
    # Another number of tasks goes on with what is there.
    jobs = submit_run(with_slurm(own, 1), RunArguments(), ["paragraphs", "vectors"])
    wait_for(jobs, tmp_path / "slurm")
    assert tree(tmp_path / "slurm") == tree(tmp_path / "inline"), logs(tmp_path / "slurm")


def test_the_leader_of_a_job_publishes_what_it_made(tmp_path, corpus):
    run(load_config(None, settings(corpus, tmp_path / "inline")))
    config = load_config(None, settings(corpus, tmp_path / "own") | {"data_url": f"file://{tmp_path}/there"})
    for part in ("paragraphs", "vectors"):
        list(CrewStep(config, part, RunArguments(), config.crews_dir / f"job-{part}", 1).run())
    found, expected = tree(tmp_path / "there"), tree(tmp_path / "inline")
    sources = "x_processed/.documents.arrow"  # which names the source, by a path relative to the folder
    assert found | {sources: expected[sources]} == expected


def test_a_secret_in_a_path_is_not_stored_with_a_job(tmp_path):
    own = load_config(None, settings("https://user:password@host/a.jsonl", tmp_path))
    with pytest.raises(ConfigError, match="was given with a secret in it"):
        submit_run(with_slurm(own, 1), RunArguments(), ["paragraphs"])


def test_other_commands_say_that_they_submit_nothing(tmp_path, corpus, capsys):
    run(load_config(None, settings(corpus, tmp_path / "data")), skip_embeddings=True)
    arguments = ["append", "--output-dir", str(tmp_path / "data"), "--source", "jsonl", "--corpus.path", str(corpus),
                 "--execution.engine", "slurm", "--embedding.model_name", "hashing", "--preset", "offline"]  # fmt: skip
    assert main(arguments) == 2
    assert "execution.engine is slurm, which elm run and elm embed submit jobs for" in capsys.readouterr().err


def test_status_without_workers(tmp_path, capsys):
    assert main(["status", "--output-dir", str(tmp_path)]) == 0
    assert "no workers run together" in capsys.readouterr().out
    assert not (Path(tmp_path) / ".crews").exists()
