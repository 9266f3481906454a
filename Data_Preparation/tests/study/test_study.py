"""select -> train -> eval -> table on a made-up data set, with probes and with a tiny transformer."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from support.study_data import settings, study, write_data
from support.tiny_text_models import classifier

from data_pipeline.errors import ConfigError, MissingExtraError, StaleStageError, StoreError
from data_pipeline.study import choose, evaluate, prepare, run_study, study_table, train
from data_pipeline.study.config import SweepConfig, SweepEntry
from data_pipeline.study.stages import main
from data_pipeline.study.subsets import find_subset

pytest.importorskip("hydra", reason="the study's config needs the extra study")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    write_data(folder)
    # Of three classes, as pretrained classifiers may be: it gets a last layer for two.
    classifier(folder / "bert", num_labels=3, hidden_dropout_prob=0.1)
    prepare(study(folder))
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "it")
    return tmp_path / "it"


def config_of(folder, kind, *more):
    return study(folder, f"model.name={folder}/bert", *more, kind=kind)


def whole(config):
    choose(config)
    train(config)
    return evaluate(config)


def numbers(record):
    return {name: record[name] for name in ("accuracy", "f1", "precision", "recall", "loss", "fingerprint")}


def folders(config):
    return sorted(path.parent for path in config.artifacts_dir.rglob("train_metrics.json"))


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_from_selection_to_metrics(folder, kind):
    config = config_of(folder, kind)
    found = whole(config)
    assert (found["rows"], found["subset_rows"], found["fraction"]) == (40, 24, 0.2)
    assert (found["subset"], found["selector"], found["seed"]) == ("random_p20_seed42", "random", 42)
    assert {"kcenter_radius", "label_drift", "mean_tokens", "near_duplicates_of_dev"} <= found["description"].keys()
    [run] = folders(config)
    assert run.parent.name == {"probe": "probe-hashing", "finetune": "bert"}[kind]
    trained = json.loads((run / "train_metrics.json").read_text())
    assert trained["config"] == json.loads(config.model_dump_json())
    assert trained["history"]
    assert json.loads((run / "metrics.json").read_text()) == found
    assert not list(run.rglob("*.bin"))


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_the_same_seed_gives_the_same_and_another_does_not(folder, kind):
    config = config_of(folder, kind)
    first = whole(config)
    train(config, overwrite=True)
    assert numbers(evaluate(config)) == numbers(first)
    assert numbers(whole(config_of(folder, kind, "seed=43"))) != numbers(first)
    assert len(folders(config)) == 2


def test_the_seed_moves_order_and_new_weights_of_the_same_rows(folder, monkeypatch):
    from transformers import Trainer

    orders, weights = [], []
    real = Trainer.training_step

    def step(self, model, inputs, *rest, **more):
        if not orders[-1]:
            weights.append(model.classifier.weight.detach().numpy().copy())
        orders[-1].append(inputs["input_ids"].tolist())
        return real(self, model, inputs, *rest, **more)

    monkeypatch.setattr(Trainer, "training_step", step)
    before = np.random.get_state()[1].copy(), os.urandom  # noqa: NPY002
    for seed in (1, 1, 2):
        orders.append([])
        config = config_of(folder, "finetune", f"seed={seed}", "subset.frac=1.0", "selection.name=full")
        choose(config)
        train(config, overwrite=True)
    assert orders[0] == orders[1]
    assert np.array_equal(weights[0], weights[1])
    assert orders[0] != orders[2]
    assert not np.array_equal(weights[0], weights[2])
    texts = [sorted(str([n for n in row if n]) for batch in order for row in batch) for order in orders]
    assert texts[0] == texts[2]
    # Padded to the longest of each batch, not of all.
    assert len({len(batch[0]) for batch in orders[0]}) > 1
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002


def test_finished_work_is_skipped(folder):
    config = config_of(folder, "probe")
    whole(config)
    [run] = folders(config)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    whole(config)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("probe", "training.probe.learning_rate=0.01"),
        ("finetune", "training.learning_rate=1e-3"),
        ("finetune", "training.max_length=16"),
        ("probe", "subset.frac=0.05"),
        ("probe", "subset={rows: 24, frac: null}"),
        ("probe", "selection.strata={by: labels}"),
        ("probe", "seed=7"),
    ],
)
def test_other_settings_are_another_run(folder, kind, more):
    for config in (config_of(folder, kind), config_of(folder, kind, more)):
        choose(config)
        train(config)
    assert len(folders(config)) == 2


def test_small_budgets_parameters_and_models_do_not_collide(folder):
    subsets = set()
    for more in (
        ["subset.frac=0.1"], ["subset.frac=0.105"], ["selection.name=kcenter"],
        ["selection.name=kcenter", "selection.params.metric=cosine"],
    ):  # fmt: skip
        config = config_of(folder, "probe", *more)
        choose(config)
        subsets.add(find_subset(config).name)
        train(config)
    assert len(subsets) == 4
    assert {"random_p10_seed42", "random_p10.5_seed42"} <= subsets
    assert len(folders(config)) == 4
    train(config_of(folder, "finetune", "subset.frac=0.1"))
    assert len(folders(config)) == 5
    tiny = [choose(config_of(folder, "probe", f"subset.frac={share}"))["subset"] for share in (0.005, 0.01)]
    assert tiny == ["random_p0.5_seed42", "random_p1_seed42"]


def test_dev_is_not_opened_before_it_is_measured(folder):
    config = config_of(folder, "probe", "selection.name=kcenter", "subset.manifest=true")
    job = config.pipeline_config
    hidden = [*job.processed_dir.glob("val*"), *job.embeddings_dir.glob("val*"), config.records_dir / "dev.jsonl"]
    hidden += [folder / "dev.tsv"]
    assert len(hidden) == 4
    for path in hidden:
        path.rename(path.with_name(f"away-{path.name}"))
    choose(config)
    train(config)
    choose(config_of(folder, "finetune"))
    train(config_of(folder, "finetune"))
    with pytest.raises(StoreError):
        evaluate(config)
    for path in hidden:
        path.with_name(f"away-{path.name}").rename(path)
    assert evaluate(config)["rows"] == 40


def test_stages_out_of_order(folder):
    config = config_of(folder, "probe")
    with pytest.raises(StoreError, match="elm study select"):
        train(config)
    choose(config)
    with pytest.raises(StoreError, match="elm study train"):
        evaluate(config)


def test_weights_can_be_deleted_once_they_are_measured(folder):
    config = config_of(folder, "finetune", "training.keep_model=false")
    found = whole(config)
    [run] = folders(config)
    assert not (run / "model").exists()
    assert evaluate(config) == found
    with pytest.raises(StoreError, match="were deleted"):
        evaluate(config, overwrite=True)


# Kills itself when the second batch comes, or when the weights are there and the record is not.
KILLED = """
import os, signal, sys
from data_pipeline.study import load_study, runs, train
from transformers import Trainer
if sys.argv[1] == "training":
    real, steps = Trainer.training_step, []
    def step(self, *rest, **more):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *rest, **more)
    Trainer.training_step = step
