"""Heads that are trained: what they learn, what they are chosen on, and what they say of themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data_pipeline.config.training import TrainingConfig
from data_pipeline.errors import ConfigError, SourceError, WrongEmbedderError
from data_pipeline.heads import (
    EmbedderIdentity,
    Labelled,
    Scorer,
    evaluate_head,
    load_head,
    probabilities,
    save_head,
    train_head,
)
from data_pipeline.heads.task import held_out_rows

IDENTITY = EmbedderIdentity({"model": "made", "dim": "16"})
QUICK = {"hidden": [32], "epochs": 20, "learning_rate": 3e-3, "dropout": 0.0}


def data_of(labels, vectors, documents=None):
    names = np.arange(len(vectors)).astype(str) if documents is None else np.array(documents, str)
    return Labelled(vectors.astype(np.float32), np.asarray(labels), names, IDENTITY.settings, "made data")


def planes(rows=600, width=16, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    return vectors, vectors @ rng.normal(size=width)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """So that trainings give the same bits in every run."""


def test_a_regression_learns_a_plane_in_the_labels_own_unit():
    vectors, height = planes()
    trained = train_head(data_of(100 + 20 * height, vectors), TrainingConfig(**QUICK), IDENTITY)
    assert trained.head.kind == "regression"
    assert trained.head.labels == ("score",)
    found = evaluate_head(trained.head, data_of(100 + 20 * height, vectors), rounds=0).measures
    assert found["spearman"].value > 0.98
    assert found["mae"].value < 20


def test_several_targets_with_missing_labels_are_each_learnt_from_the_rows_that_have_them():
    vectors, height = planes()
    labels = np.stack([height, -3 * height], axis=1)
    labels[::2, 0] = np.nan
    labels[1::2, 1] = np.nan
    trained = train_head(data_of(labels, vectors), TrainingConfig(**QUICK), IDENTITY)
    outputs = Scorer({"h": trained.head}).outputs(vectors)[0]
    assert np.corrcoef(outputs[:, 0], height)[0, 1] > 0.95
    assert np.corrcoef(outputs[:, 1], -height)[0, 1] > 0.95
    found = evaluate_head(trained.head, data_of(labels, vectors), rounds=20).measures
    assert found["target_0.spearman"].value > 0.9
    assert found["target_1.spearman"].low > 0.9


def test_two_strings_make_a_binary_head_and_more_a_multiclass_head():
    vectors, height = planes()
    two = train_head(data_of(np.where(height > 0, "yes", "no"), vectors), TrainingConfig(**QUICK), IDENTITY).head
    assert (two.kind, two.labels) == ("binary", ("no", "yes"))
    names = np.array(["low", "middle", "high"])[np.digitize(height, [-1, 1])]
    three = train_head(data_of(names, vectors), TrainingConfig(**QUICK), IDENTITY).head
    assert (three.kind, three.labels) == ("multiclass", ("high", "low", "middle"))
    for head, labels in ((two, np.where(height > 0, "yes", "no")), (three, names)):
        assert evaluate_head(head, data_of(labels, vectors), rounds=0).measures["accuracy"].value > 0.9


def test_ordinal_grades_are_learnt_in_order_and_scored_by_their_mean():
    vectors, height = planes()
    grades = np.digitize(height, [-3, 0, 3]).astype(float)
    trained = train_head(data_of(grades, vectors), TrainingConfig(kind="ordinal", **QUICK), IDENTITY)
    head = trained.head
    assert head.labels == ("0", "1", "2", "3")
    assert (np.diff(head.cutpoints) > 0).all()
    scores = Scorer({"h": head}).score(vectors)
    assert ((scores["h"] >= 0) & (scores["h"] <= 3)).all()
    assert (np.array(scores["h_label"], float) == grades).mean() > 0.8
    assert evaluate_head(head, data_of(grades, vectors), rounds=0).measures["spearman"].value > 0.9


def test_the_ordinal_loss_is_that_of_its_probabilities():
    vectors, height = planes(60)
    grades = np.digitize(height, [-3, 0, 3]).astype(float)
    config = TrainingConfig(kind="ordinal", epochs=3, hidden=[0], dropout=0)
    trained = train_head(data_of(grades, vectors), config, IDENTITY)
    outputs = Scorer({"h": trained.head}).outputs(trained.validation.vectors)[0]
    chances = probabilities(replace(trained.head, temperature=1.0), outputs)
    truth = trained.validation.labels.astype(int)
    by_hand = -np.log(chances[np.arange(len(truth)), truth]).mean()
    assert by_hand == pytest.approx(trained.curve[-1]["validation_loss"], rel=1e-3)


def test_class_weights_lift_the_rare_class():
    vectors, height = planes(2000)
    rng = np.random.default_rng(1)
    # Near the plane both labels occur, so that a head has to choose whom it does wrong.
    labels = np.where(height + 3 * rng.normal(size=2000) > 7, "rare", "usual")
    assert 0.01 < (labels == "rare").mean() < 0.2
    recalls = {}
    for weights in ("none", "balanced"):
        config = TrainingConfig(class_weights=weights, hidden=[0], epochs=20, learning_rate=3e-3)
        head = train_head(data_of(labels, vectors), config, IDENTITY).head
        found = probabilities(head, Scorer({"h": head}).outputs(vectors)[0]).argmax(axis=1)
        recalls[weights] = (found[labels == "rare"] == head.labels.index("rare")).mean()
    assert recalls["balanced"] > recalls["none"] + 0.2


def test_probabilities_are_calibrated_on_rows_that_were_not_trained_on():
    vectors, height = planes(1500)
    rng = np.random.default_rng(2)
    labels = np.where(height / 2 + rng.logistic(size=1500) > 0, "b", "a")
    config = TrainingConfig(hidden=[256], epochs=30, patience=30, learning_rate=3e-3, dropout=0)
    trained = train_head(data_of(labels, vectors), config, IDENTITY)
    truth = trained.validation.labels == "b"

    def loss(temperature):
        head = replace(trained.head, temperature=temperature)
        chance = probabilities(head, Scorer({"h": head}).outputs(trained.validation.vectors)[0])[:, 1].astype(float)
        return -np.log(np.where(truth, chance, 1 - chance)).mean()

    best = min(np.geomspace(0.3, 20, 300), key=loss)
    assert trained.head.temperature == pytest.approx(best, rel=0.03)


def test_documents_are_never_divided():
    documents = np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, 50)).astype(str)
    held = held_out_rows(documents, 0.2, 3)
    assert not set(documents[held]) & set(documents[~held])
    assert 0.2 <= held.mean() < 0.2 + 8 / len(documents)
    assert (held == held_out_rows(documents, 0.2, 3)).all()
    assert (held != held_out_rows(documents, 0.2, 4)).any()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_at_least_one_document_is_on_each_side(share):
    held = held_out_rows(np.array(["a", "b"]), share, 0)
    assert held.sum() == 1


def test_the_best_epoch_is_kept_and_training_ends_when_it_does_not_get_better():
    vectors, _ = planes(300)
    noise = np.random.default_rng(5).normal(size=300)
    config = TrainingConfig(hidden=[64], epochs=60, patience=3, learning_rate=1e-2, dropout=0)
    trained = train_head(data_of(noise, vectors), config, IDENTITY)
    losses = [point["validation_loss"] for point in trained.curve]
    assert len(losses) == int(np.argmin(losses)) + 1 + 3
    held = trained.validation
    outputs = Scorer({"h": trained.head}).outputs(held.vectors)[0][:, 0]
    spread = np.std(data_of(noise, vectors).labels[~held_out_rows(np.arange(300).astype(str), 0.1, 0)])
    assert np.square(outputs - held.labels).mean() / spread**2 == pytest.approx(min(losses), rel=1e-3)


def test_the_same_data_and_config_give_the_same_head_and_leave_torchs_own_numbers_alone(tmp_path):
    vectors, height = planes(200)
    state = torch.random.get_rng_state()
    heads = [train_head(data_of(height, vectors), TrainingConfig(epochs=3), IDENTITY).head for _ in range(2)]
    assert (torch.random.get_rng_state() == state).all()
    for number, head in enumerate(heads):
        save_head(head, tmp_path / str(number))
    assert (tmp_path / "0/head.safetensors").read_bytes() == (tmp_path / "1/head.safetensors").read_bytes()
    assert (tmp_path / "0/head.json").read_bytes() == (tmp_path / "1/head.json").read_bytes()


def test_of_several_seeds_the_best_on_validation_is_kept():
    vectors, height = planes(200)
    config = TrainingConfig(epochs=2, seeds=[3, 4, 5], hidden=[8])
    trained = train_head(data_of(height, vectors), config, IDENTITY)
    assert set(trained.losses) == {3, 4, 5}
    assert len(set(trained.losses.values())) == 3
    assert trained.losses[trained.head.about["seed"]] == min(trained.losses.values())


def test_a_head_says_how_it_was_trained(tmp_path):
    vectors, height = planes(200)
    trained = train_head(data_of(height, vectors), TrainingConfig(epochs=2), IDENTITY)
    save_head(trained.head, tmp_path / "head")
    about = json.loads((tmp_path / "head/head.json").read_text())["about"]
    assert about["rows"] == 200
    assert about["config"]["hidden"] == [1000]
    assert [point["epoch"] for point in about["curve"]] == [1, 2]
    assert load_head(tmp_path / "head").embedder.settings == IDENTITY.settings


def test_standardising_and_folding_survive_dimensions_that_never_change():
    vectors, height = planes(200)
    vectors[:, 3] = 7.0
    vectors[:, 4] *= 1e4
    head = train_head(data_of(height, vectors), TrainingConfig(**QUICK), IDENTITY).head
    outputs = Scorer({"h": head}).outputs(vectors)[0][:, 0]
    assert np.corrcoef(outputs, height)[0, 1] > 0.9


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        (np.array(["a"] * 50), {"kind": "multiclass"}, "all rows have the label a"),
        (np.array(["a", "b", "c"] * 20), {"kind": "binary"}, "needs two labels, found 3: a, b, c"),
        (np.array(["a", "b"] * 20), {"kind": "regression"}, "needs numbers, found"),
        (np.zeros((40, 2)), {"kind": "ordinal"}, "one label per row, found 2"),
    ],
)
def test_labels_that_do_not_go_with_the_kind_are_refused(labels, config, message):
    vectors = np.random.default_rng(0).normal(size=(len(labels), 4))
    with pytest.raises(ConfigError, match=message):
        train_head(data_of(labels, vectors), TrainingConfig(**config), IDENTITY)


def test_one_document_cannot_be_divided():
    vectors, height = planes(20)
    with pytest.raises(SourceError, match="two documents or more"):
        train_head(data_of(height, vectors, ["same"] * 20), TrainingConfig(), IDENTITY)


def test_a_label_whose_only_document_is_held_out_is_an_error():
    vectors, _ = planes(20)
    documents = ["a"] * 10 + ["b"] * 10
    labels = np.array(["x"] * 10 + ["y"] * 10)
    with pytest.raises(SourceError, match="no row is left to train on with the label"):
        train_head(data_of(labels, vectors, documents), TrainingConfig(), IDENTITY)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"dropout": 1}, {"seeds": []}, {"class_weights": "some"}, {"lr": 1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingConfig(**wrong)


def test_thresholds_are_chosen_elsewhere_and_measured_here():
    vectors, height = planes(900)
    rng = np.random.default_rng(3)
    labels = np.where(height + 2 * rng.normal(size=900) > 0, "yes", "no")
    data = data_of(labels, vectors)
    head = train_head(data.take(np.arange(300)), TrainingConfig(**QUICK), IDENTITY).head
    chosen_on, test = data.take(np.arange(300, 600)), data.take(np.arange(600, 900))
    own = evaluate_head(head, chosen_on, [0.9], rounds=0).thresholds[0]
    found = evaluate_head(head, test, [0.9], chosen_on=chosen_on, rounds=0).thresholds[0]
    assert found.score == own.score
    assert own.precision >= 0.9
    kept = Scorer({"h": head}).score(test.vectors)["h"] >= found.score
    assert found.precision == pytest.approx((test.labels[kept] == "yes").mean())


def test_a_regression_of_whole_grades_is_also_measured_by_label_with_scores_beyond_them_cut():
    vectors, height = planes()
    grades = np.clip(np.round(height), -2, 2)
    head = train_head(data_of(grades, vectors), TrainingConfig(**QUICK), IDENTITY).head
    found = evaluate_head(head, data_of(grades, vectors), [0.5], positive_from=1, rounds=10)
    assert set(found.f1) == {"-2", "-1", "0", "1", "2"}
    assert 0 < found.measures["accuracy"].low <= found.measures["accuracy"].value <= found.measures["accuracy"].high
    assert found.thresholds[0].precision >= 0.5
    assert json.dumps(found.to_json(), allow_nan=False)


def test_wrong_questions_get_clear_answers():
    vectors, height = planes(100)
    regression = train_head(data_of(height, vectors), TrainingConfig(epochs=1), IDENTITY).head
    with pytest.raises(ConfigError, match="set positive_from"):
        evaluate_head(regression, data_of(height, vectors), [0.9])
    with pytest.raises(ConfigError, match="a regression head needs numbers"):
        evaluate_head(regression, data_of(np.array(["a"] * 100), vectors))
    names = np.where(height > 0, "yes", "no")
    binary = train_head(data_of(names, vectors), TrainingConfig(epochs=1), IDENTITY).head
    with pytest.raises(ConfigError, match="has the label 'maybe', the head knows no, yes"):
        evaluate_head(binary, data_of(np.array(["maybe"] * 100), vectors))
    elsewhere = replace(data_of(names, vectors), embedder={"model": "another", "dim": "16"})
    with pytest.raises(WrongEmbedderError, match="'made', these vectors have 'another'"):
        evaluate_head(binary, elsewhere)
