import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.builders import ROWS, made, make
from support.growing import settings, write

from data_pipeline.config.load import load_config
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import NotFoundError
from data_pipeline.report.blocks import Facts, Fold, Map, Pairs, Texts
from data_pipeline.report.make import report_sections, write_report
from data_pipeline.report.opened import ROW, SPLIT, draw_sample, open_dataset, shares, texts_of_ids
from data_pipeline.stages.pipeline import append_documents, run
from data_pipeline.stages.versions import describe_versions


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"))


def blocks_of(sections, name):
    """Blocks of a section, those inside folds too."""
    section = next(section for section in sections if section.id == name)
    inner = [block for fold in section.blocks if isinstance(fold, Fold) for block in fold.blocks]
    return [*section.blocks, *inner]


def facts_of(sections, name):
    return {fact.name: fact for block in blocks_of(sections, name) if isinstance(block, Facts) for fact in block.facts}


def sections_of(config, rows=20_000):
    dataset = open_dataset(config)
    return report_sections(dataset, draw_sample(dataset, rows))


def test_facts_are_those_of_the_manifests(config):
    sections = sections_of(config)
    facts = facts_of(sections, "at-a-glance")
    manifest = json.loads((config.processed_dir / "manifest.json").read_bytes())
    tokens = sum(split["tokens"] for split in manifest["splits"].values())
    assert facts["Licence"].value == "CC0-1.0"
    assert facts["Tokens"].value.startswith(f"{tokens:,}, ")
    assert facts["Model"].value == "hashing"
    assert (facts["Leakage"].verdict, facts["Contamination"].verdict) == ("good", "check")
    assert facts["Fingerprint"].value == manifest["fingerprint"][:16]
    assert facts["Time of the last run"].value
    assert [section.id for section in sections] == ["at-a-glance", "funnel", "lengths", "leakage", "map", "vectors"]


def test_the_sample_has_the_texts_and_vectors_of_its_rows(config):
    dataset = open_dataset(config)
    assert dataset.count > ROWS > 100
    for rows in (100, 10**6):
        sample = draw_sample(dataset, rows)
        assert len(sample) == min(rows, dataset.count)
        for split in dataset.rows:
            stored = ELMDataset(split=split, config=config)
            own = sample.frame.with_row_index("at").filter(pl.col(SPLIT) == split)
            expected = stored.to_numpy()[own[ROW].to_numpy()]
            np.testing.assert_array_equal(sample.vectors[own["at"].to_numpy()], expected)
            assert own["text"].to_list() == [stored[row]["text"] for row in own[ROW].to_list()]


