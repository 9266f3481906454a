"""The table's arithmetic by hand, and its files."""

import json
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from data_pipeline.errors import StoreError
from data_pipeline.selection.description import near_rows
from data_pipeline.study.scores import classification_scores
from data_pipeline.study.table import find_runs, markdown, mean_and_error, study_table, write_table


def run(method, seed, accuracy, budget="p10", fraction=0.1, **more):
    return {
        "model": "m", "study": {"a": 1}, "budget": budget, "method": method, "seed": seed, "accuracy": accuracy,
        "fingerprint": f"{method}{budget}{seed}", "f1": accuracy, "loss": 0.5, "fraction": fraction,
        "subset_rows": 10, "train_s": 1.0, "description": {"mean_tokens": 5.0, "mmd2": None}, **more,
    }  # fmt: skip


RUNS = [
    *(run("random", seed, accuracy) for seed, accuracy in enumerate([0.70, 0.72, 0.74])),
    *(run("kcenter", seed, accuracy) for seed, accuracy in enumerate([0.80, 0.82])),
    run("kcenter", 0, 0.9, "p20", 0.2),
    run("all rows", 0, 0.95, "p100", 1.0),
]


def test_mean_and_error():
    # deviations -2, 0, 2: variance 8 / 2 = 4, deviation 2, error 2 / sqrt(3)
    assert mean_and_error([1.0, 3.0, 5.0]) == (3.0, pytest.approx(2 / math.sqrt(3)))
    assert mean_and_error([1.0]) == (1.0, None)


def test_rows_by_hand():
    random, kcenter, larger, whole = study_table(RUNS)
    assert (random.method, random.runs, random.seeds) == ("random", 3, (0, 1, 2))
    assert random.accuracy == pytest.approx(0.72)
    assert random.accuracy_se == pytest.approx(0.02 / math.sqrt(3))
    assert random.band == pytest.approx((0.72 - 1.96 * 0.02 / math.sqrt(3), 0.72 + 1.96 * 0.02 / math.sqrt(3)))
    assert (random.accuracy_min, random.accuracy_max, random.minus_random) == (0.70, 0.74, None)
    assert kcenter.minus_random == pytest.approx(0.09)
    # errors of the means: 0.0141421 / sqrt(2) = 0.01, and 0.011547
    assert kcenter.minus_random_se == pytest.approx(math.sqrt(0.01**2 + 0.02**2 / 3))
    assert (larger.minus_random, larger.accuracy_se, larger.band) == (None, None, None)
    assert (whole.method, whole.fraction) == ("all rows", 1.0)
    assert kcenter.about == {"mean_tokens": 5.0}


def test_other_settings_are_not_mixed():
    other = run("random", 0, 0.1) | {"study": {"a": 2}}
    assert len([row for row in study_table([*RUNS, other]) if row.method == "random"]) == 2


def test_one_seed_once():
    again = run("random", 0, 0.70)
    assert study_table([*RUNS, again])[0].runs == 3
    with pytest.raises(StoreError, match="two runs of random at p10 have the seed 0"):
        study_table([*RUNS, again | {"fingerprint": "other"}])


def test_files(tmp_path):
    rows = study_table(RUNS)
    write_table(rows, tmp_path)
    assert "| 10 % | 10 | kcenter | 2 | 81.0 ± 1.0 | +9.0 ± 1.5 |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["accuracy"] == pytest.approx(0.72)
    assert (tmp_path / "table.csv").read_text().count("\n") == len(rows) + 1
    assert markdown(rows) + "\n" == (tmp_path / "table.md").read_text()


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need the extra study")
    from data_pipeline.study.figure import write_figure

    paths = write_figure(study_table(RUNS), tmp_path)
    before = [path.read_bytes() for path in paths]
    assert before[0].startswith(b"\x89PNG")
    assert ElementTree.fromstring(before[1]).tag.endswith("svg")  # noqa: S314 - our own file
    write_figure(study_table(RUNS), tmp_path)
    assert [path.read_bytes() for path in paths] == before


def test_nothing_measured(tmp_path):
    with pytest.raises(StoreError, match="elm study eval"):
        find_runs(tmp_path)


def test_scores_by_hand():
    truth = np.array([0, 0, 1, 1, 1])
    ones = np.array([0.2, 0.6, 0.9, 0.7, 0.4], np.float32)
    scores = classification_scores(truth, np.stack([1 - ones, ones], axis=1))
    # found: 0 1 1 1 0
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision"] == scores["recall"] == scores["f1"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(-np.log([0.8, 0.4, 0.9, 0.7, 0.4]).mean(), rel=1e-6)


def test_scores_of_three_classes_are_means_over_classes():
    truth = np.array([0, 1, 2, 2])
    found = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    scores = classification_scores(truth, found)
    assert scores["precision"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert scores["recall"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert math.isfinite(scores["loss"])


def test_near_rows():
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [1, 1]], np.float32)
    assert near_rows(vectors, np.array([[3, 0]], np.float32)).tolist() == [True, True, False, False]
