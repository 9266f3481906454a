"""Units of whole documents and chunks, and paragraphs that are too long, through the whole job."""

import json

import polars as pl
import pytest
from support.paragraphs import corpus_of, write
from support.shared_data import SHARED
from tokenizers import Tokenizer

from data_pipeline.config import CorpusConfig, PreprocessConfig
from data_pipeline.download import Corpus, open_corpus
from data_pipeline.errors import SourceError
from data_pipeline.store import ParagraphStore
from data_pipeline.types import SPLITS, Document


def sentences(document, count):
    return "\n\n".join(
        " ".join(f"Word{document} number{paragraph} says{sentence} so." for sentence in range(5))
        for paragraph in range(count)
    )


LONG = [Document(f"d{number}", "  " + sentences(number, 20 + number), title=f"T{number}") for number in range(5)]


def prepare(documents, folder, **settings):
    corpus, folder = documents if isinstance(documents, Corpus) else corpus_of(documents), folder / "x_processed"
    manifest = write(corpus, folder, preprocess=settings)
    store = ParagraphStore(folder)
    rows = pl.concat([store.read(split).with_columns(split=pl.lit(split)) for split in SPLITS])
    return manifest, rows, pl.read_parquet(folder / "dropped.parquet")


def test_the_unit_document_keeps_paragraphs_apart(tmp_path):
    text = "  One  line.\nAnother.\n\n \n\nA second paragraph.\u00a0End.\n"
    _, rows, _ = prepare([Document("a", text), Document("b", "B"), Document("c", " \n")], tmp_path, unit="document")
    assert dict(rows.select("text_id", "text").iter_rows()) == {
        "a#d0": "One line.\nAnother.\n\nA second paragraph. End.",
        "b#d0": "B",
    }
    _, rows, dropped = prepare([Document("a", text), Document("c", " \n")], tmp_path, unit="document", clean="raw")
    assert rows["text"].to_list() == [text]
    assert dropped["reason"].to_list() == ["empty_document"]


@pytest.mark.parametrize("overlap", [0, 16])
@pytest.mark.parametrize("clean", ["raw", "auto"])
def test_chunks_are_spans_of_their_document(tmp_path, clean, overlap):
    settings = {"unit": "chunk", "chunk_tokens": 60, "chunk_overlap": overlap, "clean": clean}
    manifest, rows, _ = prepare(LONG, tmp_path, **settings)
    if clean == "raw":
        documents = {document.id: document.text for document in LONG}
    else:
        _, whole, _ = prepare(LONG, tmp_path / "whole", unit="document", max_tokens=10**6)
        documents = dict(whole.select("document_id", "text").iter_rows())
    assert manifest["counts"]["kept"] == len(rows) > 30
    for row in rows.iter_rows(named=True):
        assert documents[row["document_id"]][row["char_start"] : row["char_end"]] == row["text"]
        assert row["char_count"] == len(row["text"])
        assert row["token_count"] == len(row["text"].split()) <= 60
        assert row["text_id"] == f"{row['document_id']}#c{row['chunk_index']}"
        assert row["text"].endswith("so.")
    assert rows.group_by("document_id").agg(pl.col("split").n_unique())["split"].unique().to_list() == [1]
    for chunks in rows.sort("document_id", "chunk_index").partition_by("document_id"):
        assert chunks["chunk_index"].to_list() == list(range(len(chunks)))
        gaps = chunks["char_start"][1:] - chunks["char_end"][:-1]
        assert (gaps < 0).all() if overlap else (gaps > 0).all()


def test_long_paragraphs_are_dropped_truncated_or_cut(tmp_path):
    documents = [Document("a", "Short one.\n\n" + "\n".join(["Many words are in here."] * 30) + "\n\nThe end.")]
    manifest, rows, dropped = prepare(documents, tmp_path, max_tokens=40)
    assert rows["text"].to_list() == ["Short one.", "The end."]
    assert dropped.select("text_id", "reason").rows() == [("a#s1", "too_many_tokens")]
    assert "chunk_index" not in rows.columns
    assert manifest["counts"]["too_long_token_share"] == round(150 / 154, 4)

    manifest, rows, dropped = prepare(documents, tmp_path, max_tokens=40, too_long="truncate")
    assert rows["text_id"].to_list() == ["a#s0", "a#s1", "a#s2"]
    assert rows["text"][1] == " ".join(["Many words are in here."] * 8)
    assert rows["token_count"].to_list() == [2, 40, 2]
    assert "chunk_index" not in rows.columns
    assert "too_long_token_share" not in manifest["counts"]

    manifest, rows, dropped = prepare(documents, tmp_path, max_tokens=40, too_long="chunk", exact_dedup=False)
    assert rows["text_id"].to_list() == ["a#s0", "a#s1.0", "a#s1.1", "a#s1.2", "a#s1.3", "a#s2"]
    assert rows["token_count"].to_list() == [2, 40, 40, 40, 30, 2]
    assert rows["chunk_index"].to_list() == [0, 0, 1, 2, 3, 0]
    assert not len(dropped)
    assert manifest["counts"]["paragraphs"] == 6
    cleaned = "\n\n".join(["Short one.", " ".join(["Many words are in here."] * 30), "The end."])
    for row in rows.iter_rows(named=True):
        assert cleaned[row["char_start"] : row["char_end"]] == row["text"]


