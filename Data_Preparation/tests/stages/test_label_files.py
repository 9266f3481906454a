import json

import pyarrow.parquet as pq
import pytest

from data_pipeline.config.labels import NegativesConfig
from data_pipeline.judge.base import Judgement
from data_pipeline.weak_labels import export
from data_pipeline.weak_labels.negatives import mine
from data_pipeline.weak_labels.state import JudgedPair, SampledCandidate


def pair(query_id, passage_id, grade=None, status="ok", dense=0.5):
    judgement = None if status is None else Judgement(status, grade, reason="" if status == "ok" else "no answer")
    return JudgedPair(
        query_id,
        f"text of {query_id}",
        SampledCandidate(query_id, passage_id, {"dense": dense}, {"dense": 1}),
        judgement,
    )


PAIRS = [
    pair("q1", "a", 3, dense=0.9), pair("q1", "b", 0), pair("q1", "c", status="failed"), pair("q1", "d", 0),
    pair("q2", "a", 0), pair("q2", "e", status=None), pair("q3", "f", 2, dense=0.8), pair("q3", "g", 1),
]  # fmt: skip


def text_of(passage_id):
    return f"passage {passage_id}: " + passage_id * 20


def mined(negatives=10):
    config = NegativesConfig(per_query=negatives)
    return [mine(group, config, text_of, lambda _: []) for group in export.by_query(PAIRS)]


def write_mined(folder, negatives=2, text_of=text_of):
    with export.MinedFiles(folder, text_of, negatives, "dense") as files:
        for query in mined():
            files.add(query)


def test_qrels_have_judged_pairs_only(tmp_path):
    assert export.write_qrels(tmp_path / "qrels.tsv", PAIRS, with_zeros=False) == 3
    assert (tmp_path / "qrels.tsv").read_text() == "q1\t0\ta\t3\nq3\t0\tf\t2\nq3\t0\tg\t1\n"
    assert export.write_qrels(tmp_path / "qrels.tsv", PAIRS, with_zeros=True) == 6
    lines = (tmp_path / "qrels.tsv").read_text().splitlines()
    assert "q1\t0\tb\t0" in lines
    assert not [line for line in lines if "\tc\t" in line or "\te\t" in line]


def test_triples_have_the_documented_keys_and_one_line_a_query_with_positives(tmp_path):
    write_mined(tmp_path)
    first, second = [json.loads(line) for line in (tmp_path / "triples.jsonl").read_text().splitlines()]
    assert first["query_id"], first["query"] == ("q1", "text of q1")
    assert (first["positive_doc_ids"], first["positive_scores"]) == (["a"], [3])
    assert first["hard_negative_doc_ids"] == ["b", "d"]
    assert first["missing_negatives"] == 8
    assert [negative["kind"] for negative in first["hard_negatives"]] == ["dense", "dense"]
    assert (second["query_id"], second["hard_negative_doc_ids"]) == ("q3", [])


def test_rows_for_sentence_transformers_load_as_they_are(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_mined(tmp_path)
    rows = datasets.Dataset.from_parquet(str(tmp_path / "training.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["anchor", "positive", "negative_1", "negative_2"]
    assert len(rows) == 1
    assert rows[0] == {
        "anchor": "text of q1", "positive": text_of("a"), "negative_1": text_of("b"), "negative_2": text_of("d"),
    }  # fmt: skip


def test_margins_are_differences_of_scores(tmp_path):
    write_mined(tmp_path)
    assert pq.read_table(tmp_path / "margins.parquet")["label"].to_pylist() == pytest.approx([0.4, 0.4])


def test_every_pair_is_in_the_table_with_its_status(tmp_path):
    assert export.write_judgements(tmp_path / "judgements.parquet", PAIRS) == 8
    table = pq.read_table(tmp_path / "judgements.parquet").to_pylist()
    assert [row["status"] for row in table] == ["ok", "ok", "failed", "ok", "ok", "unjudged", "ok", "ok"]
    assert [row["grade"] for row in table] == [3, 0, None, 0, 0, None, 2, 1]


def test_a_beir_folder(tmp_path):
    asked = [(name, f"text of {name}") for name in ("q1", "q2", "q3", "q4")]
    export.write_beir(tmp_path, PAIRS, [("a", "one"), ("b", "zwei ü")], asked, with_zeros=False)
    corpus = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert corpus == [{"_id": "a", "title": "", "text": "one"}, {"_id": "b", "title": "", "text": "zwei ü"}]
    queries = [json.loads(line)["_id"] for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert queries == ["q1", "q2", "q3", "q4"]  # also the one that nothing was found for
    assert (tmp_path / "qrels/train.tsv").read_text().splitlines() == [
        "query-id\tcorpus-id\tscore", "q1\ta\t3", "q3\tf\t2", "q3\tg\t1",
    ]  # fmt: skip


def test_a_file_that_could_not_be_written_whole_is_not_there(tmp_path):
    def broken():
        yield PAIRS[0]
        raise RuntimeError("out of paper")

    for write in (lambda path: export.write_qrels(path, broken(), with_zeros=True),
                  lambda path: export.write_judgements(path, broken())):  # fmt: skip
        with pytest.raises(RuntimeError, match="out of paper"):
            write(tmp_path / "file")
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        write_mined(tmp_path, text_of={}.__getitem__)
    assert list(tmp_path.iterdir()) == []


def test_long_tables_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", 3)
    assert export.write_judgements(tmp_path / "judgements.parquet", PAIRS) == 8
    table = pq.read_table(tmp_path / "judgements.parquet")
    assert table["passage_id"].to_pylist() == [one.candidate.passage_id for one in PAIRS]


def test_the_same_pairs_give_the_same_bytes(tmp_path):
    for number in range(2):
        folder = tmp_path / str(number)
        export.write_qrels(folder / "qrels.tsv", PAIRS, with_zeros=True)
        write_mined(folder)
        export.write_judgements(folder / "judgements.parquet", PAIRS)
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()
