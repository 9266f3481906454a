"""Gold judgements of other collections: the scale of their grades, and what every measure makes of it."""

import json
import logging

import pytest

from data_pipeline.config.labels import LabelConfig
from data_pipeline.download.sample import sample_qrels
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.judge import ScriptedJudge
from data_pipeline.stages.label import label
from data_pipeline.weak_labels.gold import known_in, make_gold, match_gold, to_label

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')


@pytest.mark.parametrize(
    ("grades", "relevant"),
    [
        ([0, 1], 1), ([1], 1), ([0, 1, 2], 1), ([-2, -1, 0, 1, 2], 1), ([0, 1, 2, 3], 2), ([0, 3], 2),
        ([1, 2, 3, 4], 2), ([0], 1), ([-1], 1),
    ],
)  # fmt: skip
def test_the_scale_follows_from_the_highest_grade(grades, relevant):
    gold = make_gold("gold.tsv", {"q": {str(place): grade for place, grade in enumerate(grades)}}, None)
    assert gold.relevant == relevant
    assert gold.to_json()["chosen_by"] == f"the highest grade, {max(grades)}"
    assert gold.to_json()["grades"] == {str(grade): 1 for grade in grades}


@pytest.mark.parametrize(
    ("relevant", "labels"),
    [
        (1, {-2: 0, -1: 0, 0: 0, 1: 2, 2: 3, 3: 3, 4: 3}),
        (2, {-2: 0, -1: 0, 0: 0, 1: 1, 2: 2, 3: 3, 4: 3}),
        (3, {-2: 0, -1: 0, 0: 0, 1: 1, 2: 1, 3: 2, 4: 3}),
        (4, {-2: 0, -1: 0, 0: 0, 1: 1, 2: 1, 3: 1, 4: 3}),
        (5, {-2: 0, -1: 0, 0: 0, 1: 1, 2: 1, 3: 1, 4: 1}),
    ],
)
def test_grades_on_the_scale_of_the_labels(relevant, labels):
    assert {grade: to_label(grade, relevant, 4) for grade in labels} == labels


def test_the_scale_of_the_sample_is_that_of_the_labels():
    gold = make_gold("sample", sample_qrels(), None)
    assert gold.relevant == 2
    assert gold.labels == sample_qrels()
    assert to_label(1, 1, 1) == 3  # the only relevant grade is the best one, as YES is


def test_judgements_of_other_queries_and_passages_are_counted_and_encoded_ids_are_understood():
    grades = {"q 1": {"a": 1, "b": 0, "x": 1}, "q%202": {"a%20b": 2}, "q3": {"a": 1, "b": 2}}
    gold = match_gold(
        make_gold("gold.tsv", grades, None),
        known_in({"q 1": 0, "q 2": 0}), known_in({"a": 0, "b": 0, "a b": 0}),
    )  # fmt: skip
    assert gold.grades == {"q 1": {"a": 1, "b": 0}, "q 2": {"a b": 2}}
    assert (gold.judgements, gold.pairs, gold.other_queries, gold.other_passages) == (6, 3, 2, 1)
    assert gold.highest == 2
    twice = make_gold("gold.tsv", {"q": {"a b": 1, "a%20b": 1}}, None)
    with pytest.raises(SourceError, match="'q' and passage 'a b' occur twice, under two spellings"):
        match_gold(twice, known_in({"q": 0}), known_in({"a b": 0}))
    # `%20` that is part of an id is no space.
    plain = make_gold("gold.tsv", {"q": {"a%20b": 1}}, None)
    assert match_gold(plain, known_in({"q": 0}), known_in({"a%20b": 0})).grades == {"q": {"a%20b": 1}}


QUERIES = 8