else:
    runs.atomic_write_json = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
train(load_study(sys.argv[2:]))
"""


@pytest.mark.parametrize("moment", ["training", "saving"])
def test_a_killed_run_is_done_again(folder, moment):
    more = settings(folder, f"model.name={folder}/bert", "seed=5", kind="finetune")
    config = config_of(folder, "finetune", "seed=5")
    choose(config)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, *more], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folders(config)
    with pytest.raises(StoreError, match="no trained model"):
        evaluate(config)
    train(config)
    after = evaluate(config)
    shutil.rmtree(config.artifacts_dir)
    train(config)
    assert numbers(evaluate(config)) == numbers(after)


def test_scores_are_measured_with_the_configs_parameters(folder):
    more = ["selection.name=wordpiece_ratio", f"measures={{wordpiece_ratio: {{model: '{folder}/bert'}}}}"]
    config = config_of(folder, "probe", *more)
    choose(config)
    assert find_subset(config).settings["sees"] == ["score:wordpiece_ratio"]
    other = shutil.copytree(folder / "bert", folder / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"continuing_subword_prefix":"##"', "").replace('"##z"', '"zz"'))
    with pytest.raises(StaleStageError):
        choose(config_of(folder, "probe", more[0], f"measures={{wordpiece_ratio: {{model: '{other}'}}}}"))


def test_labels_that_were_seen_are_in_the_name(folder):
    config = config_of(folder, "probe", "selection.strata={by: labels}")
    choose(config)
    subset = find_subset(config)
    assert subset.name.startswith("random-labels_p20_seed42")
    assert subset.method == "random(strata={'by': 'labels', 'bins': 5, 'shares': 'proportional'}) +labels"


def test_the_whole_in_one_process_is_the_same_as_stage_by_stage(folder):
    config = config_of(folder, "probe")

    def sweep(*selectors):
        runs = SweepConfig(selectors=selectors, fractions=(0.1, 0.2), seeds=(1, 2))
        return config.model_copy(update={"sweep": runs})

    kcenter = SweepEntry(name="kcenter", params={"metric": "cosine"}, label="far")
    like = SweepEntry(name="length_matched_random", params={"like": "far"})
    found = run_study(sweep("random", kcenter, like))
    assert len(found) == 3 * 2 * 2 + 2
    assert [run["prefix_of"] for run in found[:2]] == [0.2, None]
    by_key = {(run["method"], run["budget"], run["seed"]): run for run in found}
    for more, key in (
        (["subset.frac=0.1", "seed=2"], ("random", "p10", 2)),
        (["subset.frac=0.1", "seed=1", "selection.name=kcenter", "selection.params.metric=cosine"], ("far", "p10", 1)),
    ):
        # The stages would find the run and skip it.
        staged = config_of(folder, "probe", f"paths.artifacts_dir={folder}/apart", *more)
        record = whole(staged)
        assert numbers(record) == numbers(by_key[key])
        assert record["description"] == by_key[key]["description"]
    methods = {row.method for row in study_table(found)}
    assert methods == {"random", "far", "length_matched_random(like=far)", "all rows"}
    again = run_study(sweep("random", kcenter, like))
    assert again == found
    with pytest.raises(ConfigError, match="kind=probe"):
        run_study(config_of(folder, "finetune"))
    with pytest.raises(ConfigError, match="two selectors have the same name: random"):
        run_study(sweep("random", "random"))


def test_tracking_is_off_unless_asked_for(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    whole(config_of(folder, "probe"))
    whole(config_of(folder, "finetune"))
    with pytest.raises(MissingExtraError, match="wandb"):
        train(config_of(folder, "probe", "track.wandb_mode=offline"), overwrite=True)


def test_tracking_offline(folder, monkeypatch):
    calls = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            calls.append("finished")

        def log(self, values):
            calls.append(values)

    monkeypatch.setenv("WANDB_API_KEY", "a-secret-key")
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **given: calls.append(given) or Run()))
    config = config_of(folder, "probe", "track.wandb_mode=offline", "tracking.project=mine")
    found = whole(config)
    assert (calls[0]["mode"], calls[0]["project"], calls[0]["job_type"]) == ("offline", "mine", "train")
    assert calls[-2]["accuracy"] == found["accuracy"]
    assert calls.count("finished") == 2
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"a-secret-key" in path.read_bytes() for path in written)


@pytest.mark.usefixtures("clean_logging")
def test_on_the_command_line(folder, capsys):
    common = settings(folder, "+selection.name=random", "+subset.frac=0.1", "seed=42", "track.wandb_mode=disabled")
    for stage in ("prepare", "select", "train", "eval"):
        assert main([stage, *common]) == 0
    assert '"accuracy"' in capsys.readouterr().out
    assert main(["stage=table", *common, "--record", str(folder / "table.json")]) == 0
    assert "| 10 % | 12 | random | 1 |" in capsys.readouterr().out
    assert json.loads((folder / "table.json").read_text())["files"]
    assert main(["select", *common, "selection.name=nothing"]) == 2
    assert "unknown selector 'nothing'" in capsys.readouterr().err
    assert main(["select", "stage=train", *common]) == 2
    assert main(common) == 2
    assert "no stage is named; expected one of prepare" in capsys.readouterr().err


@pytest.mark.usefixtures("clean_logging")
def test_the_same_commands_of_elm(folder, capsys):
    from data_pipeline.cli import main as elm

    assert elm(["study", "select", *settings(folder, "+selection.name=kcenter", "+subset.frac=0.1")]) == 0
    assert '"subset": "kcenter_p10_seed42"' in capsys.readouterr().out
    assert elm(["study", "train", *settings(folder, "+selection.nme=kcenter")]) == 2
    assert "selection.nme: no such setting" in capsys.readouterr().err
