import json
import logging
import os

import pytest

from data_pipeline.embeddings.recipes import find_card, nearest_names

E5, BGE = "intfloat/e5-base-v2", "BAAI/bge-m3"


def write(folder, **files):
    """A folder with files; `.` in a name is `_`, and objects become JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
    return folder


def found(folder, name="my-model"):
    match = find_card(name, folder)
    return match and match.card.name


@pytest.mark.parametrize("name", [E5, E5.upper(), E5.lower()])
def test_by_name_in_any_case(name):
    match = find_card(name)
    assert (match.card.name, match.evidence, match.by_name) == (E5, f"the name {E5}", True)


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/.cache/huggingface/hub/models--intfloat--e5-base-v2/snapshots/0123abcd",
        "models--intfloat--e5-base-v2",
        "C:\\models\\intfloat\\e5-base-v2\\",
        "/models/intfloat/e5-base-v2",
        "/root/.cache/torch/sentence_transformers/intfloat_e5-base-v2/",
    ],
)
def test_by_a_path_with_the_name(path):
    match = find_card(path)
    assert (match.card.name, match.by_name) == (E5, True)
    assert "path" in match.evidence


@pytest.mark.parametrize(
    "name", ["e5-base-v2", "me/e5-base-v2", "", "/", "intfloat", "intfloat/e5-base-v2-mine", "a" * 9999]
)
def test_other_names_do_not_match(name):
    assert find_card(name) is None


@pytest.mark.parametrize(
    ("files", "evidence"),
    [
        ({"config_json": {"_name_or_path": E5}}, f"config.json names {E5} as _name_or_path"),
        ({"tokenizer_config_json": {"name_or_path": E5}}, f"tokenizer_config.json names {E5} as name_or_path"),
        (
            {"README_md": f"---\nx: mit\nbase_model: {E5}\ntags:\n- x\n---\n"},
            f"README.md names {E5} as base_model",
        ),
        ({"README_md": f"---\nbase_model:\n- {E5}\nx: 1\n---\n"}, f"README.md names {E5} as base_model"),
        ({"README_md": f'\ufeff---\r\nbase_model: ["{E5}"]\r\n---\r\n'}, f"README.md names {E5} as base_model"),
        (
            {"adapter_config_json": {"base_model_name_or_path": E5}},
            f"adapter_config.json names {E5} as base_model_name_or_path",
        ),
        ({"angle_config_json": {"model_name_or_path": E5}}, f"angle_config.json names {E5} as model_name_or_path"),
    ],
)
def test_by_what_the_files_say(tmp_path, files, evidence):
    match = find_card("my-model", write(tmp_path, **files))
    assert (match.card.name, match.evidence, match.by_name) == (E5, evidence, False)


def test_a_path_in_the_config_is_evidence_too(tmp_path):
    path = "/scratch/hub/models--intfloat--e5-base-v2/snapshots/abc"
    assert found(write(tmp_path, config_json={"_name_or_path": path})) == E5


def test_the_most_direct_evidence_wins_and_the_name_before_all(tmp_path):
    write(tmp_path, config_json={"_name_or_path": E5}, README_md=f"---\nbase_model: {BGE}\n---\n")
    assert found(tmp_path) == E5
    assert found(tmp_path, "google/embeddinggemma-300m") == "google/embeddinggemma-300m"


def test_evidence_that_the_table_does_not_know_is_passed_over(tmp_path):
    write(tmp_path, config_json={"_name_or_path": "bert-base-uncased"}, README_md=f"---\nbase_model: {BGE}\n---\n")
    assert found(tmp_path) == BGE


def test_a_model_merged_from_several_does_not_match(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    assert found(write(tmp_path, README_md=f"---\nbase_model: [{E5}, {BGE}]\n---\n")) is None
    assert "several models of the table" in caplog.text
    # Only one of them is known: that one is as good as alone.
    assert found(write(tmp_path, README_md=f"---\nbase_model: [{E5}, me/other]\n---\n")) == E5


def test_architecture_and_dimension_are_no_evidence(tmp_path):
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 768, "num_hidden_layers": 12}
    assert found(write(tmp_path, config_json=config)) is None
    assert found(tmp_path / "gone") is None


def test_in_the_cache_of_the_hub(tmp_path):
    """There, the files of a snapshot are links to blobs beside it."""
    repository = tmp_path / "models--me--fine-tuned"
    blob, snapshot = repository / "blobs" / "abc", repository / "snapshots" / "123"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_text(json.dumps({"_name_or_path": E5}))
    (snapshot / "config.json").symlink_to(os.path.relpath(blob, snapshot))
    assert found(snapshot) == E5


# Files of strangers


@pytest.mark.parametrize(
    "files",
    [
        {"config_json": "{"},
        {"config_json": "[" * 100_000},
        {"config_json": "[]"},
        {"config_json": {"_name_or_path": 3}},
        {"config_json": {"_name_or_path": {"a": E5}}},
        {"config_json": {"_name_or_path": "x" * 1_000_000}},
        {"config_json": "\x00\xff"},
        {"README_md": f"base_model: {E5}"},
        {"README_md": f"# Title\n---\nbase_model: {E5}\n---\n"},
        {"README_md": "---\nbase_model: [\n---\n"},
        {"README_md": "---\nbase_model: &a [*a, *a]\n---\n"},
        {"README_md": "---\nbase_model: !!python/object/apply:os.system [exit 3]\n---\n"},
        {"README_md": "---\nbase_model: 2024-99-99\n---\n"},
        {"README_md": "---\nbase_model: " + "[" * 3_000 + "\n---\n"},
        {"README_md": f"---\n{'x: 1' + chr(10):s}---\nbase_model: {E5}\n"},
        {"README_md": "---\n" + "results: 0.123456789\n" * 60_000 + f"base_model: {E5}\n---\n"},
    ],
)
def test_damaged_and_hostile_files_are_passed_over(tmp_path, files):
    assert found(write(tmp_path, **files)) is None
    assert found(write(tmp_path, tokenizer_config_json={"name_or_path": E5})) == E5


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "README.md").write_bytes(b"---\n\xff\xfe\nbase_model: " + E5.encode() + b"\n---\n")
    assert found(tmp_path) == E5


def test_a_large_file_is_not_read(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("data_pipeline.embeddings.recipes.match._MAX_JSON_BYTES", 100)
    assert found(write(tmp_path, config_json={"_name_or_path": E5, "x": "y" * 100})) is None
    assert "config.json has more than 100 bytes" in caplog.text


def test_a_large_front_matter_is_searched(tmp_path):
    """Model cards list hundreds of results of benchmarks there."""
    results = "model-index:\n" + "- name: x\n  value: 0.5\n" * 10_000
    assert found(write(tmp_path, README_md=f"---\n{results}base_model: {E5}\n---\n")) == E5


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secret = write(tmp_path / "elsewhere", config_json={"_name_or_path": E5})
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").symlink_to(secret / "config.json")
    (folder / "README.md").symlink_to("README.md")  # a circle
    (folder / "adapter_config.json").mkdir()
    assert found(folder) is None
    assert "is no file of this folder" in caplog.text


@pytest.mark.posix
def test_a_pipe_does_not_stop_the_search(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    assert found(write(tmp_path, tokenizer_config_json={"name_or_path": E5})) == E5


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("e5-bas-v2", E5),
        ("intfloat/e5-base-v3", E5),
        ("BAAI/bge_m3", BGE),
        ("embedinggemma-300m", "google/embeddinggemma-300m"),
    ],
)
def test_the_nearest_names(name, nearest):
    assert nearest_names(name)[0] == nearest


def test_nothing_is_near_to_nonsense():
    assert nearest_names("qqqqqqqqqqqqqqqqqqqqqq") == []
    assert nearest_names("x" * 100_000) == []
