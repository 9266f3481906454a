"""The local engine: the bytes of one process, whichever workers do what, and whoever is killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import psutil
import pytest
from support.paragraphs import words_tokenizer

from data_pipeline.config import Config, CorpusConfig
from data_pipeline.download import corpus as corpus_module
from data_pipeline.download import open_corpus
from data_pipeline.errors import DataPipelineError, SourceError
from data_pipeline.execution.local_engine import LocalEngine
from data_pipeline.stages import paragraph_steps as steps
from data_pipeline.stages.base import Task, TaskResult, WorkerPlace, run_stage
from data_pipeline.stages.preprocess import ParagraphOutput, Source, write_paragraphs

WORDS = [f"word{number}" for number in range(400)]


@dataclass(frozen=True)
class Counting:
    """Stage that writes a file for each task."""

    folder: Path
    count: int
    pause_s: float = 0.0
    failing: int = -1
    parent: int = 0
    """Process that does not die, where the first one of the others does."""
    name: str = "Counting"
    unit: str = "row"
    outputs: tuple = ()

    @property
    def rows(self):
        return 10 * self.count

    def fingerprint(self):
        return ""

    def tasks(self):
        return [Task(f"task-{index}", index) for index in range(self.count)]

    def portable(self):
        return self

    def for_worker(self, place):
        return self

    def run(self, task, advance=lambda rows: None):
        with (self.folder / task.name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        if task.index == self.failing:
            raise SourceError("this one cannot be read")
        if self.parent and os.getpid() != self.parent and not (self.folder / "died").exists():
            (self.folder / "died").write_text(task.name)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause_s)
        advance(10)
        return TaskResult(task.name, 10, facts={"index": task.index})

    def finish(self, results):
        return [result.facts["index"] for result in results]


def places(count):
    return [WorkerPlace(f"worker-{number}") for number in range(count)]


def test_every_task_is_run_once_by_several_processes_and_results_are_in_order(tmp_path):
    with LocalEngine(places(3), tmp_path / "crew") as engine:
        assert run_stage(Counting(tmp_path, 12, 0.2), execute=engine) == list(range(12))
        ran = {path.name: path.read_text().split() for path in tmp_path.glob("task-*")}
        assert len(ran) == 12
        assert all(len(processes) == 1 for processes in ran.values())
        used = {processes[0] for processes in ran.values()}
        assert 2 <= len(used) <= 3
        assert str(os.getpid()) in used
        # The processes stay for the next stage.
        (tmp_path / "next").mkdir()
        run_stage(Counting(tmp_path / "next", 12, 0.2), execute=engine)
        later = {path.read_text().strip() for path in (tmp_path / "next").iterdir()}
        assert len(used | later) <= 3  # one of them may have had no task before


def test_an_error_of_a_task_ends_the_stage_and_is_raised_as_it_is(tmp_path):
    with LocalEngine(places(2), tmp_path / "crew") as engine:
        with pytest.raises(SourceError, match="this one cannot be read"):
            run_stage(Counting(tmp_path, 40, 0.05, failing=3), execute=engine)
        assert len(list(tmp_path.iterdir())) < 20
        (tmp_path / "next").mkdir()
        assert run_stage(Counting(tmp_path / "next", 4), execute=engine) == list(range(4))


def test_the_work_of_a_process_that_dies_is_done_by_another(tmp_path, caplog):
    with LocalEngine(places(2), tmp_path / "crew") as engine:
        assert run_stage(Counting(tmp_path, 8, 1.0, parent=os.getpid()), execute=engine) == list(range(8))
    assert len((tmp_path / (tmp_path / "died").read_text()).read_text().split()) == 2
    assert "a worker process died" in caplog.text


def test_a_process_that_dies_again_and_again_ends_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.execution.local_engine._MAX_DEATHS", 0)
    with (
        LocalEngine(places(2), tmp_path / "crew") as engine,
        pytest.raises(DataPipelineError, match="died 1 times, last with exit code"),
    ):
        run_stage(Counting(tmp_path, 8, 1.0, parent=os.getpid()), execute=engine)


def test_progress_is_that_of_all_workers(tmp_path):
    told = []
    with LocalEngine(places(3), tmp_path / "crew") as engine:
        stage = Counting(tmp_path, 9, 0.1)
        engine(stage, stage.tasks(), told.append)
    assert sum(told) == 90


def write_corpus(path, seed):
    texts = [" ".join(WORDS[(seed + number * 7 + n) % len(WORDS)] for n in range(60)) for number in range(300)]
    texts += [text.replace("word7 ", "changed ") for text in texts[:40]] + texts[:10]
    with path.open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": f"{path.stem}-{number}", "text": f"{text}\n\nshort {number}"}) + "\n")
        file.write("no json\n")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Three files, of which one is cut into parts."""
    monkeypatch.setattr(corpus_module, "UNIT_BYTES", 50_000)
    monkeypatch.setattr("data_pipeline.download.records.UNIT_BYTES", 50_000)
    (tmp_path / "corpus").mkdir()
    for seed in range(3):
        write_corpus(tmp_path / "corpus" / f"{seed}.jsonl", seed)
    config = CorpusConfig(source="jsonl", path=tmp_path / "corpus", id_field="id", on_bad_record="drop")
    corpus = open_corpus(config)
    assert len(list(corpus.units())) > 8
    return Source(corpus, config)


