"""Everything that came in is in an output, or in a count with its reason."""

import json

import pytest

from data_pipeline.cli import main
from data_pipeline.config.labels import LabelConfig, QueriesConfig
from data_pipeline.config.retrieval import PassagesConfig
from data_pipeline.errors import SourceError, StoreError
from data_pipeline.judge import CallFailedError, Judgement, ScriptedJudge
from data_pipeline.retrieval.passage_files import passages_of_file
from data_pipeline.stages.label import label
from data_pipeline.stages.label_inputs import read_queries
from data_pipeline.weak_labels.accounts import Account, describe

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')

pytestmark = pytest.mark.usefixtures("clean_logging")

QUERIES = {
    "q0": "rivers", "q1": "to be or not to be", "q2": "???", "q3": "\U0001f600", "q4": "lamp", "q5": "zebra",
    "q6": "river music", "q7": "winter",
}  # fmt: skip
PASSAGES = {
    "p0": "The river runs through the city", "p1": "stones and lamps", "p2": "music in winter", "p3": "", "p4": " \n",
}  # fmt: skip
GOLD = "q0 0 p0 1\nq0 0 p1 0\nq4 0 p1 1\nx 0 p0 1\nx 0 p1 1\nq6 0 z 1\nq7 0 p2 1\n"


@pytest.fixture
def settings(tmp_path):
    for name, fields, texts in (("c", ("doc_id", "text"), PASSAGES), ("q", ("query_id", "query"), QUERIES)):
        records = [dict(zip(fields, item, strict=True)) for item in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "gold.txt").write_text(GOLD)
    return {
        "work_dir": str(tmp_path / "w"),
        "passages": {"source": "file", "path": str(tmp_path / "c.jsonl")},
        "queries": {"path": str(tmp_path / "q.jsonl")},
        "gold": str(tmp_path / "gold.txt"),
        "candidates": {"fusion": "bm25", "bm25_backend": "numpy"},
        "negatives": {"margin_score": "bm25"},
        "output": {"beir": True},
        "judge": {"tries": 1, "breaker_window": 1000},
    }


def made(settings, script=lambda query, passage: 3, **more):
    return label(LabelConfig.model_validate(settings | more), judge=ScriptedJudge(script))


def lines(report, name):
    with (report.folder / name).open() as file:
        return [json.loads(line) for line in file]


def test_queries_without_candidates_are_in_every_count_and_in_beir(settings):
    report = made(settings)
    accounts = report.figures["accounts"]
    assert accounts["passages"] == {"read": 5, "indexed": 3, "empty": 2, "left_out": {}}
    assert accounts["queries"] == {
        "read": 8, "of_earlier_calls": 0, "beyond_max_queries": 0, "with_candidates": 4,
        "without_candidates": {"no_passage_matches": 1, "no_words_to_search": 3},
    }  # fmt: skip
    assert report.figures["queries_by_positives"] == {"0": 4, "1": 3, "2": 1}
    assert {record["_id"]: record["text"] for record in lines(report, "beir/queries.jsonl")} == QUERIES
    assert [record["query_id"] for record in lines(report, "triples.jsonl")] == ["q0", "q4", "q6", "q7"]
    assert accounts["gold"] == {
        "judgements": 7, "compared": 3, "of_other_queries": 2, "of_other_passages": 1, "without_label": 1,
    }  # fmt: skip


def test_pairs_are_judged_failed_prefiltered_or_unjudged(settings):
    answers = iter([3, CallFailedError("down"), Judgement("refused", reason="no"), 0, 3])
    report = made(settings, lambda query, passage: next(answers))
    assert report.figures["accounts"]["pairs"] == {
        "sampled": 5, "judged": 3, "failed": {"failed": 1, "refused": 1}, "prefiltered": {}, "unjudged": 0,
    }  # fmt: skip
    rule = {"run": "rule", "prefilter": {"min_words": 3}, "judge": {"max_calls": 1, "slots": 1}}
    report = made(settings, lambda query, passage: Judgement("ok", 3, answer="another judge"), **rule)
    pairs = report.figures["accounts"]["pairs"]
    assert pairs["prefiltered"]["too_short"] > 0
    assert pairs["sampled"] == pairs["judged"] + pairs["prefiltered"]["too_short"] + pairs["unjudged"]


def test_queries_beyond_max_queries_and_of_earlier_calls_are_counted(settings):
    few = settings["queries"] | {"max_queries": 3}
    report = made(settings, queries=few)
    assert report.queries == 3
    assert report.figures["accounts"]["queries"] == {
        "read": 8, "of_earlier_calls": 0, "beyond_max_queries": 5, "with_candidates": 1,
        "without_candidates": {"no_words_to_search": 2},
    }  # fmt: skip
    made(settings)
    again = made(settings, queries=few).figures
    assert again["accounts"]["queries"] == {
        "read": 8, "of_earlier_calls": 5, "beyond_max_queries": 5, "with_candidates": 4,
        "without_candidates": {"no_words_to_search": 2, "not_searched": 2},
    }  # fmt: skip
    assert sum(again["queries_by_positives"].values()) == 8


