"""Every output of a run is written and read back with ids and texts that files find hard to hold."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from data_pipeline.config.labels import LabelConfig, QueriesConfig
from data_pipeline.errors import SourceError
from data_pipeline.judge import ScriptedJudge
from data_pipeline.retrieval.ids import from_trec, resolve, to_trec
from data_pipeline.retrieval.passages import passages_of_lists
from data_pipeline.stages.label import label
from data_pipeline.stages.label_inputs import read_queries
from data_pipeline.user_files import check_id, checked_id
from data_pipeline.weak_labels.qrels import read_qrels

ir_measures = pytest.importorskip("ir_measures", reason='needs the extra "weak-labels"')

IDS = [
    "plain", "annual report, 1", " before and after ", "100%", "100 %", "a%20c", '"quoted"', '"', "it's", "#1 first",
    "-1", "\u00fc\u00df", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u202eright to left\u202c",
    "\u0627\u0644\u0639 \u0631\u0628", "no\u00a0break", "\u3000wide", "x" * 3000, "a,b;c|d", "../up", "q\\n",
]  # fmt: skip
TEXTS = [
    "two\nlines\r\nof text", "tab\tand \"quotes\" and 'more'", "half \ud800 of a pair", "\u202eright\u202c to left",
    "\U0001f600 \U0001f468\u200d\U0001f469", "# a line that begins like a comment", "next\u2028line\u0085and\x0b\x0c",
    "nul \x00 inside", "x" * 20_000, '{"json": "inside"}', "<b>&amp;</b>", "100 % \u00bd",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over hostile ids and texts: config, report, texts of passages, texts of queries."""
    folder = tmp_path_factory.mktemp("hostile")
    texts = {name: f"word{place} river {TEXTS[place % len(TEXTS)]}" for place, name in enumerate(IDS)}
    queries = {name: f"word{place} {TEXTS[place % len(TEXTS)]}" for place, name in enumerate(IDS)}
    # With escapes, so that halves of surrogate pairs can be spelled.
    (folder / "c.jsonl").write_text("".join(json.dumps({"doc_id": n, "text": t}) + "\n" for n, t in texts.items()))
    (folder / "q.jsonl").write_text("".join(json.dumps({"query_id": n, "query": t}) + "\n" for n, t in queries.items()))
    config = LabelConfig.model_validate(
        {
            "work_dir": folder / "w",
            "passages": {"source": "file", "path": folder / "c.jsonl"},
            "queries": {"path": folder / "q.jsonl"},
            "candidates": {"fusion": "bm25", "bm25_backend": "numpy", "language": "none"},
            "negatives": {"margin_score": "bm25", "near_duplicate": 1.0, "margin": 1.0},
            "output": {"beir": True, "training_negatives": 1},
        }
    )

    def grade(query, passage):
        return 3 if query.split()[0] == passage.split()[0] else 0

    report = label(config, judge=ScriptedJudge(grade))
    clean = [{name: text.replace("\ud800", "\ufffd") for name, text in values.items()} for values in (texts, queries)]
    return config, report, *clean


def judged(report):
    rows = pq.read_table(report.folder / "judgements.parquet").to_pylist()
    return {(row["query_id"], row["passage_id"]): row["grade"] for row in rows}


def decoded(name):
    return resolve([name], lambda ids: [one for one in ids if one in IDS])[name]


def test_every_query_and_passage_was_used(made):
    _, report, _, _ = made
    grades = judged(report)
    assert {query_id for query_id, _ in grades} == set(IDS)
    assert all(grades[name, name] == 3 for name in IDS)
    assert report.figures["queries_by_positives"] == {"1": len(IDS)}


def test_qrels_are_read_by_our_reader_and_by_trecs(made):
    _, report, _, _ = made
    path, expected = report.folder / "qrels.tsv", judged(report)
    for found in (
        {(query, name): grade for query, grades in read_qrels(path).items() for name, grade in grades.items()},
        {(one.query_id, one.doc_id): one.relevance for one in ir_measures.read_trec_qrels(str(path))},
    ):
        assert {(decoded(query), decoded(name)): grade for (query, name), grade in found.items()} == expected
    # Only ids with white space are spelled another way.
    spelled = {line.split("\t")[0] for line in path.read_text().splitlines()}
    assert spelled == {to_trec(name) for name in IDS}
    assert {name for name in IDS if to_trec(name) == name} == {name for name in IDS if not any(map(str.isspace, name))}
    spaced = sum(any(map(str.isspace, name)) for name in IDS)
    assert report.figures["percent_encoded_ids"] == {"queries": spaced, "passages": spaced}
    assert f"{2 * spaced} ids have white space" in (report.folder / "README.md").read_text()


def test_qrels_of_a_run_are_gold_for_the_next_and_so_is_its_beir_folder(made):
    config, report, _, _ = made
    for path in (report.folder / "qrels.tsv", report.folder / "beir" / "qrels" / "train.tsv"):
        again = config.model_copy(update={"gold": path})
        found = label(again, judge=ScriptedJudge(lambda query, passage: 3 if query.split()[0] in passage else 0))
        account = found.figures["accounts"]["gold"]
        assert (account["judgements"], account["compared"]) == (len(judged(report)),) * 2