@pytest.fixture
def folder(tmp_path):
    docs, queries = [], []
    for number in range(QUERIES):
        queries.append({"query_id": f"q{number}", "query": f"alpha{number} beta{number}"})
        docs.append({"doc_id": f"yes{number}", "text": f"alpha{number} beta{number} common words"})
        docs += [{"doc_id": f"no{number}-{i}", "text": f"alpha{number} common words {i}"} for i in range(2)]
    for name, records in (("c", docs), ("q", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def settings(folder, grades, **more):
    """A run whose gold has these three grades for a query's passages: the relevant one, and two others."""
    lines = [
        f"q{n} 0 {name} {grade}\n"
        for n in range(QUERIES)
        for name, grade in zip((f"yes{n}", f"no{n}-0", f"no{n}-1"), grades, strict=True)
    ]
    (folder / "gold.txt").write_text("".join(lines))
    values = {
        "work_dir": folder / "w",
        "passages": {"source": "file", "path": folder / "c.jsonl"},
        "queries": {"path": folder / "q.jsonl"},
        "gold": folder / "gold.txt",
        "candidates": {"fusion": "bm25", "bm25_backend": "numpy"},
        "negatives": {"margin_score": "bm25"},
    }
    return LabelConfig.model_validate(values | more)


def perfect(query, passage):
    return 3 if set(query.split()) <= set(passage.split()) else 0


SCALES = [
    ((1, 0, 0), None), ((2, 0, -1), None), ((3, 1, 0), None), ((3, 0, -2), None), ((1, -1, -2), None), ((4, 2, 1), 3),
    ((2, 1, 1), 2), ((3, 0, 0), 1),
]  # fmt: skip


@pytest.mark.parametrize(("grades", "relevant"), SCALES)
def test_a_perfect_judge_is_perfect_on_every_scale(folder, grades, relevant):
    report = label(settings(folder, grades, gold_relevant=relevant), judge=ScriptedJudge(perfect))
    found = report.figures
    assert found["agreement_with_gold"] == {"pairs": 24, "precision": 1.0, "recall": 1.0, "kappa": 1.0}
    assert found["systems"]["systems"]["bm25"]["gold"] == found["systems"]["systems"]["bm25"]["labels"] == 1.0
    relevant = relevant or (2 if grades[0] >= 3 else 1)
    assert found["gold"]["relevant_from"] == relevant
    assert f"grade {relevant} and more counts as relevant" in (report.folder / "README.md").read_text()


@pytest.mark.parametrize(("grades", "relevant"), SCALES)
def test_the_judge_similarity_is_calibrated_on_every_scale(folder, grades, relevant):
    config = settings(
        folder, grades, gold_relevant=relevant, judge={"judge": "similarity"},
        candidates={"fusion": "bm25", "bm25_backend": "numpy", "embedding": {"model_name": "hashing"}},
    )  # fmt: skip
    found = label(config).figures
    assert found["agreement_with_gold"] == {"pairs": 24, "precision": 1.0, "recall": 1.0, "kappa": 1.0}
    assert found["grades"]["3"] == QUERIES


def test_a_gold_pair_reaches_the_threshold_that_was_made_of_it(tmp_path):
    """Calibrated in single precision and judged in double, the pair on the threshold was missed."""
    words = [f"word{number}" for number in range(40)]
    for number in range(12):
        text = " ".join(words[number : number + 5 + number])
        (tmp_path / "c.jsonl").write_text(json.dumps({"doc_id": "p", "text": text}) + "\n")
        (tmp_path / "q.jsonl").write_text(json.dumps({"query_id": "q", "query": " ".join(text.split()[:3])}) + "\n")
        (tmp_path / "gold.txt").write_text("q 0 p 1\n")
        config = LabelConfig.model_validate(
            {
                "work_dir": tmp_path / str(number),
                "passages": {"source": "file", "path": tmp_path / "c.jsonl"},
                "queries": {"path": tmp_path / "q.jsonl"},
                "gold": tmp_path / "gold.txt",
                "candidates": {"fusion": "bm25", "bm25_backend": "numpy", "embedding": {"model_name": "hashing"}},
                "negatives": {"margin_score": "bm25"},
                "judge": {"judge": "similarity"},
            }
        )
        assert label(config).figures["grades"] == {"3": 1}


def test_the_cost_of_a_prefilter_is_measured_on_the_scale_of_gold(folder):
    rule = {"prefilter": {"min_words": 99}}
    for grades, relevant, cost in (
        ((1, 0, 0), None, 8),
        ((2, 1, -1), None, 16),
        ((2, 1, -1), 2, 8),
        ((3, 1, 0), None, 8),
    ):
        config = settings(folder, grades, gold_relevant=relevant, run=f"r{grades[0]}{cost}{relevant}", **rule)
        found = label(config, judge=ScriptedJudge(perfect)).figures
        assert found["not_asked"] == {"too_short": {"pairs": 24, "relevant_in_gold": cost}}


def test_gold_of_another_collection_is_an_error_for_calibration_and_a_warning_for_agreement(folder, caplog):
    config = settings(folder, (1, 0, 0))
    (folder / "gold.txt").write_text("x1 0 y1 1\nx1 0 y2 0\nq0 0 y3 1\n")
    with caplog.at_level(logging.WARNING):
        found = label(config, judge=ScriptedJudge(perfect)).figures
    assert "none of the judgements" in caplog.text
    assert "judges passage 'y1' for query 'x1'; this run has queries such as 'q0' and passages such as 'yes0'" in (
        caplog.text
    )
    assert found["accounts"]["gold"] == {
        "judgements": 3, "compared": 0, "of_other_queries": 2, "of_other_passages": 1, "without_label": 0,
    }  # fmt: skip
    assert found["agreement_with_gold"]["pairs"] == 0
    judged = {"judge": {"judge": "similarity"}, "run": "s"}
    embedded = {"candidates": {"fusion": "bm25", "embedding": {"model_name": "hashing"}}}
    with pytest.raises(ConfigError, match="none of the judgements in .* needs gold to be calibrated on"):
        label(LabelConfig.model_validate(config.model_dump() | judged | embedded))
    (folder / "gold.txt").write_text("q0 0 yes0 1\nq0 0 no0-0 -1\n")
    none = {"gold_relevant": 2}
    with pytest.raises(ConfigError, match=r"has a grade of 2 or more.*check gold_relevant"):
        label(LabelConfig.model_validate(config.model_dump() | judged | embedded | none))


def test_the_setting_needs_gold_and_is_at_least_one():
    base = {"queries": {"source": "sample"}}
    with pytest.raises(ValueError, match="gold_relevant needs gold"):
        LabelConfig.model_validate(base | {"gold_relevant": 1})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        LabelConfig.model_validate(base | {"gold": "sample", "gold_relevant": 0})


def test_files_that_are_not_there_are_named_by_their_setting(folder):
    for change, message in (
        ({"gold": folder / "no.txt"}, "gold: no such file or folder: .*no.txt"),
        ({"runs": [folder / "no.run"]}, "runs: no such file or folder: .*no.run"),
        ({"queries": {"path": folder / "no.jsonl"}}, "queries.path: no such file or folder: .*no.jsonl"),
        ({"passages": {"source": "file", "path": folder / "no"}}, "passages.path: no such file or folder: .*no"),
    ):
        with pytest.raises(SourceError, match=message) as caught:
            label(settings(folder, (1, 0, 0), **change), judge=ScriptedJudge(perfect))
        assert "--" not in str(caught.value)


def test_a_run_of_other_queries_is_refused_before_anything_is_judged(folder):
    (folder / "other.run").write_text("x Q0 yes0 1 1 other\n")
    judge = ScriptedJudge(perfect)
    with pytest.raises(SourceError, match=r"other.run has none of the queries of this run; it has 'x', .* has 'q0'"):
        label(settings(folder, (1, 0, 0), runs=[folder / "other.run"]), judge=judge)
    assert judge.calls == []
