"""Sections of Markdown documents."""

import polars as pl
import pytest

from data_pipeline.config import PreprocessConfig
from data_pipeline.preprocess import extract_paragraphs
from data_pipeline.types import Document

TEXT = """---
title: "not text"
---

Before  any heading.

# First
under it, *at once*



and more
## Inner ##
```python
# a comment, no heading
```

> # quoted, no heading

Underlined
==========
- one
- two

### Empty

# Last
end
"""


def paragraphs(text, unit, clean="auto"):
    config = PreprocessConfig(unit=unit, clean=clean, min_tokens=1)
    return extract_paragraphs([Document("a", text, format="markdown")], config, {})


def test_chunks_keep_to_the_part_below_a_heading_and_know_its_path():
    rows = paragraphs(TEXT, "chunk")
    assert list(zip(rows["section"], rows["text"], strict=True)) == [
        ("", "Before any heading."),
        ("First", "under it, *at once*\n\nand more"),
        ("First > Inner", "```python\n# a comment, no heading\n```\n\n> # quoted, no heading"),
        ("Underlined", "- one\n- two"),
        ("Last", "end"),
    ]


@pytest.mark.parametrize("clean", ["auto", "raw"])
def test_positions_are_those_in_the_document_that_the_unit_document_gives(clean):
    whole = paragraphs(TEXT, "document", clean)["text"].item()
    rows = paragraphs(TEXT, "chunk", clean)
    assert [whole[start : start + len(text)] for start, text in zip(rows["char_start"], rows["text"], strict=True)] == (
        rows["text"].to_list()
    )
    assert ("not text" in whole) == (clean == "raw")
    assert "# First" in whole


def test_sections_are_runs_of_lines_below_their_heading():
    rows = paragraphs(TEXT, "section")
    code = "```python # a comment, no heading ```"
    assert rows["text"].to_list()[:4] == ["Before any heading.", "under it, *at once*", "and more", code]
    assert rows["section"].to_list()[:4] == ["", "First", "First", "First > Inner"]


def test_documents_of_a_batch_do_not_share_headings():
    documents = [Document(name, text, format="markdown") for name, text in
                 (("a", "# A\n\none"), ("b", "two"), ("c", "# only"), ("d", ""), ("e", "---\nno end"))]  # fmt: skip
    rows = extract_paragraphs(documents, PreprocessConfig(unit="chunk", min_tokens=1), {})
    assert rows.select("document_id", "section", "text", "char_start").rows() == [
        ("a", "A", "one", 5), ("b", "", "two", 0), ("e", "", "---\nno end", 0),
    ]  # fmt: skip
    assert rows.schema["char_start"] == pl.Int64
