import json

import polars as pl
import pytest
from stages.test_preprocess_stage import all_rows, documents_of
from support.paragraphs import corpus_of, write

from data_pipeline.config import Config, CorpusConfig, FiltersConfig
from data_pipeline.config.load import load_config
from data_pipeline.download import open_corpus
from data_pipeline.embeddings import load_tokenizer
from data_pipeline.errors import ConfigError
from data_pipeline.preprocess.row_filters import filters_identity
from data_pipeline.stages.pipeline import run
from data_pipeline.stages.preprocess import CorpusParagraphs
from data_pipeline.store.dropped import read_dropped_examples
from data_pipeline.types import Document

ENGLISH = "The council met on Tuesday evening to discuss the new bridge over the river."
GERMAN = "Der Zug nach Hamburg fährt heute leider eine halbe Stunde später ab."
PROSE = (
    "The river rises in the hills and flows to the sea. It passes four towns that have old bridges. In spring the "
    "water is high, and boats go up to the mill. Few people live there now. Most of them work with wood. "
)


def prepare(documents, folder, metadata=None, preprocess=None, **filters):
    corpus, folder = corpus_of(documents, metadata), folder / "x_processed"
    manifest = write(corpus, folder, preprocess=preprocess or {}, filters=filters)
    return manifest, all_rows(folder).sort("text_id"), pl.read_parquet(folder / "dropped.parquet").sort("text_id")


def test_presets_drop_documents_before_they_are_cut(tmp_path):
    documents = documents_of("Too short.", f"Menu\n{PROSE}\n{PROSE.upper()}", f"A line.\n{PROSE}{{")
    manifest, rows, dropped = prepare(documents, tmp_path, presets=["c4"])
    assert rows["text"].to_list() == [f"{PROSE.strip()} {PROSE.strip().upper()}"]
    assert dropped.select("text_id", "document_id", "stage", "reason").rows() == [
        ("d0", "d0", "quality", "c4_too_few_sentences"),
        ("d2", "d2", "quality", "c4_too_few_sentences"),
    ]
    assert manifest["counts"]["documents"] == manifest["counts"]["paragraphs"] == 3


def test_languages_become_columns_and_drop_rows(tmp_path):
    _, rows, dropped = prepare(documents_of(ENGLISH, GERMAN), tmp_path, languages=["de"])
    assert rows.columns[-2:] == ["language", "language_score"]
    assert rows["language"].to_list() == ["de"]
    assert rows["language_score"].dtype == pl.Float64
    assert dropped["reason"].to_list() == ["other_language"]
    _, rows, _ = prepare(documents_of(ENGLISH, GERMAN), tmp_path, language=True)
    assert rows["language"].to_list() == ["en", "de"]


@pytest.mark.parametrize("unit", ["section", "document", "chunk"])
def test_masked_texts_keep_their_positions(tmp_path, unit):
    text = "\n\n".join(f"Ask a{n}@example.org for part {n} of it." for n in range(8))
    preprocess = {"unit": unit, "chunk_tokens": 16}
    manifest, rows, _ = prepare(documents_of(text), tmp_path, preprocess=preprocess, pii="mask")
    assert manifest["counts"]["personal_data"] == {"email": 8}
    assert not rows["text"].str.contains("@").any()
    if unit == "chunk":
        whole = prepare(documents_of(text), tmp_path, preprocess={"unit": "document"}, pii="mask")[1]["text"][0]
        for row in rows.iter_rows(named=True):
            assert row["text"] == whole[row["char_start"] : row["char_end"]]


def test_personal_data_drops_rows_and_is_written_nowhere(tmp_path, caplog):
    documents = documents_of("Ask a.b@example.org about this.", "A clean text is here.")
    manifest, rows, dropped = prepare(documents, tmp_path, pii="drop", pii_kinds=["email"])
    assert rows["text_id"].to_list() == ["d1#s0"]
    assert dropped["reason"].to_list() == ["has_pii"]
    assert manifest["counts"]["personal_data"] == {"email": 1}
    files = [path for path in (tmp_path / "x_processed").rglob("*") if path.is_file()]
    assert len(files) > 7
    assert all(b"a.b@example" not in path.read_bytes() for path in files)
    assert "a.b@example" not in caplog.text
    examples = read_dropped_examples(tmp_path / "x_processed")
    assert examples["text"].to_pylist() == ["Ask <email> about this."]


@pytest.mark.parametrize("pii", ["mask", "drop"])
def test_personal_data_is_in_no_example_of_rows_dropped_for_another_reason(tmp_path, pii):
    documents = documents_of("Write to c.d@example.org.\n\nA clean text that is long enough to be kept here.")
    _, _, dropped = prepare(documents, tmp_path, preprocess={"unit": "line", "min_tokens": 9}, pii=pii)
    assert dropped["reason"].to_list() == ["too_few_tokens"]
    examples = read_dropped_examples(tmp_path / "x_processed")
    assert examples["text"].to_pylist() == ["Write to <email>."]


def test_own_filters_see_the_columns_of_a_row(tmp_path, monkeypatch):
    (tmp_path / "own_stage_filters.py").write_text(
        "def is_late(row):\n    return 'late' if row['year'] == 2001 and 'document_number' not in row else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    years = [1990, 2001, None, 2005]
    documents = [Document(id=f"d{n}", text="two words", metadata={"year": year}) for n, year in enumerate(years)]
    _, rows, dropped = prepare(
        documents,
        tmp_path,
        {"year": "int"},
        functions=["own_stage_filters:is_late"],
        keep_where={"old": "year > 2000 AND token_count = 2"},
    )
    assert rows["document_id"].to_list() == ["d3"]
    assert dropped["reason"].to_list() == ["old", "late", "old"]
    assert set(dropped["stage"]) == {"own filters"}


def test_a_bad_condition_stops_before_the_corpus_is_read(config):
    filters = FiltersConfig(keep_where={"old": "yaer > 2000"})
    with pytest.raises(ConfigError, match="names the column yaer"):
        run(config.model_copy(update={"filters": filters}), skip_embeddings=True)
    assert not config.processed_dir.exists()


def test_the_defaults_leave_fingerprints_as_they_were(config, tmp_path, monkeypatch):
    def settings(**filters):
        changed = config.model_copy(update={"filters": FiltersConfig(**filters)})
        return CorpusParagraphs(changed, open_corpus(config.corpus), load_tokenizer(config.embedding)).output.settings

    assert "filters" not in settings()
    assert settings(languages=["en"])["filters"] == {"languages": ["en"]}
    source = tmp_path / "own_fingerprint.py"
    source.write_text("def f(row):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = settings(functions=["own_fingerprint:f"])
    source.write_text("def f(row):\n    return 'changed'\n")
    assert first != settings(functions=["own_fingerprint:f"])
    json.dumps(first)
    assert filters_identity(FiltersConfig()) == {}


def test_settings_that_cannot_work():
    for settings, message in (
        ({"filters.functions": ["no_colon"]}, "must be module:function"),
        ({"filters.keep_where": {"a b": "TRUE"}}, "letters, digits and underscores"),
        ({"filters.languages": ["English"]}, "should match pattern"),
        ({"filters.presets": ["gopher"]}, "gopher_quality"),
        ({"corpus.metadata_fields": {"language": "str"}, "filters.language": True}, "which filters.language writes"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(flags=settings)
    assert Config(corpus=CorpusConfig(metadata_fields={"language": "str"})).filters == FiltersConfig()
