"""Hooks of the documentation site: pages that are made when it is built, and files that are not in this folder.

The pages are written for readers of the repository too. A link to a file outside `docs/` becomes a link to a copy of
it below `project/`; copies are made of every file that a page links to, and of those that those link to. A word after
the language of a code block, which tells the tests what to do with it, is left out.
"""

import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
sys.path[:0] = [str(DOCS), str(CHECKOUT / "Data_Preparation")]  # the package that is documented is this one

from generate_reference import api_pages  # noqa: E402

PROJECT = "project/"
"""Folder of the site that has the files outside `docs/`."""
COPIED = ("QUICKSTART.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages outside `docs/` that the navigation names; others are copied because a page links to them."""

_PART = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^( *```\w+)[ \t]+[^\n`]+$", re.MULTILINE)
_NOTE = re.compile(r"^Written by `make docs`.*\n", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside `docs/`, and the pages of the API reference."""
    for uri, text in api_pages().items():
        files.append(File.generated(config, uri, content=text))
    known = {file.src_uri for file in files.documentation_pages()}
    waiting = [*COPIED, *(path for uri in known for path in _outside(DOCS / uri))]
    copied: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in copied:
            continue
        if not (CHECKOUT / path).is_file():
            raise PluginError(f"a page of the site links to {path}, which is no file of the repository")
        copied.add(path)
        files.append(File.generated(config, PROJECT + path, abs_src_path=str(CHECKOUT / path)))
        if path.endswith(".md"):
            waiting += _outside(CHECKOUT / path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of pages to where their targets are on the site, and leave out words for the tests."""
    del config, files
    source = source_of(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        if "://" in link[2] or link[2].startswith("mailto:"):
            return link[0]
        target = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2])))
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{link[1]}{posixpath.relpath(target, start)}{link[3] or ''}{link[4]}"

    markdown = _NOTE.sub("", markdown)
    return _FENCE.sub(r"\1", _outside_code(markdown, lambda text: _LINK.sub(rewritten, text)))


def source_of(uri: str) -> str:
    """Path of a page in the repository, from its path on the site."""
    return uri.removeprefix(PROJECT) if uri.startswith(PROJECT) else f"docs/{uri}"


def site_path(path: str) -> str:
    """Path of a file on the site, from its path in the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else PROJECT + path


def _outside(page: Path) -> Iterator[str]:
    """Paths in the repository of the files outside `docs/` that a page links to."""
    if not page.is_file():  # a page that is made when the site is built
        return
    targets: list[str] = []

    def collected(text: str) -> str:
        targets.extend(link[2] for link in _LINK.finditer(text))
        return text

    _outside_code(page.read_text(encoding="utf-8"), collected)
    for target in targets:
        if "://" not in target and not target.startswith("mailto:"):
            path = os.path.relpath((page.parent / target).resolve(), CHECKOUT)
            if not path.startswith("docs" + os.sep):
                yield Path(path).as_posix()


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change what is not in a code block or between backticks."""
    parts = _PART.split(markdown)
    # A text of a link may have backticks, so only parts that are whole blocks are taken out where a link goes on.
    joined = "".join(part if number % 2 == 0 else f"\0{number}\0" for number, part in enumerate(parts))
    return re.sub("\0(\\d+)\0", lambda mark: parts[int(mark[1])], change(joined))
