"""The config of a study: Hydra's words, the older pipeline's, and what is refused."""

import pytest

from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.selection.budget import Budget
from data_pipeline.study import StudyConfig, load_study
from data_pipeline.study.overrides import CONFIG_FILE, config_file, hydra_overrides

pytest.importorskip("hydra", reason="the study's config needs the extra study")


def test_the_file_says_what_the_models_say():
    assert load_study() == StudyConfig()


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_every_sign_sets_a_key_that_is_there_and_one_that_is_not(sign):
    config = load_study([f"{sign}selection.name=perplexity", f"{sign}selection.params.p_low=0.4", f"{sign}seed=7"])
    assert (config.selection.name, config.selection.params, config.seed) == ("perplexity", {"p_low": 0.4}, 7)


@pytest.mark.parametrize(
    ("older", "get", "value"),
    [
        ("track.wandb_mode=offline", lambda c: c.tracking.wandb_mode, "offline"),
        ("train.epochs=2", lambda c: c.training.epochs, 2),
        ("train.batch=8", lambda c: c.training.batch_size, 8),
        ("train.lr=1e-5", lambda c: c.training.learning_rate, 1e-5),
        ("data.max_length=64", lambda c: c.training.max_length, 64),
        ("data.dataset=sst2", lambda c: c.data.dataset, "stanfordnlp/sst2"),
        ("stage=select", lambda c: c.stage, "select"),
    ],
)
def test_older_words(older, get, value):
    assert get(load_study([older])) == value


@pytest.mark.parametrize(
    "command",
    [
        "+selection.name=random +subset.frac=0.1 seed=42",
        "+selection.name=perplexity +selection.params.p_low=0.3 +selection.params.p_high=0.7 +subset.frac=0.1 seed=42",
        "+selection.name=kcenter +subset.frac=0.1 seed=42",
        "+selection.name=kmeans +selection.params.n_clusters=128 +subset.frac=0.1 seed=42",
        "+selection.name=herding +subset.frac=0.1 seed=42 track.wandb_mode=disabled",
    ],
)
def test_the_older_commands(command):
    config = load_study(command.split())
    assert config.subset.budget == Budget(fraction=0.1)
    assert config.seed == 42


@pytest.mark.parametrize("path", ["/a b", "/it's (1), {so}", "/ä=b", "rel/ative"])
def test_paths_with_odd_signs(path):
    assert str(load_study([f"paths.data_dir={path}"]).paths.data_dir) == path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("selection.nme=x", "selection.nme: no such setting"),
        ("nope.x=1", "nope: no such setting"),
        ("selection.name=kcentre", "unknown selector 'kcentre'; expected one of .*kcenter"),
        ("selection.params.p=1", "parameters of random:\np: no such setting"),
        ("measures.perplexty={model: x}", "unknown measure 'perplexty'"),
        ("seed=many", "seed: .*integer.*'many'"),
        ("training.probe.seeds=[1]", "the study's seed"),
        ("seed", "'seed' is not a setting"),
        ("data.train=a.tsv", "train and dev go together"),
        ("seed=1,2", "config.yaml with"),
    ],
)
def test_what_is_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        load_study([override])


def test_budget_of_one_kind():
    assert load_study().subset.budget == Budget(fraction=0.1)
    assert load_study(["subset.rows=50"]).subset.budget == Budget(rows=50)
    with pytest.raises(SelectionError, match="exactly one"):
        _ = load_study(["subset.rows=50", "subset.frac=0.1"]).subset.budget


def test_packaged_weights_belong_to_the_default_model():
    assert "++embedding.weights=hub" in hydra_overrides(["+embedding.model_name=hashing"])
    assert load_study(["embedding.model_name=hashing"]).embedding.weights == "hub"


def test_own_file_leaves_out_what_it_likes(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 3\ntraining: {probe: {epochs: 2}}\n")
    config = load_study(["+selection.name=kcenter"], config_file(None, tmp_path))
    assert (config.seed, config.training.probe.epochs, config.training.probe.hidden) == (3, 2, [0])
    with pytest.raises(ConfigError, match="Leave one out"):
        config_file(CONFIG_FILE, tmp_path)
    with pytest.raises(ConfigError, match=r"no \.yaml file at"):
        load_study([], tmp_path / "nothing.yaml")


def test_nothing_of_hydra_is_left_behind(tmp_path, monkeypatch):
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)
    load_study(["seed=1"])
    assert not GlobalHydra.instance().is_initialized()
    assert not list(tmp_path.iterdir())