def test_a_corpus_of_long_documents_says_what_to_set(tmp_path):
    with pytest.raises(SourceError) as caught:
        prepare(LONG, tmp_path, max_tokens=19)
    assert "none of the paragraphs of a test passed the filters (5 documents; dropped: too_many_tokens 110)" in str(
        caught.value
    )
    assert "100% of the tokens are in paragraphs of more than 19 tokens" in str(caught.value)
    assert "preprocess.unit: chunk" in str(caught.value)


def test_settings_of_chunks_that_cannot_work_are_refused():
    for wrong, message in [
        ({"unit": "chunk", "chunk_tokens": 50}, r"chunk_tokens \(50\) must be from min_tokens \(100\) to max_tokens"),
        ({"unit": "chunk", "chunk_tokens": 3000}, r"chunk_tokens \(3000\) must be from"),
        ({"unit": "chunk", "chunk_overlap": 300}, r"chunk_overlap \(300\) is more than half of a chunk \(512 tokens\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            PreprocessConfig(**wrong)


def test_settings_that_were_added_are_no_part_of_old_fingerprints():
    names = {"chunk_tokens", "chunk_overlap", "too_long"}
    assert not names & PreprocessConfig().deciding().keys()
    assert PreprocessConfig(too_long="chunk", chunk_overlap=8).deciding().items() >= {
        "too_long": "chunk", "chunk_overlap": 8,
    }.items()  # fmt: skip


@pytest.mark.slow
def test_wikitext_2_by_chunks_of_256_tokens(tmp_path):
    for folder in ("wikitext-2", "qwen3-tokenizer"):
        if not (SHARED / folder).is_dir():
            pytest.skip(f"real data is not at {SHARED / folder} (set ELM_SHARED_DATA)")
    path = next(path for path in (SHARED / "wikitext-2").rglob("*") if "valid" in path.name and path.is_file())
    corpus = open_corpus(CorpusConfig(source="wikitext", path=path))
    tokenizer = Tokenizer.from_file(str(SHARED / "qwen3-tokenizer" / "tokenizer.json"))
    chunks = {"unit": "chunk", "chunk_tokens": 256, "chunk_overlap": 32, "exact_dedup": False}
    chunked, whole = tmp_path / "x_processed", tmp_path / "whole_processed"
    write(corpus, chunked, tokenizer, 10**6, preprocess=chunks | {"min_chars": PreprocessConfig().min_chars})
    shares = dict.fromkeys(("max_punctuation_share", "max_digit_share", "max_unknown_share"), 1)
    sections = {"unit": "section", "max_tokens": 10**6, "exact_dedup": False, **shares}
    write(corpus, whole, tokenizer, 10**6, preprocess=sections)
    cleaned: dict[str, list[tuple[int, str]]] = {}
    for split in SPLITS:
        for text_id, text in ParagraphStore(whole).read(split).select("text_id", "text").iter_rows():
            document, _, number = text_id.rpartition("#s")
            cleaned.setdefault(document, []).append((int(number), text))
    documents = {
        document: "\n\n".join(text for _, text in sorted(parts))
        for document, parts in cleaned.items()
        if [number for number, _ in sorted(parts)] == list(range(len(parts)))  # no section was left out
    }
    checked = 0
    for split in SPLITS:
        for row in ParagraphStore(chunked).read(split).iter_rows(named=True):
            assert row["token_count"] <= 256
            if row["document_id"] in documents:
                text = documents[row["document_id"]]
                assert text[row["char_start"] : row["char_end"]] == row["text"]
                assert row["section"] or row["chunk_index"] >= 0
                checked += 1
    assert checked > 500
    assert len(documents) > 0.9 * len(cleaned)


@pytest.mark.usefixtures("clean_logging")
def test_the_summary_of_a_run_names_the_knob(tmp_path, capsys):
    from data_pipeline.cli import main

    source = tmp_path / "long.jsonl"
    texts = ["A long sentence of several words. " * 600, "A short text. " * 40]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = ["--preset", "offline", "--embedding.model_name", "hashing", "--skip-embeddings", "--source", "jsonl"]
    config += ["--corpus.path", str(source), "--output-dir", str(tmp_path / "data")]
    config += ["--preprocess.exact_dedup", "false"]
    assert main(["run", *config]) == 0
    assert "too long" in (printed := capsys.readouterr().out)
    assert "preprocess.unit: chunk" in printed
    assert main(["run", *config, "--preprocess.unit", "chunk", "--overwrite"]) == 0
    assert "too long" not in capsys.readouterr().out
