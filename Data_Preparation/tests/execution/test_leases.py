"""Leases: one worker has a task, until it is done, dead, or silent for too long."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from data_pipeline.execution.leases import Leases


def write(folder, name="t", machine="elsewhere", process=1, age_s=0.0):
    path = folder / f"{name}.lease"
    path.write_text(json.dumps({"machine": machine, "process": process, "rows": 3, "token": "x"}))
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_a_task_is_held_until_the_block_ends(tmp_path):
    leases = Leases(tmp_path)
    with leases.taken("t") as own:
        assert own is not None
        own.rows += 5
        with leases.taken("t") as other:
            assert other is None
        with leases.taken("u") as other:
            assert other is not None
        assert {name: holder.process for name, holder in leases.holders().items()} == {"t": os.getpid()}
    assert leases.holders() == {}
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), Leases(tmp_path).taken("t"):
        raise KeyError
    with Leases(tmp_path).taken("t") as own:
        assert own is not None


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os, socket; print(os.getpid(), socket.gethostname())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    process, machine = ended.stdout.split()
    write(tmp_path, machine=machine, process=int(process))
    with Leases(tmp_path).taken("t") as own:
        assert own is not None


def test_a_lease_counts_the_workers_that_died_at_its_task(tmp_path):
    for attempt in range(1, 4):
        with Leases(tmp_path).taken("t") as own:
            assert own is not None
            assert own.attempt == attempt
            left = (tmp_path / "t.lease").read_text()
        (tmp_path / "t.lease").write_text(left)
        os.utime(tmp_path / "t.lease", (0, 0))
    (tmp_path / "t.lease").unlink()
    with Leases(tmp_path).taken("t") as own:
        assert own is not None
        assert own.attempt == 1


def test_a_worker_that_was_ended_after_long_does_not_count(tmp_path):
    path = write(tmp_path, age_s=61)
    values = json.loads(path.read_text()) | {"attempt": 3}
    for worked, attempt in ((30, 4), (3600, 1)):
        path.write_text(json.dumps(values | {"since": time.time() - 61 - worked}))
        os.utime(path, (time.time() - 61,) * 2)
        with Leases(tmp_path).taken("t") as own:
            assert own is not None
            assert own.attempt == attempt


@pytest.mark.parametrize(("age_s", "free"), [(1.0, False), (59.0, False), (61.0, True)])
def test_a_worker_elsewhere_is_dead_after_a_minute_of_silence(tmp_path, age_s, free):
    write(tmp_path, age_s=age_s)
    with Leases(tmp_path).taken("t") as own:
        assert (own is not None) == free


@pytest.mark.parametrize("content", ["", "{", "[]", '{"machine": 1}'])
def test_a_lease_that_cannot_be_read_is_free_after_a_minute(tmp_path, content):
    path = write(tmp_path, age_s=0)
    path.write_text(content)
    with Leases(tmp_path).taken("t") as own:
        assert own is None
    os.utime(path, (1, 1))
    with Leases(tmp_path).taken("t") as own:
        assert own is not None


def test_signs_of_life_keep_it_and_tell_the_rows(tmp_path):
    with Leases(tmp_path, beat_s=0.2, stale_s=0.6).taken("t") as own:
        own.rows = 7
        end = time.monotonic() + 2
        while time.monotonic() < end:
            with Leases(tmp_path, beat_s=0.2, stale_s=0.6).taken("t") as other:
                assert other is None
            time.sleep(0.1)
        assert Leases(tmp_path).holders()["t"].rows == 7


def test_of_many_that_try_to_free_a_lease_one_gets_it(tmp_path):
    for trial in range(20):
        write(tmp_path, f"t{trial}", age_s=100)
        start, got, leave = threading.Barrier(8), [], threading.Event()

        def take(name=f"t{trial}", start=start, got=got, leave=leave):
            start.wait()
            with Leases(tmp_path).taken(name) as own:
                got.append(own is not None)
                leave.wait(5)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(got) < 8:
            time.sleep(0.01)
        leave.set()
        for thread in threads:
            thread.join()
        assert got.count(True) == 1
