"""WikiText files: one paragraph in each line, ` = Title = ` for an article, ` = = Section = = ` inside it.

Body text can look like a heading (the legend of a table: ` = Played , W = `). A line is a
heading only if its runs of `=` balance and there are blank lines around it; by that rule the
three files of WikiText-2 have exactly their official 600, 60 and 60 articles.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import (
    SPLIT_NAMES,
    Corpus,
    OnBadRecord,
    Unit,
    content_hash,
    slug,
    split_of_file,
)
from data_pipeline.errors import SourceError
from data_pipeline.types import Document, Split
from data_pipeline.user_files import OnBytes, read_lines
from data_pipeline.utils import sha256_of_file
from data_pipeline.utils.markup import parse_heading
from data_pipeline.utils.urls import is_url, without_secrets

logger = logging.getLogger(__name__)

# Numbers of lines and articles of the official WikiText-2 (Merity et al., 2016).
OFFICIAL_COUNTS: dict[Split, tuple[int, int]] = {"train": (36_718, 600), "val": (3_760, 60), "test": (4_358, 60)}

WIKITEXT_LICENSE = "CC-BY-SA-3.0"
"""Licence of WikiText, whose texts are from Wikipedia."""

_OFFICIAL_SHA256 = {
    "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",  # wiki.valid.tokens
    "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",  # wiki.test.tokens
}
"""Files of WikiText-2, which tell it from other texts in its format."""


def articles(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Cut lines into articles; keeps one article in memory at a time.

    Args:
        lines: lines without line ends; blank ones may contain spaces.

    Yields:
        The title of an article, and the lines below it. Lines before the first title, even if
        all are blank, have an empty title.
    """
    title, body = "", list[str]()
    previous = ""
    for line, following in pairwise(chain(lines, ("",))):
        next_title = _title(line)
        if next_title is not None and not previous.strip() and not following.strip():
            yield title, body
            title, body = next_title, []
        else:
            body.append(line)
        previous = line
    yield title, body


def _title(line: str) -> str | None:
    """Title of an article, if a line looks like one, else None."""
    # The cheap test of the line's start rejects body text and the many headings of deeper levels.
    heading = parse_heading(line) if "= " in line[:3] and "= = " not in line[:5] else None
    return heading[1] if heading is not None and heading[0] == 1 else None


def wikitext_documents(lines: Iterable[str], split: Split | str, check: bool, where: str) -> Iterator[Document]:
    """Documents of the articles of one file or split.

    Args:
        lines: see `articles`; including the blank ones.
        split: split of the documents; an empty string if it is unknown.
        check: log a warning if lines and articles do not have the official counts of WikiText-2.
        where: name of the file or split, for messages.
    """
    n_lines = n_articles = 0
    for title, body in articles(_check_blank_lines(lines, where)):
        n_lines += bool(title) + len(body)
        text = "\n".join(body)
        if not title and not text.strip():
            continue
        n_articles += 1
        name = slug(title)
        digest = content_hash(f"{title}\n{text}", 10)
        identity = f"{name}-{digest}" if name else digest
        yield Document(identity, text, format="wikitext", title=title, source_split=split)
    if check and split in OFFICIAL_COUNTS:
        counts, expected = (n_lines, n_articles), OFFICIAL_COUNTS[SPLIT_NAMES[split]]
        if counts != expected:
            logger.warning(
                "%s is not the official WikiText-2 %s: found %d lines and %d articles, expected %d and %d",
                where, split, *counts, *expected,
            )  # fmt: skip
        else:
            logger.info("%s: %d lines, %d articles, the official counts", where, *counts)


def _check_blank_lines(lines: Iterable[str], where: str) -> Iterator[str]:
    """Yield the lines unchanged, and check that there are blank lines, without which titles cannot be recognized.

    Raises:
        SourceError: there are lines that look like titles, but no blank lines.
    """
    n_titles, first, has_blank = 0, "", False
    for line in lines:
        if not has_blank:
            has_blank = not line.strip()
            if _title(line) is not None:
                n_titles, first = n_titles + 1, first or line
        yield line
    if n_titles and not has_blank:
        raise SourceError(
            f"{where} has {n_titles} lines that look like titles, such as {first[:60]!r}, and no blank line: WikiText "
            "has one before and after every heading. Restore them, or read the text as records (corpus.source jsonl)."
        )


def wikitext_files(paths: Sequence[str]) -> list[tuple[Path, Split | str]]:
    """List a WikiText file, or those of a folder, train first, each with its split.

    Raises:
        SourceError: there is no such file, or more than one path is given.
    """
    if len(paths) != 1 or is_url(paths[0]):
        found = without_secrets(", ".join(paths)) or "none"
        raise SourceError(f"corpus.path: the source 'wikitext' needs one local file or folder, found {found}")
    path = Path(paths[0])
    if path.is_file():
        return [(path, split_of_file(path.name))]
    if not path.is_dir():
        raise SourceError(f"corpus.path: no such file or folder: {path}")
    files = list[tuple[Path, Split | str]]()
    for names in (("train",), ("valid", "validation", "val"), ("test",)):
        for pattern in ("wiki.{}.tokens", "wiki.{}.raw", "{}.txt", "{}.tokens"):
            candidates = [path / pattern.format(name) for name in names]
            existing = next((file for file in candidates if file.is_file()), None)
            if existing is not None:
                files.append((existing, SPLIT_NAMES[names[0]]))
                break
    if not files:
        raise SourceError(
            f"{path} holds no WikiText files: expected wiki.{{train,valid,test}}.tokens or {{train,valid,test}}.txt"
        )
    return files


def open_wikitext(config: CorpusConfig) -> Corpus:
    """Open the local WikiText files at `corpus.path`."""
    files = wikitext_files(config.path)
    is_official = config.name == "wikitext2"
    units = [Unit(partial(_read, path, split, is_official), path.stat().st_size) for path, split in files]
    identity = {path.name: sha256_of_file(path) for path, _ in files}
    return Corpus(
        description=f"WikiText files in {config.path[0]}",
        identity=identity,
        units=lambda: units,
        license=None if _OFFICIAL_SHA256.isdisjoint(identity.values()) else WIKITEXT_LICENSE,
    )


def _read(
    path: Path, split: Split | str, check: bool, on_bytes: OnBytes, on_bad: OnBadRecord | None
) -> Iterator[Document]:
    del on_bad  # these files are known: a fault is an error
    lines = (line for _, line in read_lines(path, on_bytes))
    return wikitext_documents(lines, split, check, str(path))
