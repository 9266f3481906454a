"""The server of the explorer in a thread of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def served(explorer: Any, secret: str | None = None) -> Iterator[str]:
    """Serve an explorer; gives the address of its page, and closes its database at the end."""
    import uvicorn

    from data_pipeline.report.explorer.server import HOST, listen

    app, path = explorer.app(secret)
    opened = listen(0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield f"http://{HOST}:{opened.getsockname()[1]}{path}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()
        explorer.database.close()