def test_a_run_of_a_system_may_have_encoded_ids_or_tabs(made):
    config, report, _, _ = made
    for number, spell in enumerate((to_trec, str)):
        path = report.folder.parent / f"{number}.run"
        names = [name for name in IDS if spell is to_trec or name == name.strip()]  # tabs are stripped of spaces
        path.write_text("".join(f"{spell(name)}\tQ0\t{spell(name)}\t1\t1.0\tmine\n" for name in names))
        again = config.model_copy(update={"gold": report.folder / "qrels.tsv", "runs": (path,)})
        found = label(again, judge=ScriptedJudge(lambda query, passage: 3 if query.split()[0] in passage else 0))
        assert found.figures["systems"]["systems"][path.name]["gold"] == pytest.approx(len(names) / len(IDS), abs=1e-4)


def test_triples_are_read_back(made):
    _, report, _, queries = made
    with (report.folder / "triples.jsonl").open() as file:
        records = [json.loads(line) for line in file]
    assert {record["query_id"]: record["query"] for record in records} == queries
    assert all(record["positive_doc_ids"] == [record["query_id"]] for record in records)
    assert {name for record in records for name in record["hard_negative_doc_ids"]} <= set(IDS)


def test_training_rows_and_margins_are_read_back(made):
    _, report, texts, queries = made
    training = pq.read_table(report.folder / "training.parquet").to_pylist()
    assert {(row["anchor"], row["positive"]) for row in training} <= {(queries[name], texts[name]) for name in IDS}
    assert {row["negative_1"] for row in training} <= set(texts.values())
    assert len(training) > 5
    margins = pq.read_table(report.folder / "margins.parquet").to_pylist()
    assert {row["query"] for row in margins} <= set(queries.values())
    assert report.figures["accounts"]["margins.parquet"]["rows"] == len(margins) > 5
    assert report.figures["accounts"]["training.parquet"]["rows"] == len(training)


def test_a_beir_folder_is_read_as_beir_reads_it(made):
    _, report, texts, queries = made
    for name, expected in (("corpus", texts), ("queries", queries)):
        with (report.folder / "beir" / f"{name}.jsonl").open(encoding="utf8") as file:
            assert {record["_id"]: record["text"] for record in map(json.loads, file)} == expected
    with (report.folder / "beir" / "qrels" / "train.tsv").open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL)
        next(reader)
        assert {(row[0], row[1]): int(row[2]) for row in reader} == judged(report)


@pytest.mark.parametrize("bad", ["a\tb", "a\nb", "a\rb", "\x00", "a\x85b", "a\u2028b", "\ufeffa", "a\ud800", "a\x1f"])
def test_control_characters_are_refused_wherever_ids_come_from(bad, tmp_path):
    message = r"control characters \(U\+[0-9A-F]{4} at position \d\).*Replace them"
    with pytest.raises(SourceError, match=message):
        check_id(bad, "here")
    (tmp_path / "q.jsonl").write_text(json.dumps({"query_id": bad, "query": "x"}) + "\n")
    with pytest.raises(SourceError, match=rf"q.jsonl, line 1: .*{message}"):
        read_queries(QueriesConfig(path=tmp_path / "q.jsonl"), tmp_path)
    (tmp_path / "gold.jsonl").write_text(json.dumps({"query-id": "q", "corpus-id": bad, "score": 1}) + "\n")
    with pytest.raises(SourceError, match=rf"gold.jsonl, line 1: .*{message}"):
        read_qrels(tmp_path / "gold.jsonl")
    if bad != "a\ud800":  # no Arrow column can hold it
        with pytest.raises(SourceError, match=rf"row 1: .*{message}"):
            passages_of_lists(["good", bad], ["x", "y"])


def test_ids_that_would_be_written_the_same_way_are_refused(tmp_path):
    with pytest.raises(SourceError, match="passage ids 'a b' and 'a%20b' would be written the same way"):
        passages_of_lists(["a%20b", "a b"], ["x", "y"])
    records = [{"query_id": name, "query": "x"} for name in ("a b", "a%20b")]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(SourceError, match="q.jsonl: the query ids 'a b' and 'a%20b' would be written the same way"):
        read_queries(QueriesConfig(path=tmp_path / "q.jsonl"), tmp_path)
    assert len(passages_of_lists(["a%20b", "a%2520b", "a%b", "%20"], ["x"] * 4)) == 4


def test_encoding_can_be_undone_and_touches_no_other_id():
    for name in IDS:
        assert decoded(to_trec(name)) == name
        assert not any(map(str.isspace, to_trec(name)))
    assert to_trec("100 %") == "100%20%25"
    assert [from_trec(name) for name in ("100%25", "a%2", "%ff%20", "a%20b%zz", "plain", "a%2Fb%20c")] == [None] * 6


def test_ids_are_texts_or_whole_numbers():
    assert (checked_id(7, "id", "here"), checked_id("7", "id", "here"), checked_id(10**30, "id", "here")) == (
        "7", "7", "1" + "0" * 30,
    )  # fmt: skip
    for bad in (None, True, 1.0, "", " ", "\u00a0", ["a"], {}):
        with pytest.raises(SourceError, match="here: the id 'id' must be a text or a whole number"):
            checked_id(bad, "id", "here")
