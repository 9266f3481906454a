"""A model so slow that all workers have something to do, and that tells which processes ran it."""

import os

from data_pipeline.embeddings import HashingEmbedder

_SLOW = """
import os, time
import data_pipeline.embeddings.hashing as hashing

real = hashing.HashingEmbedder.forward


def slow(self, *arguments, **named):
    with open(os.environ["TEST_PROCESSES"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.05)
    return real(self, *arguments, **named)


hashing.HashingEmbedder.forward = slow
"""


def slow_model(folder, monkeypatch, here=True):
    """Slow down the hashing embedder of all processes that are started, and of this one if `here`.

    Returns:
        Function that returns the process of each call so far.
    """
    started, calls = folder / "site" / "sitecustomize.py", folder / "processes"
    started.parent.mkdir()
    started.write_text(_SLOW)  # every process that is started imports this module
    calls.touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(started.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TEST_PROCESSES", str(calls))
    if here:
        monkeypatch.setattr(HashingEmbedder, "forward", HashingEmbedder.forward)
        exec(_SLOW, {})  # noqa: S102
    return lambda: calls.read_text().split()