def test_queries_that_all_find_nothing_are_an_error_and_no_empty_output(settings, tmp_path):
    before = {path.name: path.read_bytes() for path in made(settings).folder.iterdir() if path.is_file()}
    (tmp_path / "none.jsonl").write_text('{"query_id": "a", "query": "???"}\n{"query_id": "b", "query": "zebra"}\n')
    message = r"none of the 2 queries has a candidate \(1 no words to search, 1 no passage matches\).*text_field"
    with pytest.raises(SourceError, match=message):
        made(settings, queries={"path": str(tmp_path / "none.jsonl")}, run="none", gold=None)
    assert not (tmp_path / "w" / "none").exists()
    folder = tmp_path / "w" / "weak_labels"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_run_that_stops_early_says_which_queries_were_not_searched(settings):
    report = made(settings, sampling={"strata": []}, run="none")
    account = report.figures["accounts"]["queries"]["without_candidates"]
    assert account == {"no_passage_matches": 1, "no_words_to_search": 3, "none_sampled": 4}
    assert report.figures["accounts"]["candidates"] == {"found": 5, "sampled": 0, "not_sampled": 5}


def test_rows_of_training_and_margins_are_accounted_for(settings):
    grades = {"The river runs through the city": 3, "music in winter": 0}
    report = made(settings, lambda query, passage: grades.get(passage, 3), output={"training_negatives": 1})
    accounts = report.figures["accounts"]
    assert accounts["training.parquet"] == {"positives": 3, "rows": 0, "query_has_too_few_negatives": 3}
    margin = {"negatives": {"margin_score": "bm25", "margin": 1.0}, "run": "margin"}
    report = made(settings, lambda query, passage: grades.get(passage, 3), output={"training_negatives": 1}, **margin)
    accounts = report.figures["accounts"]
    assert accounts["training.parquet"]["positives"] == 3
    assert sum(accounts["margins.parquet"].values()) == 2 * accounts["margins.parquet"]["positives_with_a_negative"]


def test_an_account_that_does_not_add_up_is_an_error_and_no_report(settings, monkeypatch):
    with pytest.raises(
        StoreError, match=r"account of queries does not add up: the inputs are 5 read, the outcomes 3 used \("
    ):
        Account("queries", {"read": 5}, {"used": {"a": 1, "b": 2}, "left out": 0})
    assert describe({"read": 0}) == "none"
    assert describe({"with_candidates": 1200, "without": {"no_words": 1, "no_match": 2}, "x": 0}) == (
        "1,200 with candidates, 3 without (1 no words, 2 no match)"
    )
    before = {path.name: path.read_bytes() for path in made(settings).folder.iterdir() if path.is_file()}
    monkeypatch.setattr("data_pipeline.weak_labels.state.State.counts", lambda self, run: {"ok": 1, "pending": 99})
    with pytest.raises(StoreError, match="account of pairs does not add up"):
        made(settings)
    folder = LabelConfig.model_validate(settings).work_dir / "weak_labels"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_command_prints_the_accounts(settings, tmp_path, capsys):
    import yaml

    path = tmp_path / "labels.yaml"
    settings |= {"judge": {"judge": "similarity"}}
    settings["candidates"] |= {"embedding": {"model_name": "hashing"}}
    path.write_text(yaml.safe_dump(settings))
    assert main(["label", "--config", str(path)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "passages   5 read: 3 indexed, 2 empty",
        "queries    8 used; 8 read: 4 with candidates, 4 without candidates (1 no passage matches, 3 no words to",
        "5 sampled: 5 judged",
        "relevant from grade 1 (the highest grade, 1)",
        "7 judgements: 3 compared, 2 of other queries, 1 of other passages, 1 without label",
    ):
        assert part in printed


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query_id": "b", "query": ""}, "line 2: the field 'query' of query 'b' must be a text that is not empty"),
        ({"query_id": "b", "query": " \n"}, "line 2: .*leave the query out, or give it a text"),
        ({"query_id": "b", "query": None}, "line 2: .*found None"),
        ({"query_id": "b"}, "line 2: a query needs the field 'query'; it has query_id"),
        ({"query_id": None, "query": "x"}, "line 2: the id 'query_id' must be a text or a whole number"),
        ({"query_id": True, "query": "x"}, "line 2: the id 'query_id' must be a text or a whole number"),
        ({"query_id": 1, "query": "x"}, "line 2: the query id '1' is there twice"),
    ],
)
def test_a_query_that_cannot_be_used_is_named_by_its_line(record, message, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"query_id": 1, "query": "one"}) + "\n" + json.dumps(record))
    with pytest.raises(SourceError, match=rf"q.jsonl, {message}"):
        read_queries(QueriesConfig(path=path), tmp_path)


def test_ids_of_queries_may_be_whole_numbers(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query_id": 7, "query": "one"}\n{"query_id": "8", "query": "half \\ud800"}\n')
    assert read_queries(QueriesConfig(path=path), tmp_path) == {"7": "one", "8": "half \ufffd"}


def test_a_missing_title_is_no_title_and_one_that_no_record_has_is_an_error(tmp_path):
    records = [
        {"doc_id": 1, "text": "x", "title": "T"},
        {"doc_id": 2, "text": "y", "title": None},
        {"doc_id": 3, "text": "z"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = PassagesConfig(title_field="title")
    assert passages_of_file(path, tmp_path / "w", config).texts() == ["T\nx", "y", "z"]
    path.write_text(json.dumps({"doc_id": 2, "text": "y", "title": None}))
    assert passages_of_file(path, tmp_path / "w", config).texts() == ["y"]
    with pytest.raises(SourceError, match=r"passages.title_field: none of the 1 records of .* has a field 'titel'"):
        passages_of_file(path, tmp_path / "w", PassagesConfig(title_field="titel"))
    path.write_text(json.dumps({"doc_id": 2, "text": "y", "title": 7}))
    with pytest.raises(SourceError, match="the field 'title' must be a text, found 7"):
        passages_of_file(path, tmp_path / "w", config)
