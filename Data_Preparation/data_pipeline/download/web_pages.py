"""Corpora of web pages: HTML files, and WARC archives; trafilatura finds the text of a page."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import (
    Corpus,
    FilePart,
    OnBadRecord,
    corpus_of_files,
    files_under,
    split_of_file,
    with_compressions,
)
from data_pipeline.download.records import reporter, to_documents
from data_pipeline.errors import RecordError, SourceError
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes
from data_pipeline.user_files.text import open_stream
from data_pipeline.utils import converted_errors, require

HTML = with_compressions(".html", ".htm", ".xhtml")
"""File name endings of web pages in a folder."""
WARC = with_compressions(".warc", ".wet")
"""File name endings of archives of web pages in a folder."""

_MAX_PAGE_BYTES = 1 << 25  # parsing takes many times as much memory
_CHARSET = re.compile(rb"""charset\s*=\s*["']?([\w-]{2,40})""", re.IGNORECASE)
_METADATA = ("url", "author", "date", "sitename", "description", "language")
# A page is made into a record with these fields; those of the config name fields of users' records.
_FIELDS = {"text_field": "text", "id_field": "id", "title_field": "title", "split_field": None}


def open_html(config: CorpusConfig) -> Corpus:
    """Open HTML files; those of a folder and its subfolders are read in the order of their names.

    The id of a document is the path of its file below `corpus.path`; metadata fields may be `url`, `author`, `date`,
    `sitename`, `description` and `language`, as the page says.
    """
    require("trafilatura", "html", "corpus.source html")
    read = partial(_read_html, config.model_copy(update=_FIELDS))
    return corpus_of_files(config, files_under(config, HTML), read, "html", metadata=config.metadata_fields)


def _read_html(
    fields: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBadRecord | None
) -> Iterator[Document]:
    listed = part.listed
    with (
        converted_errors(OSError, SourceError, f"{listed.file} cannot be read"),
        open_stream(listed.file, on_bytes) as stream,
    ):
        page = stream.read(_MAX_PAGE_BYTES + 1)
    where = str(listed.file)
    try:
        values = {"id": listed.name, **_extract(page, "", where)}
    except RecordError as error:
        reporter(listed.name, "page", on_bad)(1, error)
        return
    yield from to_documents([(1, values)], fields, split_of_file(listed.name), where, listed.name, "page", on_bad)


def open_warc(config: CorpusConfig) -> Corpus:
    """Open WARC files: their HTML pages with status 200, and texts that were extracted before (WET).

    The id of a document is that of its record; metadata fields may be those of `open_html`, where `url` and `date` are
    those of the archive.
    """
    require("trafilatura", "warc", "corpus.source warc")
    require("warcio", "warc", "corpus.source warc")
    read = partial(_read_warc, config.model_copy(update=_FIELDS))
    fields, on_duplicate_id = config.metadata_fields, config.on_duplicate_id
    files = files_under(config, WARC)
    return corpus_of_files(config, files, read, "warc", metadata=fields, on_duplicate_id=on_duplicate_id)


def _read_warc(
    fields: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBadRecord | None
) -> Iterator[Document]:
    warcio = require("warcio", "warc", "corpus.source warc")
    listed = part.listed
    report = reporter(listed.name, "record", on_bad)
    where = str(listed.file)

    def records() -> Iterator[tuple[int, Mapping[str, Any]]]:
        failures = (OSError, EOFError, ValueError, warcio.exceptions.ArchiveLoadFailed)
        with (
            converted_errors(failures, SourceError, f"{where} cannot be read as WARC"),
            open_stream(listed.file, on_bytes) as stream,
        ):
            for number, record in enumerate(warcio.ArchiveIterator(stream), start=1):
                try:
                    values = _values_of_record(record, f"{where}, record {number}")
                except RecordError as error:
                    report(number, error)
                    continue
                if values is not None:
                    yield number, values

    yield from to_documents(records(), fields, split_of_file(listed.name), where, listed.name, "record", on_bad)


def _values_of_record(record: Any, where: str) -> dict[str, Any] | None:
    """Record of a page or text; None for other records, such as requests and images.

    Raises:
        SourceError: the archive ends within the record.
        RecordError: the page cannot be parsed.
    """
    headers, http = record.rec_headers, record.http_headers
    kind = (http if http is not None else headers).get_header("Content-Type") or ""
    is_page = record.rec_type in {"response", "resource"} and "html" in kind
    is_text = record.rec_type == "conversion" and kind.startswith("text/plain")
    if not (is_page or is_text) or (http is not None and http.get_statuscode() != "200"):
        return None
    content = record.content_stream().read(_MAX_PAGE_BYTES + 1)
    if len(content) <= _MAX_PAGE_BYTES and getattr(record.raw_stream, "limit", 0) > 0:
        raise SourceError(f"{where}: the file ends within this record. Copy or download it again.")
    url = headers.get_header("WARC-Target-URI") or ""
    values = _extract(content, url, where, kind) if is_page else _decoded(content, where)
    identity = (headers.get_header("WARC-Record-ID") or "").strip("<>").removeprefix("urn:uuid:")
    language = headers.get_header("WARC-Identified-Content-Language")
    return {"language": language, **values, "id": identity, "url": url, "date": headers.get_header("WARC-Date")}


def _decoded(content: bytes, where: str) -> dict[str, Any]:
    try:
        return {"text": content.decode(), "title": ""}
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8: {error.reason} at position {error.start}", "not_utf8") from error


def _decoded_page(page: bytes, content_type: str) -> str | bytes:
    """Text of a page by the encoding that it or its server names; the page itself where that is wrong or missing."""
    declared = _CHARSET.search(content_type.encode()) or _CHARSET.search(page[:1024])
    for encoding in ("utf-8-sig", declared[1].decode() if declared else ""):
        with suppress(UnicodeDecodeError, LookupError):
            return page.decode(encoding)
    return page


def _extract(page: bytes, url: str, where: str, content_type: str = "") -> dict[str, Any]:
    """Text and metadata of a page; the text is empty if nothing but navigation is there.

    Raises:
        RecordError: the page is too large.
    """
    if len(page) > _MAX_PAGE_BYTES:
        message = f"{where}: the page is larger than {_MAX_PAGE_BYTES >> 20} MiB. Leave it out, or convert it to text."
        raise RecordError(message, "page_too_large")
    import trafilatura

    found: Any = trafilatura.bare_extraction(
        _decoded_page(page, content_type), url=url or None, include_comments=False, with_metadata=True
    )
    values = {"text": "", "title": ""} if found is None else {"text": found.text or "", "title": found.title or ""}
    return values | {name: getattr(found, name, None) for name in _METADATA}
