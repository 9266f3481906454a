"""Work done in forks of one process that has imported everything: a fork costs milliseconds, an import seconds.

Drivers of the tests that kill processes use it; they are processes of their own, because threads of a process
that has used its libraries do not survive a fork.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
}
"""For drivers: they find this module."""


def fork(work):
    """Run `work(write)` in a fork, `write` being the end of a pipe; returns the child and the pipe's other end."""
    read, write = os.pipe()
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.close(read)
        try:
            work(write)
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException:  # noqa: BLE001  # it must not run on as a second parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    return child, read


def end(child, read):
    """Exit code of a fork, negative for a signal, and the JSON value it wrote."""
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(answer) if answer else None


def answer_of(work):
    """Exit code of a fork that does some work, and what the work gave."""
    return end(*fork(lambda write: os.write(write, json.dumps(work()).encode())))


def import_what_is_imported_by(work):
    """Do some work once in a fork, and import here what it imported, so that no later fork has to."""

    def modules(write):
        before = set(sys.modules)
        work()
        with os.fdopen(write, "w") as file:
            json.dump([name for name in sys.modules if name not in before], file)

    code, names = end(*fork(modules))
    assert code == 0, code
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001, S112  # made up at run time, or part of another
            continue


def die_at_step(step, *targets):
    """Kill this process, as `kill -9` would, just before the n-th call of some functions.

    Args:
        step: number of the call, from 1, counted over all of them; None only counts.
        targets: names of functions of `os`, or pairs of an owner and a name.

    Returns:
        A function that gives the number of calls so far.
    """
    calls = 0

    def wrap(owner, name):
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, counted)

    for target in targets:
        wrap(*((os, target) if isinstance(target, str) else target))
    return lambda: calls
