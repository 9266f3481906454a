"""A real headless browser for tests of pages, and pages that record their errors and every request."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 800
PHONE_WIDTH, PHONE_HEIGHT = 390, 844
_COLORED = 60  # difference between the strongest and the weakest of red, green and blue
_PATIENCE_MS = 120_000  # on a machine that has other work
_LOCAL_SCHEMES = {"data", "blob", "file", "about"}
_OPTIONS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # WebGL and WebGPU by the processor, for machines without a GPU. The page must be composed by the same Vulkan, or a
    # WebGPU canvas stays empty (https://github.com/visgl/luma.gl/issues/2874).
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--enable-unsafe-webgpu",
    "--ignore-gpu-blocklist",
    "--enable-gpu",
    "--use-vulkan=swiftshader",
    "--enable-features=Vulkan",
    # No name resolves, so that a request which is missed here fails, and is an error of the console.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def browser_path() -> str | None:
    """Return the path of an installed browser; None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def launch(playwright: Any) -> Any:
    """Start a headless browser that draws by the processor and resolves no names."""
    return playwright.chromium.launch(executable_path=browser_path(), args=list(_OPTIONS))


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser, a Playwright `Browser`; the test is skipped where there is no browser or no playwright.

    No event loop may be started in this thread while it is open.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if browser_path() is None:
        pytest.skip(f"no browser on the PATH: looked for {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page with a record of what went wrong and of what it asked for."""

    page: Any
    """Page of Playwright."""
    errors: list[str] = field(default_factory=list)
    """Errors of the console, exceptions that nothing caught, requests that failed and dialogs, in order."""
    requests: list[str] = field(default_factory=list)
    """URL of every request, in order, those of workers included."""

    def outside(self) -> list[str]:
        """Return the URLs of requests that left the machine."""
        urls = [urlsplit(url) for url in self.requests]
        return [url.geturl() for url in urls if url.scheme not in _LOCAL_SCHEMES and url.hostname != "127.0.0.1"]

    def check(self) -> None:
        """Assert that there was no error and that no request left the machine."""
        assert not self.errors, self.errors
        assert not self.outside(), self.outside()


@contextmanager
def open_page(
    browser: Any, *, dark: bool = False, width: int = WIDTH, height: int = HEIGHT, downloads: bool = False
) -> Iterator[Watched]:
    """Open an empty page in a context of its own, and record what happens on it.

    Args:
        browser: browser of `open_browser`.
        dark: whether the system prefers dark colours.
        width: width of the window in pixels, `PHONE_WIDTH` for a phone.
        height: height of the window in pixels.
        downloads: whether the page may download files.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        accept_downloads=downloads,
    )
    context.set_default_timeout(_PATIENCE_MS)
    try:
        yield watch(context.new_page())
    finally:
        context.close()


def watch(page: Any) -> Watched:
    """Record errors and requests of a page from now on."""
    watched = Watched(page)

    def note(message: str) -> None:
        watched.errors.append(message)

    def dialog(opened: Any) -> None:
        # What a script of hostile text would show.
        note(f"dialog: {opened.message}")
        opened.dismiss()

    def failed(request: Any) -> None:
        # A page may cancel requests of its own, such as those of a worker that it no longer needs.
        if request.failure != "net::ERR_ABORTED":
            note(f"failed request: {request.url} ({request.failure})")

    page.on("console", lambda message: message.type == "error" and note(f"console: {message.text}"))
    page.on("pageerror", lambda error: note(f"exception: {error}"))
    page.on("requestfailed", failed)
    page.on("dialog", dialog)
    # Of the context, which also sees the requests of workers.
    page.context.on("request", lambda request: watched.requests.append(request.url))
    page.on("websocket", lambda socket: watched.requests.append(socket.url))
    return watched


def painted_share(page: Any, selector: str = "canvas") -> float:
    """Return the share of the largest canvas of a page that is shown in a colour, and not white, grey or black."""
    import io

    import numpy as np
    from PIL import Image

    boxes = [box for each in page.locator(selector).all() if (box := each.bounding_box())]
    if not boxes:
        return 0.0
    largest = max(boxes, key=lambda box: box["width"] * box["height"])
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=largest))).convert("RGB")).astype(int)
    return float((np.ptp(pixels, axis=2) > _COLORED).mean())
