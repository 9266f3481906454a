import json
import os
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from data_pipeline.config import Config, preset_names, project_root
from data_pipeline.config.load import load_config, load_preset
from data_pipeline.errors import ConfigError


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("ELM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_anything_the_defaults_hold():
    assert load_config() == Config()


def test_the_file_beats_the_defaults_the_environment_the_file_and_flags_everything(file, monkeypatch):
    path = file("embedding: {batch_size: 1, dim: 1, dtype: float16, pooling: cls}")
    monkeypatch.setenv("ELM_EMBEDDING__BATCH_SIZE", "2")
    monkeypatch.setenv("ELM_EMBEDDING__DIM", "2")
    found = load_config(path, {"embedding.batch_size": 3}).embedding
    assert (found.batch_size, found.dim, found.dtype, found.pooling) == (3, 2, "float16", "cls")
    # The rest of the section keeps its defaults.
    assert found.batch_tokens == Config().embedding.batch_tokens
    assert load_config(path).embedding.batch_size == 2


def test_the_last_of_two_wins_in_either_order_of_sections(file, monkeypatch):
    monkeypatch.setenv("ELM_SPLIT__SEED", "7")
    config = load_config(file("corpus: {name: mine}\npreprocess: {min_tokens: 5}"), {"split.method": "paragraph"})
    assert (config.corpus.name, config.preprocess.min_tokens) == ("mine", 5)
    assert (config.split.seed, config.split.method) == (7, "paragraph")


def test_flags_may_be_dotted_or_nested():
    flags = {"embedding.batch_size": 3, "embedding": {"dim": 64}, "preprocess": {"min_tokens": 5}}
    found = load_config(None, flags)
    assert (found.embedding.batch_size, found.embedding.dim, found.preprocess.min_tokens) == (3, 64, 5)


def test_a_section_and_a_json_value_in_the_environment(monkeypatch):
    monkeypatch.setenv("ELM_CORPUS__METADATA_FIELDS", '{"year": "int"}')
    monkeypatch.setenv("ELM_DATA_DIR", "/somewhere")
    config = load_config()
    assert config.corpus.metadata_fields == {"year": "int"}
    assert config.data_dir == Path("/somewhere")


def test_texts_of_the_environment_become_the_types_of_the_knobs(monkeypatch):
    monkeypatch.setenv("ELM_PREPROCESS__NEAR_DEDUP", "true")
    monkeypatch.setenv("ELM_PREPROCESS__NEAR_THRESHOLD", "0.5")
    found = load_config().preprocess
    assert (found.near_dedup, found.near_threshold) == (True, 0.5)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"embedding.batchsize": 4}, "embedding.batchsize: no such setting (found 4)"),
        ({"embeddings.batch_size": 4}, "embeddings: no such setting (found {'batch_size': 4})"),
        ({"nothing": 1}, "nothing: no such setting (found 1)"),
        ({"embedding.batch_size": 0},
         "embedding.batch_size: Input should be greater than or equal to 1 (found 0)"),
        ({"embedding.store_dtype": "float16"}, "embedding.store_dtype: no such setting (found 'float16')"),
        ({"embedding.precision": "binary"},
         "embedding.precision: Input should be 'auto', 'float32', 'float16', 'float8', 'int8' or 'ubinary' "
         "(found 'binary')"),
        ({"embedding.attention": "sdpa"},
         "embedding.attention: Input should be 'auto', 'flash_attention_2', 'varlen', 'segments' or 'padded' "
         "(found 'sdpa')"),
        ({"embedding.threads": 0}, "embedding.threads: Input should be greater than or equal to 1 (found 0)"),
        ({"embedding.batch_tokens": 0}, "embedding.batch_tokens: Input should be greater than or equal to 1 (found 0)"),
        ({"embedding.device_timeout_s": 0}, "embedding.device_timeout_s: Input should be greater than 0 (found 0)"),
        ({"embedding.pooling": "median"},
         "embedding.pooling: must be auto, or one or several of last_token, cls, mean, max, mean_sqrt_len, "
         "weighted_mean joined by + (found 'median')"),
        ({"preprocess.max_unknown_share": 25},
         "preprocess.max_unknown_share: Input should be less than or equal to 1 (found 25)"),
        ({"corpus.metadata_fields": {"year": "number"}},
         "corpus.metadata_fields.year: Input should be 'str', 'int', 'float' or 'bool' (found 'number')"),
        ({"corpus.hub_timeout_s": 0}, "corpus.hub_timeout_s: Input should be greater than 0 (found 0)"),
    ],
)  # fmt: skip
def test_a_bad_name_or_value_is_named_with_its_path(flags, line):
    with pytest.raises(ConfigError) as caught:
        load_config(None, flags)
    assert str(caught.value).splitlines() == [line]