def test_deleted_rows_are_in_no_report(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write(files[0], [(f"d{number}", [number]) for number in range(9)])
    write(files[1], [("e", [9])])
    first = settings(tmp_path / "data", files)
    run(first)
    gone = {row["text_id"] for row in draw_sample(open_dataset(first)).frame.to_dicts() if row["document_id"] == "d0"}
    write(files[0], [(f"d{number}", [number]) for number in range(1, 9)])
    append_documents(settings(tmp_path / "data", files, **{"corpus.on_changed": "replace"}))
    sample = draw_sample(open_dataset(first))
    assert gone
    assert not gone & set(sample.ids)
    assert len(sample) == sum(len(ELMDataset(split=split, config=first)) for split in open_dataset(first).rows)
    for row, vector in zip(sample.frame.to_dicts(), sample.vectors, strict=True):
        stored = ELMDataset(split=row[SPLIT], config=first)[row[ROW]]
        assert (stored["text"], stored["embedding"].tolist()) == (row["text"], vector.tolist())
    sections = sections_of(first)
    assert len(describe_versions(first)) == 2
    assert sections[-1].id == "versions"


@pytest.mark.parametrize(
    ("counts", "rows", "expected"),
    [
        ([5, 3], 20, [5, 3]),
        ([10**6, 10, 10_000], 20_000, None),
        ([10**9, 10**8, 10**8], 20_000, None),
        ([900, 900], 100, [50, 50]),
    ],
)
def test_shares_of_splits(counts, rows, expected):
    found = shares(counts, rows)
    assert expected is None or found == expected
    assert sum(found) == min(rows, sum(counts))
    assert all(
        min(count, 500, rows // len(counts)) <= taken <= count for count, taken in zip(counts, found, strict=True)
    )


def test_texts_of_ids_are_found_in_their_split(config):
    dataset = open_dataset(config)
    sample = draw_sample(dataset)
    row = next(row for row in sample.frame.to_dicts() if row[SPLIT] == "val")
    assert texts_of_ids(dataset, "val", [row["text_id"], "nothing"]) == {row["text_id"]: row["text"]}
    assert texts_of_ids(dataset, "train", [row["text_id"]]) == {}


def test_drops_have_examples_to_read(config):
    blocks = blocks_of(sections_of(config), "funnel")
    texts = [text for block in blocks if isinstance(block, Texts) for text in block.texts]
    counts = json.loads((config.processed_dir / "manifest.json").read_bytes())["counts"]["dropped"]
    assert len(texts) == sum(min(10, count) for count in counts.values())
    assert all(text.text and text.title for text in texts)


def test_leaking_pairs_are_side_by_side(tmp_path):
    words = " ".join(f"word{number}" for number in range(60))
    for split, text in (("train", words), ("test", words + " more"), ("val", "quite another text " * 8)):
        line = json.dumps({"id": split, "text": text, "split": split})
        (tmp_path / f"{split}.jsonl").write_text(line + "\n")
    paths = [str(tmp_path / f"{split}.jsonl") for split in ("train", "test", "val")]
    values = {
        "data_dir": str(tmp_path / "data"), "corpus.source": "jsonl", "corpus.path": paths, "corpus.id_field": "id",
        "corpus.split_field": "split", "split.method": "official", "embedding.model_name": "hashing",
        "preprocess.min_tokens": 1, "preprocess.near_dedup": False,
    }  # fmt: skip
    config = load_config(None, values)
    run(config)
    sections = sections_of(config)
    pairs = [pair for block in blocks_of(sections, "leakage") if isinstance(block, Pairs) for pair in block.pairs]
    assert "word59 more" in "".join(part for part, _ in pairs[0].left)
    assert [part for part, differs in pairs[0].left if differs] == ["more"]
    assert facts_of(sections, "at-a-glance")["Leakage"].verdict == "bad"


def test_a_dataset_without_vectors_has_a_report_that_says_so(tmp_path):
    values = {"data_dir": str(tmp_path / "data"), "corpus.source": "sample", "corpus.name": "sample"}
    config = load_config(None, {**values, "embedding.model_name": "hashing"})
    run(config, skip_embeddings=True)
    sections = sections_of(config)
    assert facts_of(sections, "at-a-glance")["Vectors"].value == "none"
    assert not any(isinstance(block, Map) for block in blocks_of(sections, "map"))
    assert "elm embed" in write_report(config).path.read_text("utf-8")


def test_a_dataset_of_the_original_pipeline_has_a_report(tmp_path):
    data = make(tmp_path)
    for name in ("manifest.json", "dropped.parquet", "dropped_examples.parquet", ".documents.arrow"):
        (data / "sample_processed" / name).unlink(missing_ok=True)
    config = load_config(None, {"data_dir": str(data), "corpus.name": "sample"})
    sections = sections_of(config)
    assert facts_of(sections, "at-a-glance")["Source"].verdict == "check"
    assert "funnel" not in {section.id for section in sections}


def test_no_dataset_is_an_error(tmp_path):
    with pytest.raises(NotFoundError, match="No paragraphs"):
        write_report(load_config(None, {"data_dir": str(tmp_path)}))


def test_the_page_is_one_file_and_the_same_again(config, tmp_path):
    written = write_report(config, tmp_path / "deep" / "a.html")
    page = written.path.read_text("utf-8")
    assert written.bytes == written.path.stat().st_size == len(page.encode())
    assert not re.search(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=", page)
    assert write_report(config, tmp_path / "b.html").path.read_text("utf-8") == page
    assert sorted(path.name for path in Path(tmp_path).rglob("*.html")) == ["a.html", "b.html"]


def test_a_sample_is_said_to_be_one(config):
    sections = sections_of(config, rows=60)
    shown = next(block for block in blocks_of(sections, "map") if isinstance(block, Map))
    assert shown.values["count"] == 60
    assert "60 of " in shown.caption
    assert "drawn at random" in next(section for section in sections if section.id == "vectors").lead
