"""`elm heads convert|train|evaluate` and `elm annotate`, as they are typed."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from data_pipeline import ELMDataset
from data_pipeline.cli import main
from data_pipeline.heads import Scorer, load_head
from data_pipeline.stages.pipeline import run

pytestmark = pytest.mark.usefixtures("clean_logging")


@pytest.fixture
def data(config, monkeypatch):
    """A corpus with vectors of the hashing embedder; returns its folder."""
    run(config)
    monkeypatch.setenv("ELM_LOGS_DIR", str(config.logs_dir))
    return config.data_dir


def elm(*arguments):
    return main([str(argument) for argument in arguments])


def lightning(path, width=256):
    torch.manual_seed(0)
    state = {
        "layer1.weight": torch.randn(8, width), "layer1.bias": torch.randn(8),
        "layer2.weight": torch.randn(1, 8), "layer2.bias": torch.randn(1),
    }  # fmt: skip
    torch.save({"state_dict": state, "hyper_parameters": {"input_dim": width, "hidden_dim": 8}}, path)
    return path


def test_train_evaluate_and_annotate_end_to_end(data, tmp_path, capsys):
    head = tmp_path / "head"
    assert elm("heads", "train", head, "--label", "subject", "--output-dir", data, "--epochs", 3, "--hidden", 8) == 0
    printed = capsys.readouterr().out
    assert "kind        multiclass" in printed
    assert "layers      256 -> 8 -> 12" in printed
    assert "and probe vectors" in printed
    assert printed.splitlines()[-3].split()[0] == "1"  # the curve
    found = tmp_path / "found.json"
    assert (
        elm("heads", "evaluate", head, "--label", "subject", "--output-dir", data, "--bootstrap", 20, "--json", found)
        == 0
    )
    assert "95 % interval" in capsys.readouterr().out
    assert 0 <= json.loads(found.read_text())["measures"]["accuracy"]["value"] <= 1
    assert elm("annotate", "--heads", f"topic={head}", "--output-dir", data) == 0
    assert "topic, topic_label, topic_ancient_history" in capsys.readouterr().out
    dataset = ELMDataset(data, "test")
    expected = Scorer({"topic": load_head(head)}).score(dataset.to_numpy())
    assert dataset.metadata["topic"].to_list() == expected["topic"].tolist()
    assert dataset.metadata["topic_label"].to_list() == expected["topic_label"]
    assert len(ELMDataset(data, "test", where="topic_food > 0.05")) == (expected["topic_food"] > 0.05).sum()


def test_a_lightning_checkpoint_becomes_ours_and_is_bound(tmp_path, capsys):
    source = lightning(tmp_path / "edu.ckpt")
    assert elm("heads", "convert", source, tmp_path / "loose") == 0
    assert "embedder  unknown" in capsys.readouterr().out
    assert elm("heads", "convert", source, tmp_path / "bound", "--embedder", "hashing") == 0
    assert "model 'hashing'" in capsys.readouterr().out
    head = load_head(tmp_path / "bound")
    assert head.embedder.probes.shape == (3, 256)
    vectors = np.random.default_rng(0).normal(size=(5, 256)).astype(np.float32)
    state = torch.load(source, weights_only=True)["state_dict"]
    hidden = torch.relu(torch.from_numpy(vectors) @ state["layer1.weight"].T + state["layer1.bias"])
    expected = (hidden @ state["layer2.weight"].T + state["layer2.bias"])[:, 0]
    np.testing.assert_allclose(Scorer({"h": head}).score(vectors)["h"], expected.numpy(), rtol=1e-4)


def test_a_head_of_another_embedder_does_not_score_a_corpus(data, tmp_path, capsys):
    source = lightning(tmp_path / "edu.ckpt")
    arguments = ("--embedder", "hashing", "--embedding.prompt", "passage: ")
    assert elm("heads", "convert", source, tmp_path / "other", *arguments) == 0
    assert elm("annotate", "--heads", f"edu={tmp_path / 'other'}", "--output-dir", data) == 2
    assert "prompt: the head was trained on 'passage: ', these vectors have ''" in capsys.readouterr().err
    assert not (data / "scores/edu").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads", "convert", "nowhere.ckpt", "out"], "there is no head at nowhere.ckpt"),
        (["heads", "convert", "nowhere.ckpt", "out", "--embedding.dim", "8"], "there is no head"),
        (["heads", "train", "out", "--on", "test"], "--on test is for evaluation only"),
        (["heads", "train", "out", "--hidden", "-4"], "hidden"),
        (["heads", "train", "out", "--label", "grade"], "no column 'grade' to be the label"),
        (["heads", "train", "out", "--labels", "nowhere.parquet"], "nowhere.parquet"),
        (["heads", "evaluate", "nowhere"], "there is no head at nowhere"),
        (["annotate", "--heads", "edu"], "--heads takes NAME=PATH, found 'edu'"),
        (["annotate", "--heads", "a=x", "a=y"], "--heads names 'a' twice"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(data, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    where = [] if arguments[1] == "convert" else ["--output-dir", data]
    label = ["--label", "subject"] if arguments[0] == "heads" and "--label" not in arguments and where else []
    assert elm(*arguments, *where, *label) in {1, 2}
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_thresholds_are_not_chosen_on_the_test_split(data, tmp_path, capsys):
    ids = pl.concat([ELMDataset(data, split).metadata for split in ("train", "val", "test")])
    table = ids.select("text_id", grade=(pl.col("token_count") > ids["token_count"].median()).cast(pl.String))
    table.write_parquet(tmp_path / "labels.parquet")
    shared = ("--labels", tmp_path / "labels.parquet", "--label", "grade", "--output-dir", data)
    head = tmp_path / "head"
    assert elm("heads", "train", head, *shared, "--epochs", 2, "--without-probes") == 0
    measured = ("heads", "evaluate", head, *shared, "--on", "test", "--precision", 0.4, "--bootstrap", 0)
    assert elm(*measured, "--thresholds-from", "test") == 2
    assert "cannot be chosen on the test split" in capsys.readouterr().err
    assert elm(*measured) == 0
    assert "precision 0.4: " in capsys.readouterr().out


def test_training_again_needs_overwrite_where_it_would_change_the_head(data, tmp_path, capsys):
    command = ("heads", "train", tmp_path / "head", "--label", "subject", "--output-dir", data, "--epochs", 1)
    assert elm(*command) == 0
    assert elm(*command, "--seeds", 7) == 2
    assert "holds another head" in capsys.readouterr().err
    assert elm(*command, "--seeds", 7, "--overwrite") == 0
    assert load_head(tmp_path / "head").about["seed"] == 7
