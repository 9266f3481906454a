"""Judgements and runs, in every form that collections come in."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.errors import SourceError
from data_pipeline.weak_labels.qrels import read_qrels, read_run

EXPECTED = {"q1": {"a": 1, "b": 0}, "2": {"7": -1}}

FORMS = {
    "TREC": "q1 0 a 1\nq1 0 b 0\n2 0 7 -1\n",
    "TREC, tabs": "q1\t0\ta\t1\nq1\t0\tb\t0\n2\t0\t7\t-1\n",
    "TREC, an iteration that is used": "q1 Q0 a 1\nq1 7 b 0\n2 x 7 -1\n",
    "TREC, decimals": "q1 0 a 1.0\nq1 0 b 0.\n2 0 7 -1.000\n",
    "TREC, columns aligned": "q1   0  a   1\n  q1 0  b   0  \n2    0  7  -1\n",
    "byte-order mark and Windows line ends": "\ufeffq1 0 a 1\r\nq1 0 b 0\r\n2 0 7 -1\r\n",
    "empty lines, and no line end at the end": "\n\nq1 0 a 1\n   \nq1 0 b 0\n\t\n2 0 7 -1",
    "a pair twice with one grade": "q1 0 a 1\nq1 0 b 0\n2 0 7 -1\nq1 0 a 1.0\n",
    "BEIR": "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t0\n2\t7\t-1\n",
    "BEIR, a byte-order mark": "\ufeffquery-id\tcorpus-id\tscore\r\nq1\ta\t1\r\nq1\tb\t0\r\n2\t7\t-1\r\n",
    "BEIR, spaces": "query-id corpus-id score\nq1 a 1\nq1 b 0\n2 7 -1\n",
    "three columns without a header": "q1\ta\t1\nq1\tb\t0\n2\t7\t-1\n",
    "a header of four columns": "query_id\titer\tdoc_id\trelevance\nq1\t0\ta\t1\nq1\t0\tb\t0\n2\t0\t7\t-1\n",
    "MTEB": '{"query-id": "q1", "corpus-id": "a", "score": 1}\n{"query-id": "q1", "corpus-id": "b", "score": 0.0}\n\n'
    '{"query-id": 2, "corpus-id": 7, "score": -1}\n',
    "other names of fields": '{"query_id": "q1", "doc_id": "a", "relevance": 1}\n'
    '{"qid": "q1", "pid": "b", "label": "0"}\n{"query_id": 2, "passage_id": 7, "grade": -1.0}\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_judgements_is_read(form, tmp_path):
    (tmp_path / "qrels").write_bytes(FORMS[form].encode())
    assert read_qrels(tmp_path / "qrels") == EXPECTED
    (tmp_path / "qrels.gz").write_bytes(gzip.compress(FORMS[form].encode()))
    assert read_qrels(tmp_path / "qrels.gz") == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 a 1\nq1 0 b\n", "line 2: expected query id, iteration, passage id and grade.*found 'q1 0 b'"),
        ("q1\ta\t1\nq1\t0\tb\t1\n", "line 2: expected query id, passage id and grade"),
        ("q1\n", "line 1: expected query id, iteration"),
        ("q1 0 a 0.5\n", "line 1: a grade is a whole number such as 0, 1 or 2, found '0.5'"),
        ("\nq1 0 a high\n", "line 2: a grade is a whole number"),
        ("q1 0 a nan\n", "a grade is a whole number"),
        ("q1 0 a 1e2\n", "a grade is a whole number"),
        ("q1 0 a 1_0\n", "a grade is a whole number"),
        ("q1 0 a \u0663\n", "a grade is a whole number"),
        ("q1 0 a 1\nx 0 y 1\nq1 0 a 2\n", r"line 3: query 'q1' and passage 'a' have the grade 2, but 1 in line 1"),
        ("q1 0 annual report, 1 3\n", "An id with white space is percent-encoded"),
        ("q1\t0\ta\x01\t1\n", "line 1: the id 'a.x01' has control characters"),
        ("", "it is empty"),
        ("\n \n", "it is empty"),
        ("query-id\tcorpus-id\tscore\n", "it is empty"),
        ('{"query-id": "q1", "score": 1}\n', "line 1: expected a field 'corpus-id' .*found query-id, score"),
        ('{"query-id": "q1", "corpus-id": "a", "score": true}\n', "a grade is a whole number"),
        ('{"query-id": "q1", "corpus-id": "a", "score": null}\n', "a grade is a whole number"),
        ('{"query-id": "q1", "corpus-id": "a", "score": 0.5}\n', "whole number such as 0, 1 or 2, found '0.5'"),
        ('{"query-id": null, "corpus-id": "a", "score": 1}\n', "the id 'query-id' must be a text or a whole number"),
        ('{"query-id": "q1", "corpus-id": "a", "score": 1}\nq1 0 a 1\n', "line 2: not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text, message, tmp_path):
    path = tmp_path / "my.tsv"
    path.write_text(text)
    with pytest.raises(SourceError, match=message) as caught:
        read_qrels(path)
    assert str(path) in str(caught.value)


def test_judgements_in_parquet_are_read(tmp_path):
    path = tmp_path / "test.parquet"
    rows = [{"query-id": "q1", "corpus-id": "a", "score": 1.0}, {"query-id": "q1", "corpus-id": "b", "score": 0.0}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_qrels(path) == {"q1": {"a": 1, "b": 0}}
    pq.write_table(pa.Table.from_pylist([rows[0] | {"score": 0.5}]), path)
    with pytest.raises(SourceError, match="row 1: a grade is a whole number"):
        read_qrels(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(SourceError, match="cannot be read as parquet after row 0"):
        read_qrels(path)


def test_a_file_that_cannot_be_read_is_no_empty_file(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        read_qrels(tmp_path / "none")
    (tmp_path / "latin").write_bytes("q1 0 caf\u00e9 1\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin, line 1: not UTF-8"):
        read_qrels(tmp_path / "latin")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"q1 0 a 1\n" * 1000)[:40])
    with pytest.raises(SourceError, match="cannot be read"):
        read_qrels(tmp_path / "cut.gz")


IDS = [
    "plain", "two words", " before and after ", "50%", "a%20b", '"quoted"', '"', "it's", "#1", "-1", "\u00fc\u00df",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u202eright to left\u202c", "\u0627\u0644\u0639",
    "no\u00a0break", "\u3000wide", "x" * 5000, "query-id",
]  # fmt: skip


def test_ids_with_spaces_and_quotes_between_tabs_are_read_as_beir_reads_them(tmp_path):
    path = tmp_path / "train.tsv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        writer.writerows([("query-id", "corpus-id", "score"), *((name, name, 1) for name in IDS)])
    assert read_qrels(path) == {name: {name: 1} for name in IDS}
    records = [json.dumps({"query-id": name, "corpus-id": name, "score": 1}) for name in IDS]
    path.write_text("\n".join(records))
    assert read_qrels(path) == {name: {name: 1} for name in IDS}


def test_runs_are_read_in_every_form_and_what_is_none_is_named(tmp_path):
    path = tmp_path / "mine.run"
    for text in (
        "q1 Q0 a 1 2.5 mine\n\nq1 Q0 b 2 -1 mine\n",
        "\ufeffq1\tQ0\ta\t1\t2.5\tmine\r\nq1\tQ0\tb\t2\t-1e0\tmine\r\n",
        "q1 Q0 a 1 2.5 mine\nq1 Q0 b 2 -1 mine\nq1 Q0 a 1 2.5 mine\n",
    ):
        path.write_bytes(text.encode())
        assert read_run(path) == {"q1": {"a": 2.5, "b": -1.0}}
    path.write_text("q 1\tQ0\tannual report\t1\t2\tmine\n")
    assert read_run(path) == {"q 1": {"annual report": 2.0}}
    for wrong in ("q1 Q0 a 1 mine", "q1 Q0 a 1 high mine", "q1 Q0 a 1 nan mine"):
        path.write_text(f"q1 Q0 b 2 1 mine\n{wrong}\n")
        with pytest.raises(SourceError, match="line 2: expected query id, Q0"):
            read_run(path)
    path.write_text("q1 Q0 b 1 2 mine\nq1 Q0 b 2 1 mine\n")
    with pytest.raises(SourceError, match=r"line 2: query 'q1' and passage 'b' have the score 1.0, but 2.0 in line 1"):
        read_run(path)
    path.write_text("")
    with pytest.raises(SourceError, match="is empty"):
        read_run(path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_run(tmp_path / "none.run")
