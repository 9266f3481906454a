"""The whole job on corpora that people have: Markdown documentation, web pages, a file at an address."""

import json
import random
from pathlib import Path

import polars as pl
import pytest
from support.object_store import file_server

from data_pipeline import ELMDataset
from data_pipeline.cli import main

CHECKOUT = Path(__file__).resolve().parents[3]


def run(folder, *arguments):
    """Run the job with the hashing embedder; returns all rows, and the drop ledger."""
    common = ["--preset", "offline", "--output-dir", str(folder), "--corpus.name", "mine", "--model-name", "hashing"]
    assert main(["run", *common, *map(str, arguments)]) == 0
    processed = folder / "mine_processed"
    return pl.read_parquet([processed / f"{split}.parquet" for split in ("train", "val", "test")]), pl.read_parquet(
        processed / "dropped.parquet"
    )


def test_the_documentation_of_this_package(tmp_path, clean_logging):
    rows, dropped = run(
        tmp_path, "--source", "text", "--corpus.path", CHECKOUT / "docs", "--preprocess.unit", "chunk",
        "--preprocess.chunk_tokens", 256, "--min-tokens", 20,
    )  # fmt: skip
    assert set(rows["document_id"]) >= {"own_corpus.md", "sources.md", "errors.md", "formats_on_disk.md"}
    assert rows["token_count"].max() <= 256
    sections = rows.filter(pl.col("document_id") == "errors.md")["section"].to_list()
    assert any(section.endswith("> Files you bring") for section in sections)
    assert not rows["text"].str.contains(r"(?m)^# ").filter(~rows["text"].str.contains("```")).any()
    assert set(dropped["reason"]) <= {
        "too_few_tokens",
        "exact_duplicate",
        "near_duplicate",
        "mostly_punctuation",
        "too_short",
    }
    dataset = ELMDataset(tmp_path, split="train")
    assert dataset[0]["text"]
    assert main(["verify", "--output-dir", str(tmp_path)]) == 0


_VOCABULARY = """harbour lamp river stone bridge winter market ferry garden orchard tower valley meadow chapel mill barn
lane keeper fisher baker mason carpenter teacher sailor farmer repaired painted visited measured built opened closed
crossed carried the a of in to by with near under behind before after old small bright quiet narrow heavy early"""
_WORDS = _VOCABULARY.split()


def write_pages(folder: Path) -> dict[str, list[str]]:
    """Write 50 web pages with navigation, tables, scripts and broken markup; returns the paragraphs of each."""
    random_ = random.Random(7)
    pages: dict[str, list[str]] = {}
    for number in range(50):
        paragraphs = [" ".join(random_.choices(_WORDS, k=random_.randint(30, 60))).capitalize() + "." for _ in range(4)]
        menu = "".join(f"<li><a href='/{word}'>Menu {word}</a></li>" for word in random_.choices(_WORDS, k=8))
        body = [f"<h1>Report {number}</h1>"]
        for position, paragraph in enumerate(paragraphs):
            closing = "" if (number + position) % 5 == 0 else "</p>"  # a paragraph that is never closed
            emphasis = paragraph.replace(" ", " <em>", 1).replace(" ", "</em> ", 2) if number % 7 == 0 else paragraph
            body.append(f"<p class='text'>{paragraph if number % 7 else emphasis}{closing}")
        if number % 3 == 0:
            body.append("<table><tr><th>Year<th>Boats</tr><tr><td>1901</td><td>12</td></tr></table>")
        if number % 4 == 0:
            body.insert(2, "<script>document.write('never shown <p>');</script><style>p { color: red }</style>")
        if number % 6 == 0:
            body.append("</div></section></i><b>")  # ends that were never opened
        page = (
            f"<!DOCTYPE html>\n<html><head><meta charset='utf-8'><title>Report {number}</title>"
            f"<script>var page = {number};</script></head><body><header><nav><ul>{menu}</ul></nav></header>"
            f"<main><article>{''.join(body)}</article></main><footer>All rights reserved, contact the office</footer>"
        )
        name = f"{'sub/' if number % 2 else ''}page-{number:02}.html"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page + ("</body></html>" if number % 8 else ""))
        pages[name] = paragraphs
    return pages


def test_fifty_web_pages(tmp_path, clean_logging):
    pytest.importorskip("trafilatura")
    pages = write_pages(tmp_path / "pages")
    rows, dropped = run(
        tmp_path / "data", "--source", "html", "--corpus.path", tmp_path / "pages", "--preprocess.unit", "document",
        "--min-tokens", 20, "--no-preprocess.near_dedup",
    )  # fmt: skip
    assert len(rows) == 50
    assert not len(dropped)
    texts = dict(zip(rows["document_id"], rows["text"], strict=True))
    for name, paragraphs in pages.items():
        text = " ".join(texts[name].split())
        assert all(paragraph in text for paragraph in paragraphs), name
        assert not any(word in text for word in ("Menu ", "never shown", "color: red", "<p", "var page"))
    assert set(rows["title"]) == {f"Report {number}" for number in range(50)}
    tables = [text for text in texts.values() if "1901" in text]
    assert len(tables) == 17


def test_a_file_at_an_address_with_its_tsv_of_queries_kept_out(tmp_path, clean_logging):
    sentence = "The keeper of the lighthouse wrote down every ship that passed the cape in the winter of that year."
    texts = [f"Report {number}. " + " ".join(random.Random(number).choices(_WORDS, k=40)) for number in range(30)]
    texts[3] += f" {sentence}"
    with file_server() as server:
        server.files["/reports.jsonl"] = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": sentence}) + "\n")
        rows, dropped = run(
            tmp_path / "data", "--source", "jsonl", "--corpus.path", f"{server.url}/reports.jsonl?token=secret",
            "--min-tokens", 5, "--decontaminate", tmp_path / "queries.jsonl", "--decontamination.remove_from", "all",
            "--preprocess.unit", "document",
        )  # fmt: skip
    assert len(rows) == 29
    assert dropped.select("reason", "duplicate_of").rows() == [("contaminated_ngram", "queries.jsonl:q1")]
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not any(b"secret" in path.read_bytes() for path in written)


def test_a_line_of_200_mb_is_left_out_and_named(tmp_path):
    """Its text is never in memory, and the records around it are read."""
    path = tmp_path / "long.jsonl"
    texts = ["Ships passed the lighthouse at night. " * 9, "The keeper counted the ships that passed. " * 9]
    with path.open("w") as file:
        file.write(json.dumps({"text": texts[0]}) + '\n{"text": "')
        for _ in range(200):
            file.write("word " * 200_000)
        file.write('"}\n' + json.dumps({"text": texts[1]}) + "\n")
    assert path.stat().st_size > 200_000_000
    rows, dropped = run(
        tmp_path, "--source", "jsonl", "--corpus.path", path, "--min-tokens", 5, "--corpus.max_bad_share", 0.5
    )
    assert sorted(rows["text"]) == sorted(text.strip() for text in texts)
    assert dropped.select("text_id", "stage", "reason").rows() == [("long.jsonl, line 2", "records", "line_too_long")]


def test_too_many_lines_of_200_mb_stop_the_run_with_advice(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_pipeline.user_files.text.MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": "word " * 300_000}))
    arguments = ["--output-dir", str(tmp_path), "--model-name", "hashing", "--corpus.path", str(path)]
    assert main(["run", "--preset", "offline", "--source", "jsonl", *arguments]) == 2
    said = capsys.readouterr().err
    assert "long.jsonl, line 1: longer than 1 MiB. Is each record on a line of its own?" in said
