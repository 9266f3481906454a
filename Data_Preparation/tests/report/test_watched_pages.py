"""The record that tests of pages rely on misses nothing: errors, dialogs, and requests of pages and workers."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.browser import open_page

pytestmark = pytest.mark.slow
# Without it the browser asks the server for one, which is an error of the console where there is none.
NO_ICON = '<link rel="icon" href="data:,">'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder and the address that serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_that_does_nothing_wrong_has_no_record(browser, site):
    folder, url = site
    (folder / "a.html").write_text(NO_ICON + "<p>Text</p><script>fetch('/a.html')</script>")
    with open_page(browser) as watched:
        watched.page.goto(f"{url}/a.html", wait_until="networkidle")
        watched.check()
        assert watched.requests.count(f"{url}/a.html") == 2


def test_errors_dialogs_and_requests_to_elsewhere_are_recorded(browser, site):
    folder, url = site
    (folder / "worker.js").write_text("fetch('https://example.com/b').catch(() => postMessage('done'))")
    (folder / "a.html").write_text(
        NO_ICON + "<script>console.error('bad'); alert('ran'); fetch('https://example.org/a').catch(() => 0);"
        "new Worker('worker.js').onmessage = () => document.body.append('done'); throw new Error('thrown')</script>"
    )
    with open_page(browser) as watched:
        watched.page.goto(f"{url}/a.html")
        watched.page.get_by_text("done").wait_for()
        assert {"console: bad", "dialog: ran", "exception: thrown"} <= set(watched.errors)
        assert watched.outside() == ["https://example.org/a", "https://example.com/b"]
