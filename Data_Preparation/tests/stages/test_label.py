"""The whole cascade: sample, judge, labels on disk; through kills and failing judges."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data_pipeline.weak_labels as package
from data_pipeline.cli import main
from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.execution import ExecutionConfig
from data_pipeline.config.labels import LabelConfig, PrefilterConfig, QueriesConfig
from data_pipeline.errors import ConfigError, JudgeError, SourceError, StoreError
from data_pipeline.judge import CallFailedError, Judgement, ScriptedJudge
from data_pipeline.judge.scripted import failing
from data_pipeline.retrieval.tokenizer import Bm25Tokenizer
from data_pipeline.stages.label import label
from data_pipeline.stages.label_inputs import read_gold, read_queries
from data_pipeline.stages.pipeline import run
from data_pipeline.weak_labels.prefilter import Prefilter
from data_pipeline.weak_labels.state import State

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')

pytestmark = pytest.mark.usefixtures("clean_logging")


def grade(query, passage):
    """Words in common, of those that are long."""
    common = {word for word in query.lower().split() if len(word) > 4} & set(passage.lower().split())
    return min(3, 2 * len(common))


@pytest.fixture
def settings(config):
    """Of a run over the bundled sample with the hashing embedder."""
    run(config)
    return {
        "work_dir": str(config.data_dir / "labels"),
        "passages": {"data_dir": str(config.data_dir)},
        "queries": {"source": "sample", "max_queries": 12},
    }


def made(settings, **more):
    return LabelConfig.model_validate(settings | more)


def files(config):
    folder = config.work_dir / config.run
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_qrels_and_triples_say_what_the_judge_said(settings):
    config = made(settings, gold="sample")
    report = label(config, judge=ScriptedJudge(grade))
    queries = read_queries(config.queries, config.work_dir)
    lines = [line.split("\t") for line in (report.folder / "qrels.tsv").read_text().splitlines()]
    assert len(lines) == report.pairs
    assert {line[0] for line in lines} <= set(queries)
    texts = texts_of(settings)
    assert all(int(found) == grade(queries[query_id], texts[passage_id]) for query_id, _, passage_id, found in lines)
    grades = {(query_id, passage_id): int(found) for query_id, _, passage_id, found in lines}
    for line in (report.folder / "triples.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert all(grades[record["query_id"], passage_id] >= 2 for passage_id in record["positive_doc_ids"])
        assert all(grades[record["query_id"], passage_id] == 0 for passage_id in record["hard_negative_doc_ids"])
        assert not set(record["positive_doc_ids"]) & set(record["hard_negative_doc_ids"])
    assert report.figures["agreement_with_gold"]["pairs"] > 10


def texts_of(settings):
    from data_pipeline import ELMDataset

    dataset = ELMDataset(settings["passages"]["data_dir"])
    return dict(zip(dataset.metadata["text_id"].to_list(), (row["text"] for row in dataset), strict=True))


def test_no_label_comes_from_a_failed_call_and_the_next_run_asks_again(settings):
    config = made(settings, judge={"tries": 1, "breaker_share": 1.0, "breaker_window": 10_000})
    asked = []

    def some_down(query, passage):
        asked.append(passage)
        return CallFailedError("down") if len(asked) % 3 else 3

    report = label(config, judge=ScriptedJudge(some_down))
    labels = report.figures["statuses"]["ok"]
    assert 0 < labels < report.pairs
    assert len((report.folder / "qrels.tsv").read_text().splitlines()) == labels
    assert report.figures["statuses"]["failed"] == report.pairs - labels
    again = label(config, judge=ScriptedJudge(grade))
    assert again.figures["statuses"]["ok"] == again.pairs == report.pairs


def test_a_judge_without_any_label_is_a_failed_run(settings, capsys):
    config = made(settings, judge={"tries": 1, "breaker_share": 1.0, "breaker_window": 10_000})
    good = label(config, judge=ScriptedJudge(grade))
    before = files(config)
    for script, message in (
        (failing("down"), rf"gave no label at all \({good.pairs:,} failed\).*For example: down\."),
        (lambda query, passage: Judgement("parse_failed", answer="Well", reason="not a label"),
         rf"{good.pairs:,} parse_failed\).*not a label, answer 'Well'.*run the same command again"),
    ):  # fmt: skip
        with pytest.raises(JudgeError, match=message):
            label(config, judge=ScriptedJudge(script, version="another judge"))
        assert files(config) == before  # outputs of the good run are not replaced by empty ones
    again = label(config, judge=ScriptedJudge(grade, version="another judge"))
    assert (again.figures["statuses"]["ok"], again.summary.calls) == (good.pairs, good.pairs)


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(settings):
    config = made(settings)
    label(config, judge=ScriptedJudge(grade))
    before = files(config)
    report = label(config, judge=ScriptedJudge(grade))
    assert report.summary.calls == 0
    assert files(config) == before


def test_a_budget_ends_a_run_and_the_next_goes_on(settings):
    first = label(made(settings, judge={"max_calls": 50}), judge=ScriptedJudge(grade))
    assert first.summary.stopped
    assert 0 < first.figures["statuses"]["ok"] <= 50
    second = label(made(settings), judge=ScriptedJudge(grade))
    assert second.figures["statuses"]["ok"] == second.pairs
    assert second.summary.known >= first.figures["statuses"]["ok"]
    undisturbed = made(settings, work_dir=settings["work_dir"] + "-undisturbed")
    label(undisturbed, judge=ScriptedJudge(grade))
    assert files(undisturbed) == files(made(settings))


def test_other_candidates_need_another_run(settings):
    label(made(settings), judge=ScriptedJudge(grade))
    with pytest.raises(StoreError, match="was made with other settings .*Give the new run another name"):
        label(made(settings, candidates={"k1": 1.5}), judge=ScriptedJudge(grade))
    report = label(made(settings, candidates={"k1": 1.5}, run="other"), judge=ScriptedJudge(grade))
    assert report.summary.known > 0  # answers are of texts, not of runs


KILLED = """
import sys, time
from data_pipeline.judge import CallFailedError, Judgement, ScriptedJudge
from data_pipeline.stages.label import label
from data_pipeline.config.labels import LabelConfig
sys.path.insert(0, {folder!r})
from test_label import grade
label(LabelConfig.model_validate_json(sys.argv[1]), judge=ScriptedJudge(grade, delay_s=0.05))
"""


def answers(config):
    """Judged pairs that are on disk."""
    try:
        with State(config.state_path, read_only=True) as state:
            return state.counts(config.run)["ok"]
    except StoreError:
        return 0


@pytest.mark.slow
@pytest.mark.posix
def test_killed_again_and_again_it_ends_in_the_same_bytes(settings):
    whole = made(settings, run="undisturbed")
    label(whole, judge=ScriptedJudge(grade))
    config = made(
        settings, work_dir=settings["work_dir"] + "-killed", run="undisturbed", judge={"slots": 4, "flush_s": 0.05}
    )
    code = KILLED.format(folder=os.path.dirname(__file__))
    rng, kills = random.Random(0), 0
    for judged in (0, 10, 40, 41, 100, 200):  # pairs on disk at which it is killed, give or take
        process = subprocess.Popen([sys.executable, "-c", code, config.model_dump_json()], stderr=subprocess.DEVNULL)
        while process.poll() is None and answers(config) < judged:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    label(config, judge=ScriptedJudge(grade))
    assert kills >= 2
    assert files(config) == files(whole)


def test_the_command_prints_what_became_of_it(settings, tmp_path, capsys):
    import yaml

    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(settings | {"gold": "sample", "judge": {"judge": "similarity"}}))
    assert main(["label", "--config", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "queries    12" in printed
    assert "kappa" in printed
    assert "qrels.tsv" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge": {"judge": "similarity"}}, "needs gold"),
        ({"negatives": {"margin_score": "rerank"}}, "expected a score of this run, one of bm25, dense, fused"),
        ({"queries": {}}, "queries: path is for the source file"),
        ({"passages": {"source": "file"}}, "passages: the source file needs path, found neither"),
        ({"nonsense": 1}, "nonsense: no such setting"),
        ({"candidates": {"k1": -1}}, "candidates.k1"),
    ],
)
def test_wrong_settings_are_named(settings, tmp_path, capsys, change, message):
    import yaml

    path = tmp_path / "labels.yaml"
    path.write_text(yaml.safe_dump(settings | change))
    assert main(["label", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_gold_and_queries_that_cannot_be_read_are_named(settings, tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("q1 0 a 3\nq1 0 b\n")
    with pytest.raises(SourceError, match="gold.txt, line 2: expected query id, iteration, passage id and grade"):
        read_gold(made(settings, gold=str(path)))
    path = tmp_path / "queries.jsonl"
    for lines, message in (
        (['{"query_id": "a", "query": ""}'], "line 1: .*must be a text that is not empty, found ''"),
        (['{"query_id": "a", "query": "x"}'] * 2, "line 2: the query id 'a' is there twice"),
        ([], "has no queries"),
    ):
        path.write_text("\n".join(lines))
        with pytest.raises(SourceError, match=message):
            read_queries(QueriesConfig(path=path), tmp_path)


def test_files_of_passages_need_an_embedder(settings, tmp_path):
    path = tmp_path / "passages.jsonl"
    path.write_text('{"doc_id": "a", "text": "one"}\n')
    with pytest.raises(ConfigError, match="need candidates.embedding, or candidates.fusion: bm25"):
        label(made(settings, passages={"source": "file", "path": str(path)}), judge=ScriptedJudge(grade))
    only_words = {"candidates": {"fusion": "bm25"}, "negatives": {"margin_score": "bm25"}}
    report = label(
        made(settings, passages={"source": "file", "path": str(path)}, **only_words), judge=ScriptedJudge(grade)
    )
    assert report.queries == 12


def test_parts_of_the_work_folder_may_lie_elsewhere_and_outputs_twice(settings, tmp_path):
    folders = {name: str(tmp_path / name) for name in ("records", "passages", "indexes", "state")}
    output = {"qrels_path": str(tmp_path / "out" / "my.tsv"), "triples_path": str(tmp_path / "out" / "my.jsonl")}
    config = made(settings, folders=folders, output=output)
    report = label(config, judge=ScriptedJudge(grade))
    assert sorted(path.name for path in config.work_dir.iterdir()) == [config.run]
    assert (tmp_path / "state" / "state.sqlite").exists()
    assert (tmp_path / "indexes" / "bm25").is_dir()
    for copy, name in ((tmp_path / "out" / "my.tsv", "qrels.tsv"), (tmp_path / "out" / "my.jsonl", "triples.jsonl")):
        assert copy.read_bytes() == (report.folder / name).read_bytes()
    plain = made(settings)
    label(plain, judge=ScriptedJudge(grade))
    assert files(plain) == files(config)


def test_how_a_run_is_computed_may_change_from_one_call_to_the_next(settings):
    first = label(made(settings), judge=ScriptedJudge(grade))
    other = {"candidates": {"query_rows": 3, "passage_rows": 100, "bm25_backend": "numpy"}, "rerank": {"device": "cpu"}}
    second = label(made(settings, **other), judge=ScriptedJudge(grade))
    assert (second.pairs, second.summary.calls) == (first.pairs, 0)


def test_systems_are_ranked_where_there_is_gold(settings, tmp_path):
    run_file = tmp_path / "poor.run"
    first = label(made(settings), judge=ScriptedJudge(grade))
    assert first.figures["systems"] is None
    worst = pq.read_table(first.folder / "judgements.parquet").to_pylist()[-1]
    run_file.write_text(f"{worst['query_id']} Q0 {worst['passage_id']} 1 1.0 poor\n")
    found = label(made(settings, gold="sample", runs=[str(run_file)]), judge=ScriptedJudge(grade)).figures["systems"]
    assert set(found["systems"]) == {"bm25", "dense", "fused", "poor.run"}
    assert found["systems"]["poor.run"]["gold"] < found["systems"]["fused"]["gold"]
    assert -1 <= found["kendall_tau"] <= 1


def test_half_of_the_bm25_list_can_be_left_out(settings):
    alone = {"fusion": "bm25", "bm25_k": 8, "top_k": 8}
    margin = {"negatives": {"margin_score": "bm25"}}
    whole = label(made(settings, candidates=alone, run="whole", **margin), judge=ScriptedJudge(grade))
    half = {**alone, "bm25_percentile": 0.5}
    found = label(made(settings, candidates=half, run="half", **margin), judge=ScriptedJudge(grade))
    assert found.pairs == whole.pairs / 2


def test_a_cross_encoder_puts_its_best_first_and_is_kept_with_the_pairs(settings, monkeypatch):
    class Longest:
        def __init__(self, config):
            self.config = config

        def scores(self, query, passages):
            import numpy as np

            return np.array([len(passage) for passage in passages], np.float32)

    monkeypatch.setattr("data_pipeline.stages.label.Reranker", Longest)
    config = made(settings, rerank={"model": "longest", "top_k": 10}, sampling={"per_document": 99})
    report = label(config, judge=ScriptedJudge(grade))
    rows = pq.read_table(report.folder / "judgements.parquet").to_pylist()
    first = [json.loads(row["scores"]).get("rerank") for row in rows if row["query_id"] == "q01"]
    assert first[:10] == sorted(first[:10], reverse=True)
    assert None not in first[:10]
    assert first[10:] == [None] * (len(first) - 10)


def test_every_knob_of_a_run_is_read():
    """The older config had ten that nothing read."""
    root = Path(package.__path__[0]).parent
    rooms = ("stages", "weak_labels", "retrieval", "judge", "config", "embeddings/sparse", "execution")
    paths = [path for room in rooms for path in (root / room).glob("*.py")]
    source = "".join(path.read_text() for path in [*paths, root / "cli" / "weak_labels.py"])

    def check(section):
        for name, field in section.model_fields.items():
            parts = (field.annotation, *getattr(field.annotation, "__args__", ()))
            inner = [part for part in parts if hasattr(part, "model_fields")]
            assert re.search(rf"\w\.{name}\b", source), f"{section.__name__}.{name}"
            for part in inner:
                if part not in (EmbeddingConfig, ExecutionConfig):  # their knobs have tests of their own
                    check(part)

    check(LabelConfig)


def test_a_shared_word_is_one_that_means_something():
    """The older rule compared raw words: `Einstein?` had nothing in common with `einstein`, and `the` was enough."""
    rule = Prefilter(PrefilterConfig(shared_word=True), "english", True)
    assert rule.reason("Who was Einstein?", "einstein, the physicist") is None
    assert rule.reason("the theory of relativity", "the history of the town") == "no_shared_word"
    assert Prefilter(PrefilterConfig(), "english", True).reason("a", "") is None


def test_a_prefilter_leaves_pairs_unjudged_and_says_what_it_cost(settings):
    plain = label(made(settings, gold="sample"), judge=ScriptedJudge(grade))
    lengths = sorted(len(Bm25Tokenizer().tokens(text)) for text in texts_of(settings).values())
    rules = {"min_words": lengths[len(lengths) // 4], "shared_word": True}
    config = made(settings, gold="sample", run="filtered", prefilter=rules)
    judge = ScriptedJudge(grade, version="another, so that it is asked")
    report = label(config, judge=judge)
    assert report.pairs == plain.pairs
    not_asked = report.figures["not_asked"]
    assert set(not_asked) == {"too_short", "no_shared_word"}
    left_out = sum(counts["pairs"] for counts in not_asked.values())
    assert 0 < left_out == report.figures["statuses"]["pending"]
    assert plain.figures["not_asked"] == {}
    lines = (report.folder / "qrels.tsv").read_text().splitlines()
    assert len(lines) == report.pairs - left_out
    rows = pq.read_table(report.folder / "judgements.parquet").to_pylist()
    unjudged = {(row["query_id"], row["passage_id"]) for row in rows if row["status"] == "unjudged"}
    assert len(unjudged) == left_out
    assert not unjudged & {tuple(line.split("\t")[:3:2]) for line in lines}
    assert len(judge.calls) == report.pairs - left_out


def test_passages_and_queries_of_a_data_set_that_datasets_can_load(settings, tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    records = [{"doc_id": name, "text": f"{name} is about {name * 3}"} for name in ("alpha", "beta", "gamma")]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    asked = tmp_path / "asked"
    asked.mkdir()
    (asked / "train.jsonl").write_text('{"query_id": "q", "query": "what is beta about"}\n')
    report = label(
        made(
            settings,
            passages={"source": "hub", "hub": {"name": str(folder)}},
            queries={"source": "hub", "hub": {"name": str(asked)}},
            candidates={"fusion": "bm25"}, negatives={"margin_score": "bm25"},
        ),
        judge=ScriptedJudge(lambda query, passage: 3 if "beta" in passage else 0),
    )  # fmt: skip
    assert (report.folder / "qrels.tsv").read_text().startswith("q\t0\tbeta\t3")
    with pytest.raises(SourceError, match="cannot load .* split nothing"):
        label(made(settings, passages={"source": "hub", "hub": {"name": str(folder), "split": "nothing"}}))