def test_all_problems_of_all_sources_are_told_at_once(file, monkeypatch):
    monkeypatch.setenv("ELM_EMBEDDING__BATCH_SIZE", "many")
    with pytest.raises(ConfigError) as caught:
        load_config(file("preprocess: {min_tokens: -1, typo: 2}"), {"split.seed": "x"})
    assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()) == [
        "embedding.batch_size",
        "preprocess.min_tokens",
        "preprocess.typo",
        "split.seed",
    ]


def test_an_unknown_name_in_the_environment_is_not_overlooked(monkeypatch):
    monkeypatch.setenv("ELM_EMBEDDING__BATCHSIZE", "4")
    with pytest.raises(ConfigError, match=r"embedding\.batchsize: no such setting"):
        load_config()


@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.2), (0.5, 0.1, 0.1), (0, 0, 0)])
def test_ratios_must_sum_to_one(ratios):
    names = ("split.train_ratio", "split.val_ratio", "split.test_ratio")
    with pytest.raises(ConfigError) as caught:
        load_config(None, dict(zip(names, ratios, strict=True)))
    expected = f"split: train_ratio + val_ratio + test_ratio must be 1, found {sum(ratios):g}"
    assert str(caught.value).startswith(expected)


def test_ratios_that_sum_to_one_but_for_rounding_are_fine():
    ratios = {"split.train_ratio": 0.7, "split.val_ratio": 0.2, "split.test_ratio": 0.1}
    assert load_config(None, ratios).split.train_ratio == 0.7
    assert load_config(None, {"split.train_ratio": 1, "split.val_ratio": 0, "split.test_ratio": 0}).split.val_ratio == 0


@pytest.mark.parametrize("name", ["text_id", "text", "token_count", "title", "section", "source_split", "raw"])
def test_metadata_cannot_be_called_like_a_column_of_every_corpus(name):
    with pytest.raises(ConfigError, match=rf"^corpus\.metadata_fields.*'{name}' is a column of every corpus"):
        load_config(None, {"corpus.metadata_fields": {name: "str"}})


def test_an_empty_range_of_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"preprocess: min_tokens \(300\) is larger than max_tokens \(200\)"):
        load_config(None, {"preprocess.min_tokens": 300, "preprocess.max_tokens": 200})
    assert load_config(None, {"preprocess.min_tokens": 200, "preprocess.max_tokens": 200}).preprocess.max_tokens == 200


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", ".", "", "/etc", "a\nb", "a\0b", "C:x", "a*"])
@pytest.mark.parametrize("knob", ["corpus.name", "embedding.variant"])
def test_names_of_folders_cannot_leave_their_folder(knob, name):
    with pytest.raises(ConfigError, match=rf"{re.escape(knob)}: .* must be a plain folder name"):
        load_config(None, {knob: name})


@pytest.mark.parametrize("name", ["nul", "CON", "aux.data", "LPT1", "v1.", "v1 "])
def test_names_that_windows_has_no_folders_for_are_refused_everywhere(name):
    with pytest.raises(ConfigError, match=r"embedding\.variant: .* cannot name a folder on Windows"):
        load_config(None, {"embedding.variant": name})


