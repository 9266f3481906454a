"""Corpora of HTML pages and WARC archives."""

import gzip

import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import SourceError

pytest.importorskip("trafilatura")
warcio = pytest.importorskip("warcio")

PARAGRAPHS = (
    "The lighthouse on the northern cape was built of granite that year, and it has been kept ever since.",
    "Its lamp was first lit by whale oil, later by paraffin, and it now runs on electricity from the mainland.",
)


def page(title: str = "The lighthouse", charset: str = "utf-8") -> str:
    text = "\n".join(f"<p>{paragraph}</p>" for paragraph in PARAGRAPHS)
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='{charset}'><title>{title}</title>"
        "<script>var hidden = 1;</script></head><body>"
        f"<nav><a href='/'>Home</a> <a href='/about'>About us</a></nav><article><h1>{title}</h1>{text}</article>"
        "<footer>Copyright, all rights reserved</footer></body></html>"
    )


def documents(source, path, on_bad=None, **settings):
    return list(open_corpus(CorpusConfig(source=source, path=path, **settings)).documents(on_bad))


def test_the_text_of_pages_is_read_without_navigation_and_scripts(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test-1.htm").write_text(page())
    (tmp_path / "a.html.gz").write_bytes(gzip.compress(page("Die Mühle", "iso-8859-1").encode("latin-1")))
    first, second = documents("html", tmp_path, metadata_fields={"language": "str"})
    assert (first.id, second.id) == ("a.html.gz", "sub/test-1.htm")
    assert (first.title, second.title) == ("Die Mühle", "The lighthouse")
    assert second.source_split == "test"
    for document in (first, second):
        assert all(paragraph in document.text for paragraph in PARAGRAPHS)
        assert not any(word in document.text for word in ("About us", "hidden", "<p>"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<", b"plain words without any markup", b"<html><body><p>open <b>and <i>never closed <table><tr><td>x",
        b"\x00\xff\xfe<html>", b"<div>" * 3000 + b"deep", b"<html><body><script>only()</script></body></html>",
        b"<!-- <p>commented</p> -->", b"<p>&#0;&#xD800;&nosuch;</p>",
    ],
)  # fmt: skip
def test_a_page_of_broken_markup_is_a_document_perhaps_without_text(tmp_path, content):
    (tmp_path / "x.html").write_bytes(content)
    (document,) = documents("html", tmp_path)
    assert "<p>" not in document.text
    document.text.encode()


def test_a_page_that_is_too_large_is_a_bad_record(tmp_path, monkeypatch):
    from data_pipeline.download import web_pages

    monkeypatch.setattr(web_pages, "_MAX_PAGE_BYTES", 2000)
    (tmp_path / "a.html").write_text(page())
    (tmp_path / "b.html").write_text(page() * 10)
    bad = []
    assert [document.id for document in documents("html", tmp_path, bad.append)] == ["a.html"]
    assert [(record.where, record.reason) for record in bad] == [("b.html, page 1", "page_too_large")]


def archive(*records, compressed=True):
    """Content of a WARC file with (type, address, content type, status, body) for each record."""
    content = b""
    for number, (kind, url, content_type, status, body) in enumerate(records):
        block = body
        if status:
            block = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + body
            content_type = "application/http; msgtype=response"
        headers = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"WARC-Date: 2026-01-02T03:04:05Z\r\nContent-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        record = headers.encode() + block + b"\r\n\r\n"
        content += gzip.compress(record) if compressed else record
    return content


def test_pages_and_extracted_texts_of_archives_are_documents(tmp_path):
    records = [
        ("warcinfo", "", "application/warc-fields", "", b"software: x"),
        ("request", "http://a.example/", "application/http; msgtype=request", "", b"GET / HTTP/1.1\r\n\r\n"),
        ("response", "http://a.example/", "text/html; charset=utf-8", "200 OK", page("Café").encode()),
        ("response", "http://a.example/x.png", "image/png", "200 OK", b"\x89PNG"),
        ("response", "http://a.example/none", "text/html", "404 Not Found", page("Not found").encode()),
        ("conversion", "http://b.example/", "text/plain", "", b"Extracted before."),
    ]
    (tmp_path / "x.warc.gz").write_bytes(archive(*records))
    (tmp_path / "y.warc").write_bytes(archive(records[2], compressed=False))
    found = documents("warc", tmp_path, metadata_fields={"url": "str", "date": "str"}, on_duplicate_id="suffix")
    assert [(document.id, document.title) for document in found] == [("2", "Café"), ("5", ""), ("0", "Café")]
    assert found[0].metadata == {"url": "http://a.example/", "date": "2026-01-02T03:04:05Z"}
    assert PARAGRAPHS[0] in found[0].text
    assert found[1].text == "Extracted before."


@pytest.mark.parametrize("compressed", [True, False])
def test_an_archive_that_is_cut_is_an_error(tmp_path, compressed):
    whole = archive(*[("response", "http://a/", "text/html", "200 OK", page().encode())] * 3, compressed=compressed)
    for cut in (len(whole) - 5, len(whole) - 200, len(whole) // 2):
        (tmp_path / "x.warc").write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"x\.warc"):
            documents("warc", tmp_path / "x.warc")


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    (tmp_path / "x.warc").write_text("no archive at all\n" * 10)
    with pytest.raises(SourceError, match=r"x\.warc cannot be read as WARC"):
        documents("warc", tmp_path)