def files_of(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and ".cache" not in path.parts
    }


def make(source, folder, **engine):
    preprocess = {"min_chars": 0, "min_tokens": 1, "near_dedup": True}
    config = Config(data_dir=folder, preprocess=preprocess, storage={"shard_rows": 70, "versions": 0})
    output = ParagraphOutput(folder / "x_processed", {})
    return write_paragraphs(config, words_tokenizer(), [source], output, **engine)


def test_paragraphs_have_the_bytes_of_one_process(tmp_path, corpus):
    inline = make(corpus, tmp_path / "inline")
    assert inline["counts"]["dropped"].keys() >= {"near_duplicate", "exact_duplicate", "broken_line"}
    assert len(inline["splits"]["train"]["shards"]) > 3
    expected = files_of(tmp_path / "inline" / "x_processed")
    assert "dropped_examples.parquet" in expected
    with LocalEngine(places(3), tmp_path / "crew") as engine:
        make(corpus, tmp_path / "local", execute=engine)
    assert files_of(tmp_path / "local" / "x_processed") == expected
    assert not list((tmp_path / "local").glob(".*.work"))
    dropped = pl.read_parquet(tmp_path / "inline" / "x_processed" / "dropped.parquet")
    assert "1.jsonl, line 351" in dropped["document_id"].to_list()


def test_paragraphs_have_the_same_bytes_if_workers_are_killed(tmp_path, corpus):
    make(corpus, tmp_path / "inline")
    stop, killed = threading.Event(), []

    def kill(engine):
        """Kill others while they hold a task."""
        while not stop.wait(0.01) and len(killed) < 3:
            others = {follower.process.pid for follower in list(engine._followers)}.difference(killed)
            for lease in (tmp_path / "crew").rglob("*.lease"):
                with contextlib.suppress(OSError, ValueError):
                    process = json.loads(lease.read_text())["process"]
                    if process in others:
                        os.kill(process, signal.SIGKILL)
                        killed.append(process)

    with LocalEngine(places(3), tmp_path / "crew") as engine:
        run_stage(Counting(tmp_path, 12, 0.5), execute=engine)  # so that the others have started
        thread = threading.Thread(target=kill, args=(engine,))
        thread.start()
        try:
            make(corpus, tmp_path / "local", execute=engine)
        finally:
            stop.set()
            thread.join()
    assert killed
    assert files_of(tmp_path / "local" / "x_processed") == files_of(tmp_path / "inline" / "x_processed")


def test_others_end_when_the_process_is_killed_that_leads(tmp_path):
    code = (
        "import os, sys, signal\nfrom execution.test_local_engine import *\n"
        "with LocalEngine(places(3), Path(sys.argv[1]) / 'crew') as engine:\n"
        "    run_stage(Counting(Path(sys.argv[1]), 9, 0.5), execute=engine)\n"
        "    print(*(follower.process.pid for follower in engine._followers), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert run.returncode == -signal.SIGKILL, run.stderr
    processes = [int(process) for process in run.stdout.split()]
    assert len(processes) == 2
    end = time.monotonic() + 20
    while any(psutil.pid_exists(process) and psutil.Process(process).status() != "zombie" for process in processes):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_run_goes_on_where_an_interrupted_one_was(tmp_path, corpus, monkeypatch, caplog):
    caplog.set_level("INFO")
    make(corpus, tmp_path / "inline")
    staged, real = [], steps.stage_unit

    def counting(*arguments, **named):
        staged.append(arguments[5].name)
        return real(*arguments, **named)

    monkeypatch.setattr(steps, "stage_unit", counting)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "decide_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(corpus, tmp_path / "local")
    units = len(list(corpus.corpus.units()))
    assert len(staged) == units
    shutil.rmtree(tmp_path / "local" / ".x_processed.work" / "units" / "000002")
    make(corpus, tmp_path / "local")
    assert staged[units:] == ["000002"]
    assert "going on with the work of an interrupted run" in caplog.text
    assert files_of(tmp_path / "local" / "x_processed") == files_of(tmp_path / "inline" / "x_processed")


def test_too_many_bad_records_over_all_units_stop_the_run(tmp_path, corpus):
    strict = Source(replace(corpus.corpus, max_bad_share=0.001), corpus.config)
    with pytest.raises(SourceError, match=r"3 of the first 1,053 records cannot be used"):
        make(strict, tmp_path / "local")
    assert not (tmp_path / "local" / ".x_processed.work").exists()
