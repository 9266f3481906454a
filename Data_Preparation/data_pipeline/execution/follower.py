"""A worker process of `local_engine`: python -m data_pipeline.execution.follower FOLDER PLACE PARENT."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from data_pipeline.execution.crew import CrewFolder, follow
from data_pipeline.stages.base import WorkerPlace
from data_pipeline.utils import configure_logging
from data_pipeline.utils.system import is_running

_LOOK_S = 0.5


def main(folder: str, place: str, parent: str) -> None:
    """Follow the process that started this one, until it is done or gone.

    Args:
        folder: folder of the crew.
        place: the `WorkerPlace`, as JSON.
        parent: id of the process that started this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    configure_logging(None)
    follow(CrewFolder(Path(folder)), WorkerPlace(**json.loads(place)))


def _end_with(parent: int) -> None:
    while is_running(parent):
        time.sleep(_LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
