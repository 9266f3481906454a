"""Modules in the format of sentence-transformers: what is read, and what is refused with the reason."""

import json

import pytest

from data_pipeline.embeddings.recipes.modules import list_module_folders, read_chain
from data_pipeline.errors import ModelError


def write(folder, modules):
    """modules.json of paths, kinds and settings."""
    listed = []
    for path, kind, settings in modules:
        listed.append({"idx": len(listed), "path": path, "type": f"sentence_transformers.models.{kind}"})
        if settings is not None:
            (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / path / "config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


TRANSFORMER = ("", "Transformer", {})
POOLING = ("1_Pooling", "Pooling", {"pooling_mode": "mean"})


def test_a_folder_without_modules_has_none(tmp_path):
    assert read_chain(tmp_path) is None
    assert list_module_folders(tmp_path) == []


def test_modules_are_read_in_order_and_dropout_is_left_out(tmp_path):
    dense = {"out_features": 3, "activation_function": "torch.nn.modules.activation.ReLU"}
    folder = write(tmp_path, [
        TRANSFORMER, POOLING, ("2_Dropout", "Dropout", {}), ("3_Dense", "Dense", dense),
        ("4_Normalize", "Normalize", {}),
    ])  # fmt: skip
    chain = read_chain(folder)
    assert (chain.input.kind, chain.pooling, chain.routed) == ("Transformer", ("mean",), False)
    assert [module.kind for module in chain.after] == ["Dense", "Normalize"]
    assert chain.description == "Dense to 3 with ReLU, Normalize"
    assert [path.name for path in list_module_folders(folder)] == [
        "1_Pooling", "2_Dropout", "3_Dense", "4_Normalize",
    ]  # fmt: skip


def test_a_normalization_alone_does_not_change_the_identity(tmp_path):
    folder = write(tmp_path, [TRANSFORMER, POOLING, ("2_Normalize", "Normalize", {})])
    assert read_chain(folder).description == ""


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([("0_WordEmbeddings", "WordEmbeddings", {}), POOLING], "'WordEmbeddings' .*: it looks words up in a table"),
        ([TRANSFORMER, ("1_CNN", "CNN", {}), POOLING], "'CNN' that cannot be run here: it runs a convolution"),
        ([TRANSFORMER, POOLING, ("2_LSTM", "LSTM", {})], "'LSTM' .*: it runs an LSTM"),
        ([("", "MLMTransformer", {}), ("1_SpladePooling", "SpladePooling", {})], "'MLMTransformer' .*: .* sparse"),
        ([TRANSFORMER, POOLING, ("2_Own", "Own", {})], "'Own' .*: this package does not know it"),
        ([TRANSFORMER, ("1_Dense", "Dense", {})], r"vector for each token \(late interaction\)"),
        ([TRANSFORMER], r"no pooling between its input and its end"),
        ([TRANSFORMER, POOLING, ("2_Dense", "Dense", {"module_input_name": "token_embeddings"})], "no pooling between"),
    ],
)
def test_modules_that_are_not_run_are_refused_with_the_reason(tmp_path, modules, reason):
    with pytest.raises(ModelError, match=reason):
        read_chain(write(tmp_path, modules))


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\b"])
def test_a_module_outside_the_models_folder_is_refused(tmp_path, path):
    write(tmp_path, [TRANSFORMER, (path, "Pooling", None)])
    for read in (read_chain, list_module_folders):
        with pytest.raises(ModelError, match="expected one inside the model's folder"):
            read(tmp_path)


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '[{"idx": 0}]', "7"])
def test_a_list_of_modules_that_is_none_is_named(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules.json is not a list of modules"):
        read_chain(tmp_path)


@pytest.mark.parametrize("settings", [{}, {"structure": {}, "types": {}}, {"structure": {"query": ["x"]}, "types": {}}])
def test_a_router_without_modules_is_refused(tmp_path, settings):
    folder = write(tmp_path, [("0_Router", "Router", settings)])
    with pytest.raises(ModelError, match="has a router whose settings name no modules for a document"):
        read_chain(folder)
