"""The lock of a data folder at a URL: one writer at a time, and a dead one does not block the next."""

import json
import os
import socket
import threading
import time

import pytest
from support.faulty_store import Faults, bad_network
from support.object_store import s3_at

from data_pipeline.errors import StoreError
from data_pipeline.working_copy import writer_lock
from data_pipeline.working_copy.objects import RemoteObjects
from data_pipeline.working_copy.writer_lock import LOCK, held


@pytest.fixture(params=["s3", "file"])
def objects(request, tmp_path):
    if request.param == "file":
        return RemoteObjects(f"file://{tmp_path}/there")
    return RemoteObjects(f"s3://{request.getfixturevalue('bucket')}/data")


def written_by(objects, **changes):
    """Write the lock of another writer."""
    writer = {"machine": "elsewhere", "process": 1, "owner": "", "token": "other", "beat": time.time()} | changes
    objects.write(LOCK, json.dumps(writer).encode())


def test_one_process_holds_it_and_gives_it_back(objects):
    with held(objects) as lock:
        lock.check()
        content = json.loads(objects.read(LOCK))
        assert (content["machine"], content["process"]) == (socket.gethostname(), os.getpid())
        with (
            pytest.raises(StoreError, match=rf"another process writes to .*process {os.getpid()}, last seen .* ago"),
            held(objects),
        ):
            pass
        lock.check()
    assert objects.read(LOCK) is None
    with held(objects):
        pass


@pytest.mark.parametrize(
    "dead",
    [
        {"beat": time.time() - writer_lock.STALE_S - 60},
        {"machine": socket.gethostname(), "process": 2**22 + 1},
        {"machine": socket.gethostname(), "process": os.getpid()},
        {"owner": "job-1"},
    ],
    ids=["without signs of life", "ended here", "not given back by this process", "of the same job"],
)
def test_that_of_a_dead_writer_is_taken_over(objects, dead):
    written_by(objects, **dead)
    with held(objects, "job-1") as lock:
        lock.check()
    assert objects.read(LOCK) is None


def test_that_of_a_live_writer_elsewhere_is_not(objects):
    written_by(objects, owner="job-2")
    with pytest.raises(StoreError, match=r"elsewhere, process 1, last seen .* counts as gone"), held(objects, "job-1"):
        pass
    assert json.loads(objects.read(LOCK))["machine"] == "elsewhere"


def test_one_that_cannot_be_read_is_replaced(objects):
    objects.write(LOCK, b"{")
    with held(objects) as lock:
        lock.check()


def test_a_writer_whose_lock_was_taken_stops_and_leaves_it(objects):
    with held(objects) as lock:
        written_by(objects)
        with pytest.raises(StoreError, match=r"is locked by elsewhere, process 1, and no longer .*run again"):
            lock.check()
    assert json.loads(objects.read(LOCK))["machine"] == "elsewhere"


def test_signs_of_life_keep_it(objects, monkeypatch):
    monkeypatch.setattr(writer_lock, "BEAT_S", 0.01)
    with held(objects) as lock:
        first = json.loads(objects.read(LOCK))["beat"]
        for _ in range(500):
            if (objects.read(LOCK) or b"") and json.loads(objects.read(LOCK) or b'{"beat": 0}')["beat"] > first:
                break
            time.sleep(0.01)
        else:
            pytest.fail("there was no sign of life")
        lock.check()


def test_of_many_that_start_at_once_one_gets_it(bucket):
    winners, start = [], threading.Barrier(8)

    def try_it():
        own = RemoteObjects(f"s3://{bucket}/data")
        start.wait()
        try:
            with held(own):
                winners.append(own)
                start.wait()
        except StoreError:
            start.wait()

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_an_answer_that_gets_lost_does_not_lose_the_lock(s3_url, bucket):
    faults = Faults(lost=0.3)
    with bad_network(s3_url, faults) as url, s3_at(url):
        objects = RemoteObjects(f"s3://{bucket}/data")
        for _ in range(5):
            with held(objects) as lock:
                lock.check()
    assert faults.seen["lost"] > 2