@pytest.mark.parametrize("name", ["wikitext2", "my corpus", "v1.0", "données", "..x", "null", "com10", "console"])
def test_plain_names_of_folders_stay_below_the_data_folder(name):
    config = load_config(None, {"corpus.name": name, "embedding.variant": name, "data_dir": "/data"})
    assert config.processed_dir == Path(f"/data/{name}_processed")
    assert config.embeddings_dir == Path(f"/data/embeddings/{name}")


def test_unless_asked_otherwise_the_machine_decides_how_texts_are_computed():
    found = Config().embedding
    assert (found.batch_size, found.batch_tokens, found.threads) == (None, None, None)
    assert (found.precision, found.attention, found.dtype, found.device) == ("auto",) * 4
    assert (found.backend, found.compile, found.fp8, found.device_timeout_s) == ("torch", False, False, 600)
    for name in preset_names():
        preset = load_preset(name).embedding
        assert (preset.batch_size, preset.batch_tokens, preset.threads) == (None, None, None), name
        assert (preset.precision, preset.attention, preset.backend) == ("auto", "auto", "torch"), name
        assert (preset.compile, preset.fp8) == (False, False), name


def test_the_new_knobs_are_read_from_the_environment(monkeypatch):
    values = {"precision": "int8", "attention": "padded", "backend": "openvino", "compile": "true", "fp8": "1",
              "threads": "3", "batch_tokens": "512", "batch_size": "7", "device_timeout_s": "1.5"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"ELM_EMBEDDING__{name.upper()}", value)
    found = load_config().embedding.model_dump(include=set(values))
    assert found == {
        "precision": "int8", "attention": "padded", "backend": "openvino", "compile": True, "fp8": True,
        "threads": 3, "batch_tokens": 512, "batch_size": 7, "device_timeout_s": 1.5,
    }  # fmt: skip


def test_paths_of_the_default_are_those_of_the_design():
    config = Config(data_dir=Path("/d"))
    assert config.get_processed_path("train") == Path("/d/wikitext2_processed/train.parquet")
    assert config.get_embeddings_path("val") == Path("/d/embeddings/val_embeddings.safetensors")
    assert Config().data_dir == project_root() / "data"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_can_be_changed(name, monkeypatch):
    config = load_preset(name)
    assert config.preset == name
    assert load_preset(name, {"embedding.batch_size": 3}).embedding.batch_size == 3
    monkeypatch.setenv("ELM_EMBEDDING__BATCH_SIZE", "5")
    assert load_preset(name).embedding.batch_size == 5


def test_the_presets_are_these():
    assert preset_names() == ["offline", "qwen3-0.6b", "qwen3-4b"]
    with pytest.raises(ConfigError, match=r"unknown preset 'large'; expected one of offline, qwen3-0\.6b, qwen3-4b"):
        load_preset("large")


def test_a_saved_config_reads_back_equal(file):
    flags = {
        "data_dir": "/d", "corpus.metadata_fields": {"year": "int"}, "corpus.path": "/x/y.jsonl",
        "embedding.dim": 64, "embedding.prompt": "über: \n", "preprocess.near_threshold": 0.7,
    }  # fmt: skip
    config = load_config(None, flags)
    saved = json.dumps(config.model_dump(mode="json"))
    assert Config.model_validate_json(saved) == config
    assert load_config(file(yaml.safe_dump(json.loads(saved), allow_unicode=True))) == config


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Config().embedding.batch_size = 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b", "must hold a mapping of sections, found list"),
        (b"a: [1", "is not valid YAML"),
        (b"corpus: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        (b"corpus: \xff", "cannot read the config file"),
        (b"corpus: 5", "corpus: "),
    ],
)
def test_a_file_that_is_no_config_is_an_error(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.yaml")
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the config file .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_empty_file_changes_nothing(file):
    assert load_config(file("# nothing\n")) == Config()


def test_a_long_value_is_shown_shortened():
    with pytest.raises(ConfigError) as caught:
        load_config(flags={"embedding": {"model_name": ["word"] * 9000}})
    assert "embedding.model_name" in str(caught.value)
    assert len(str(caught.value)) < 400
