"""The documentation site builds without a warning, its links lead somewhere, and it loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from support.browser import PHONE_HEIGHT, PHONE_WIDTH, open_browser, open_page

import data_pipeline

CHECKOUT = Path(__file__).resolve().parents[2]

# Elements that a browser loads, and the attribute with the address. A link is loaded by its kind.
_LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "use": "href",
}  # fmt: skip
_LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
_CSS_ADDRESS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class Html(HTMLParser):
    """What the tests look at in a page: ids, links, loaded addresses, and the text outside code."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.paragraphs = set(), [], [], []
        self._code, self._in_paragraph, self._in_style = 0, False, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        self.ids |= {attributes[name] for name in ("id", "name") if name in attributes}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag in _LOADED and attributes.get(_LOADED[tag]):
            self.loaded.append(attributes[_LOADED[tag]])
        if tag == "link" and _LOADED_LINKS & set(attributes.get("rel", "").split()):
            self.loaded.append(attributes["href"])
        self.loaded += [address or other for address, other in _CSS_ADDRESS.findall(attributes.get("style", ""))]
        self._code += tag in ("code", "pre")
        self._in_style = tag == "style"
        if tag == "p":
            self._in_paragraph = True
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre")
        if tag == "p":
            self._in_paragraph = False

    def handle_data(self, data):
        if self._in_style:
            self.loaded += [address or other for address, other in _CSS_ADDRESS.findall(data)]
        if self._in_paragraph and not self._code:
            self.paragraphs[-1] += data


def is_external(address):
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in {"http", "https"}


def external(pages):
    """Page and address of everything that a page loads from another machine."""
    return [(path, address) for path, page in pages.items() for address in page.loaded if is_external(address)]


def dead_links(pages, files):
    """Page and address of links to a file or an anchor of the site that does not exist.

    Args:
        pages: parsed pages by their path on the site.
        files: paths of all files of the site.
    """
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(path), unquote(parts.path))) if parts.path else path
            if target not in files:
                target = os.path.normpath(os.path.join(target, "index.html"))
            if target not in files or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                dead.append((path, link))
    return dead


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', ["https://cdn.example.org/a.js"]),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', ["//fonts.example.org/a.css"]),
        ('<link rel="preconnect" href="https://fonts.example.org">', ["https://fonts.example.org"]),
        ('<img src="http://example.org/a.png">', ["http://example.org/a.png"]),
        ("<style>@font-face{src:url(https://example.org/a.woff)}</style>", ["https://example.org/a.woff"]),
        ('<link rel="canonical" href="https://example.org/"><a href="https://example.org/">text</a>', []),
        ('<img src="data:image/png;base64,AA"><script src="assets/a.js"></script>', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(html, expected):
    assert [address for _, address in external({"index.html": Html(html)})] == expected


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("b/", False),
        ("b/#here", False),
        ("b/#gone", True),
        ("c/", True),
        ("#top", True),
        ("a.png", False),
        (".", False),
    ],
)
def test_dead_links_are_found(link, is_dead):
    pages = {"index.html": Html(f'<a href="{link}">x</a>'), "b/index.html": Html('<h2 id="here">b</h2>')}
    assert bool(dead_links(pages, {*pages, "a.png"})) is is_dead


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder of the built site, and what the command printed."""
    pytest.importorskip("material", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(CHECKOUT / "Data_Preparation")}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


def test_make_builds_the_site_as_the_tests_do():
    # With --quiet, warnings do not reach the handler that --strict counts them with.
    recipe = (CHECKOUT / "Makefile").read_text("utf-8").partition("\nsite:")[2].partition("\n\n")[0]
    assert "NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build --strict --site-dir site\n" in recipe


@pytest.fixture(scope="session")
def pages(built):
    """The parsed pages of the site by their paths; 404.html has absolute links and is not one of them."""
    folder, _ = built
    paths = [path for path in sorted(folder.rglob("*.html")) if path.name != "404.html"]
    return {path.relative_to(folder).as_posix(): Html(path.read_text("utf-8")) for path in paths}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(built):
    assert "WARNING" not in built[1]
    assert "Documentation built" in built[1]


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(built, pages):
    assert len(pages) > 40
    assert external(pages) == []
    sheets = {path.name: Html(f"<style>{path.read_text('utf-8')}</style>") for path in built[0].rglob("*.css")}
    assert sheets
    assert external(sheets) == []


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere(built, pages):
    files = {path.relative_to(built[0]).as_posix() for path in built[0].rglob("*") if path.is_file()}
    assert sum(len(page.links) for page in pages.values()) > 2000
    assert dead_links(pages, files) == []


@pytest.mark.slow
def test_lists_and_code_blocks_are_read_as_such(pages):
    # The repository's own viewer needs no empty line before a list; the site does.
    texts = [(path, text) for path, page in pages.items() for text in page.paragraphs]
    assert [(path, text) for path, text in texts if re.search(r"^\s*(-|\d+\.) |```|^\|", text, re.MULTILINE)] == []


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(pages):
    reference = {anchor for path, page in pages.items() if path.startswith("api/") for anchor in page.ids}
    last_parts = {anchor.rpartition(".")[2] for anchor in reference}
    names = [getattr(getattr(data_pipeline, name), "__name__", name) for name in data_pipeline.__all__]
    assert [name for name in names if name not in last_parts] == []


@pytest.mark.slow
def test_every_page_of_the_repository_is_on_the_site(built):
    folder, _ = built
    pages = [path.relative_to(CHECKOUT / "docs").with_suffix("") for path in (CHECKOUT / "docs").rglob("*.md")]
    pages += [Path("project", name) for name in ("QUICKSTART", "CONTRIBUTING", "CHANGELOG")]
    missing = [page for page in pages if page.name != "README" and not (folder / page / "index.html").is_file()]
    assert missing == []


@pytest.fixture(scope="session")
def address(built):
    """Address at which the site is served, on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built[0])) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_site_searches_it_and_asks_no_other_machine(address, dark):
    with open_browser() as browser, open_page(browser, dark=dark) as watched:
        page = watched.page
        page.goto(f"{address}/")
        assert page.locator("body").get_attribute("data-md-color-scheme") == ("slate" if dark else "default")
        page.keyboard.press("/")
        page.keyboard.type("fingerprint", delay=20)
        results = page.locator(".md-search-result__item")
        results.first.wait_for()
        assert "fingerprint" in results.first.inner_text().lower()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: url.rstrip("/") != address)
        watched.check()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "commands/", "configuration/", "format_specification/", "api/dataset/"])
def test_pages_fit_a_phone(address, path):
    with open_browser() as browser, open_page(browser, width=PHONE_WIDTH, height=PHONE_HEIGHT) as watched:
        watched.page.goto(f"{address}/{path}")
        watched.page.locator("h1").wait_for()
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH
        watched.check()


def test_the_configuration_of_the_site_asks_for_no_other_machine():
    text = re.sub(r"!!python/\S+", "", (CHECKOUT / "mkdocs.yml").read_text("utf-8"))
    settings = yaml.safe_load(text)
    assert settings["theme"]["font"] is False
    assert settings["strict"] is True
    assert not {"analytics", "consent"} & set(settings.get("extra", {}))
    assert not [key for key in ("extra_javascript", "extra_css") if any("//" in path for path in settings.get(key, []))]
