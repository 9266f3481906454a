"""Heads of JQL, of ML-Filter and of anyone who saves a state dict, against torch's own modules."""

import argparse
import json
import os
import pathlib
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from data_pipeline.errors import ModelError, SourceError
from data_pipeline.heads.apply import Scorer
from data_pipeline.heads.files import load_head, save_head
from data_pipeline.heads.foreign import is_foreign, load_foreign
from data_pipeline.heads.model import Head, Layer

D, H = 12, 7


def network(outputs=1, hidden=(H,), seed=0):
    torch.manual_seed(seed)
    widths = [D, *hidden, outputs]
    layers = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def named(model, names):
    """State dict of a network, with other names for its layers."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    state = {}
    for name, layer in zip(names, linear, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight.detach(), layer.bias.detach()
    return state


def jql(model):
    return named(model, ["layer1", "layer2"])


def vectors(rows=9):
    return np.random.default_rng(1).standard_normal((rows, D)).astype(np.float32)


def check(head, model):
    """A head gives what torch's module gives."""
    x = vectors()
    with torch.inference_mode():
        expected = model.float()(torch.from_numpy(x)).numpy()
    found = Scorer({"h": head}).score(x)
    np.testing.assert_allclose(np.stack(list(found.values()), axis=1), expected, rtol=1e-5, atol=1e-6)
    assert head.kind == "regression"
    assert all(layer.weight.dtype == layer.bias.dtype == np.float32 for layer in head.layers)


def save(path, content):
    torch.save(content, path)
    return path


def lightning(path, model, **hyper_parameters):
    return save(
        path,
        {
            "pytorch-lightning_version": "2.5.1", "epoch": 3, "global_step": 100, "loops": {}, "callbacks": {},
            "optimizer_states": [], "lr_schedulers": [], "state_dict": OrderedDict(jql(model)),
            "hparams_name": "kwargs", "hyper_parameters": hyper_parameters,
        },
    )  # fmt: skip


def folder(path, model, prefix="head.mlp.", **config):
    path.mkdir()
    save_file(
        {f"{prefix}{name}": value.detach() for name, value in model.state_dict().items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    outputs = model[-1].out_features
    facts = {
        "architectures": ["EmbeddingRegressionModel"], "dtype": "float32", "embedding_dim": D, "hidden_dim": H,
        "num_tasks": outputs, "num_targets_per_task": [6] * outputs, "transformers_version": "4.57.0",
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(facts | config))
    return path


# Lightning checkpoints of JQL


def test_a_lightning_checkpoint(tmp_path):
    model = network()
    path = lightning(tmp_path / "edu.ckpt", model, input_dim=D, hidden_dim=H, learning_rate=1e-3, train_sets=["a", "b"])
    head = load_foreign(path)
    check(head, model)
    assert (head.labels, head.dim, head.embedder) == (("score",), D, None)
    assert head.about == {"source": "edu.ckpt", "format": "lightning"}
    assert is_foreign(path)


def test_a_checkpoint_without_hyper_parameters_has_the_sizes_of_its_weights(tmp_path):
    model = network()
    head = load_foreign(save(tmp_path / "a.ckpt", {"state_dict": jql(model)}))
    check(head, model)
    assert head.layers[0].weight.shape == (H, D)


@pytest.mark.parametrize("wrong", [{"input_dim": 768}, {"hidden_dim": 1000}, {"input_dim": "12"}])
def test_hyper_parameters_that_contradict_the_weights(tmp_path, wrong):
    path = lightning(tmp_path / "a.ckpt", network(), **({"input_dim": D, "hidden_dim": H} | wrong))
    name, value = next(iter(wrong.items()))
    with pytest.raises(ModelError, match=rf"a\.ckpt contradicts itself: {name} is {value!r}, the weights say"):
        load_foreign(path)


def test_harmless_objects_among_the_hyper_parameters_are_read(tmp_path):
    model = network()
    path = lightning(
        tmp_path / "a.ckpt", model, input_dim=D, hidden_dim=H, data=pathlib.Path("/data/train"),
        pure=pathlib.PurePosixPath("x"), windows=pathlib.PureWindowsPath("c:/x"),
        args=argparse.Namespace(lr=0.1, path=pathlib.Path("y")), more=OrderedDict(a=1),
    )  # fmt: skip
    check(load_foreign(path), model)


def test_hyper_parameters_in_a_namespace_are_compared_too(tmp_path):
    content = {"state_dict": jql(network()), "hyper_parameters": argparse.Namespace(input_dim=5)}
    with pytest.raises(ModelError, match="input_dim is 5, the weights say 12"):
        load_foreign(save(tmp_path / "a.ckpt", content))


def test_what_is_allowed_for_one_file_is_not_allowed_after_it(tmp_path):
    path = lightning(tmp_path / "a.ckpt", network(), args=argparse.Namespace(a=1))
    load_foreign(path)
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace"):
        torch.load(path, weights_only=True)


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_is_refused_and_nothing_runs(tmp_path):
    target = tmp_path / "owned"
    path = lightning(tmp_path / "a.ckpt", network(), input_dim=D, hidden_dim=H, extra=Malicious(target))
    with pytest.raises(
        ModelError, match=r"a\.ckpt is not loaded: .* holds posix\.mkdir.*safetensors\.torch\.save_file"
    ):
        load_foreign(path)
    assert not target.exists()
    # The file would have done it: the test tests something.
    torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin"])
def test_a_bare_pickle_with_code_is_refused_and_nothing_runs(tmp_path, name):
    target = tmp_path / "owned"
    (tmp_path / name).write_bytes(pickle.dumps(Malicious(target), protocol=2))
    with pytest.raises(ModelError, match="is not loaded: it is a pickle that holds"):
        load_foreign(tmp_path / name)
    assert not target.exists()


def test_an_object_of_another_library_is_refused_by_name(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    path = lightning(tmp_path / "a.ckpt", network(), config=omegaconf.OmegaConf.create({"a": 1}))
    with pytest.raises(ModelError, match=r"holds omegaconf\.dictconfig\.DictConfig"):
        load_foreign(path)


def test_a_whole_module_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds torch\.nn\.modules\.container\.Sequential"):
        load_foreign(save(tmp_path / "a.pt", network()))


def test_paths_of_other_pythons_are_read(tmp_path):
    """Python 3.13 says where its paths live in another way."""
    module = types.ModuleType("pathlib._local")
    sys.modules["pathlib._local"] = module
    kind = type("PosixPath", (), {"__module__": "pathlib._local", "__reduce__": lambda self: (kind, ("a", "b"))})
    module.PosixPath = kind
    model = network()
    try:
        path = lightning(tmp_path / "a.ckpt", model, where=kind())
    finally:
        del sys.modules["pathlib._local"]
    check(load_foreign(path), model)


def test_scores_are_not_rounded_to_bfloat16(tmp_path):
    """JQL's own heads give 617 different scores on this grid."""
    state = {
        "layer1.weight": torch.eye(H, D), "layer1.bias": torch.zeros(H),
        "layer2.weight": torch.eye(1, H), "layer2.bias": torch.zeros(1),
    }  # fmt: skip
    x = np.zeros((2001, D), np.float32)
    x[:, 0] = np.linspace(0, 5, 2001)
    head = load_foreign(save(tmp_path / "a.ckpt", {"state_dict": state}))
    assert len(set(Scorer({"h": head}).score(x)["h"].tolist())) == 2001


# State dicts


@pytest.mark.parametrize(
    "names",
    [
        ["layer1", "layer2"], ["head.mlp.0", "head.mlp.2"], ["mlp.0", "mlp.2"], ["0", "2"], ["0", "3"],
        ["model.layer1", "model.layer2"], ["module.head.mlp.0", "module.head.mlp.2"], ["module.0", "module.2"],
        ["linear0", "linear1"], ["_orig_mod.mlp.0", "_orig_mod.mlp.2"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict"])
def test_a_state_dict_under_many_names(tmp_path, names, nested):
    model = network(outputs=2)
    state = named(model, names)
    head = load_foreign(save(tmp_path / "a.pt", {nested: state, "epoch": 3} if nested else state))
    check(head, model)
    assert head.labels == ("target_0", "target_1")
    assert head.about == {"source": "a.pt", "format": "state_dict"}


def test_any_depth_in_the_order_of_the_numbers(tmp_path):
    model = network(hidden=(7, 6, 5, 4, 3, 7))
    state = {f"net.{name}": value for name, value in reversed(list(model.state_dict().items()))}
    assert "net.10.weight" in state  # which comes before net.2 in the alphabet
    head = load_foreign(save(tmp_path / "a.pth", state))
    check(head, model)
    assert len(head.layers) == 7


@pytest.mark.parametrize("name", ["", "linear", "model.score"])
def test_one_layer_needs_no_number(tmp_path, name):
    model = network(hidden=())
    prefix = f"{name}." if name else ""
    state = {f"{prefix}weight": model[0].weight.detach(), f"{prefix}bias": model[0].bias.detach()}
    check(load_foreign(save(tmp_path / "a.pt", state)), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_float_becomes_float32_without_loss(tmp_path, dtype, suffix):
    model = network().to(dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        save(path, jql(model))
    else:
        save_file(jql(model), path)
    head = load_foreign(path)
    np.testing.assert_array_equal(head.layers[0].weight, model[0].weight.detach().float().numpy())
    check(head, model)


def test_the_old_format_of_torch(tmp_path):
    model = network()
    torch.save(jql(model), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    check(load_foreign(tmp_path / "a.pt"), model)


def test_weights_that_are_not_contiguous(tmp_path):
    model = network()
    state = jql(model)
    state["layer1.weight"] = state["layer1.weight"].t().contiguous().t()
    head = load_foreign(save(tmp_path / "a.pt", state))
    check(head, model)
    assert head.layers[0].weight.flags["C_CONTIGUOUS"]


def test_bare_safetensors(tmp_path):
    model = network(outputs=3)
    save_file(named(model, ["head.mlp.0", "head.mlp.2"]), tmp_path / "a.safetensors")
    head = load_foreign(tmp_path / "a.safetensors")
    check(head, model)
    assert head.about == {"source": "a.safetensors", "format": "safetensors"}


# Hugging Face folders of ML-Filter


def test_a_hugging_face_folder(tmp_path):
    model = network()
    path = folder(tmp_path / "final", model)
    head = load_foreign(path)
    check(head, model)
    assert (head.labels, head.embedder) == (("score",), None)
    assert head.about == {"source": "final", "format": "huggingface", "num_targets_per_task": [6]}
    assert is_foreign(path)


def test_each_task_is_one_number_however_many_grades_it_has(tmp_path):
    model = network(outputs=3)
    head = load_foreign(folder(tmp_path / "a", model, num_targets_per_task=[2, 6, 4]))
    check(head, model)
    assert head.labels == ("target_0", "target_1", "target_2")
    assert head.about["num_targets_per_task"] == [2, 6, 4]


def test_tasks_are_named_where_the_config_names_them(tmp_path):
    path = folder(tmp_path / "a", network(outputs=2), task_names=["edu", "adult"])
    head = load_foreign(path)
    assert head.labels == ("edu", "adult")
    assert Scorer({"x": head}).columns == ["x_edu", "x_adult"]


def test_the_embedder_is_kept_where_the_config_names_it(tmp_path):
    head = load_foreign(folder(tmp_path / "a", network(), embedding_model="jhu-clsp/mmBERT-base"))
    assert head.embedder.settings == {"model": "jhu-clsp/mmBERT-base", "dim": str(D)}


def test_the_number_of_targets_that_nobody_chose_is_no_contradiction(tmp_path):
    model = network(outputs=2)
    check(load_foreign(folder(tmp_path / "a", model, num_targets_per_task=[1])), model)


def test_a_folder_without_a_config_has_the_sizes_of_its_weights(tmp_path):
    model = network()
    path = folder(tmp_path / "a", model)
    (path / "config.json").unlink()
    check(load_head(path), model)


def test_a_folder_with_pickled_weights(tmp_path):
    model = network()
    path = folder(tmp_path / "a", model)
    (path / "model.safetensors").unlink()
    save(path / "pytorch_model.bin", named(model, ["head.mlp.0", "head.mlp.2"]))
    check(load_foreign(path), model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embedding_dim": 768}, "contradicts itself: embedding_dim is 768, the weights say 12"),
        ({"hidden_dim": 1000}, "hidden_dim is 1000, the weights say 7"),
        ({"num_tasks": 2}, "num_tasks is 2, the weights say 1"),
        ({"num_targets_per_task": [6, 6]}, r"num_targets_per_task \[6, 6\], but its weights give 1 scores"),
        ({"task_names": ["a", "b"]}, "names 2 tasks"),
        ({"is_regression": False}, r"is a classifier \(is_regression is False\)"),
        ({"problem_type": "single_label_classification"}, "is a classifier"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' between its layers, expected 'relu'"),
    ],
)
def test_a_config_that_does_not_fit_the_weights(tmp_path, config, message):
    with pytest.raises(ModelError, match=message):
        load_foreign(folder(tmp_path / "a", network(), **config))


def test_as_many_outputs_as_classes_is_a_classifier(tmp_path):
    with pytest.raises(ModelError, match=r"is a classifier \(num_classes is 6\).*6 outputs"):
        load_foreign(lightning(tmp_path / "a.ckpt", network(outputs=6), num_classes=6))


def test_outputs_that_are_scaled_afterwards_are_refused(tmp_path):
    """Earlier heads of ML-Filter clamp their output and multiply it; without that the numbers are others."""
    state = named(network(), ["head.mlp.0", "head.mlp.2"]) | {"head.scaling.scaling_constants": torch.tensor([5.0])}
    with pytest.raises(ModelError, match=r"it has head\.scaling\.scaling_constants \(float32 \[1\]\); expected linear"):
        load_foreign(save(tmp_path / "a.pt", state))


# What is no head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.running_mean": torch.ones(3)}, r"it has norm\.running_mean \(float32 \[3\]\); expected linear layers"),
        ({"layer1.weight": None}, r"it has layer1\.weight \(NoneType\)"),
        ({"step": 5}, r"it has step \(int\)"),
        ({"norm.weight": torch.ones(H), "norm.bias": torch.ones(H)}, "the order of the layers .* is not known"),
        ({"layer2.bias": ...}, r"has no layer2\.bias; .* has one of zeros"),
        ({"layer1.weight": ...}, r"has no layer1\.weight"),
        ({"layer1.weight": torch.ones(H, D, 1)}, r"layer1\.weight is float32 \[7, 12, 1\], expected a matrix"),
        ({"layer1.weight": torch.ones(H, D, dtype=torch.int8)}, r"layer1\.weight is int8 \[7, 12\], expected a matrix"),
        ({"layer1.weight": torch.ones(H, D).to_sparse()}, r"layer1\.weight is float32 .* expected a matrix of floats"),
        ({"layer1.bias": torch.ones(H, 1)}, r"layer1\.bias is float32 \[7, 1\], expected a vector"),
        ({"layer2.weight": torch.ones(1, 8)}, "not a valid regression head: layer 1 takes 8 numbers"),
        ({"layer1.bias": torch.ones(3)}, "layer 0 has weights of shape"),
        ({"layer2.bias": torch.tensor([float("nan")])}, "layer 1 has numbers that are not finite"),
        ({"layer2.weight": torch.full((1, H), float("inf"))}, "layer 1 has numbers that are not finite"),
        ({"layer2.weight": torch.ones(0, H), "layer2.bias": torch.ones(0)}, "0 labels"),
    ],
)
def test_a_state_dict_that_is_no_head(tmp_path, change, message):
    state = jql(network()) | change
    path = save(tmp_path / "a.pt", {name: value for name, value in state.items() if value is not ...})
    with pytest.raises(ModelError, match=message) as error:
        load_foreign(path)
    assert str(path) in str(error.value)


def test_layers_without_room_for_a_relu(tmp_path):
    with pytest.raises(ModelError, match=r"has mlp\.0 and mlp\.1 with nothing between them"):
        load_foreign(save(tmp_path / "a.pt", named(network(), ["mlp.0", "mlp.1"])))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}])
def test_an_empty_state_dict(tmp_path, content):
    with pytest.raises(ModelError, match="it has"):
        load_foreign(save(tmp_path / "a.ckpt", content))


def test_something_else_in_the_file(tmp_path):
    with pytest.raises(ModelError, match=r"a\.pt holds one list, expected a state dict"):
        load_foreign(save(tmp_path / "a.pt", [torch.ones(3)]))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "old.pt"])
def test_a_truncated_file(tmp_path, name, share):
    path = tmp_path / name
    if name == "a.safetensors":
        save_file(jql(network()), path)
    else:
        torch.save(jql(network()), path, _use_new_zipfile_serialization=name != "old.pt")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match="cannot be read: .*download it again"):
        load_foreign(path)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_anything(tmp_path, seed):
    path = tmp_path / "a.ckpt"
    path.write_bytes(np.random.default_rng(seed).bytes(200))
    with pytest.raises(ModelError, match=r"a\.ckpt"):
        load_foreign(path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert is_foreign(tmp_path)
    with pytest.raises(ModelError, match=r"has no weights: expected model\.safetensors or .*, found config\.json"):
        load_head(tmp_path)


def test_an_empty_folder(tmp_path):
    assert not is_foreign(tmp_path)
    with pytest.raises(ModelError, match="has no weights: .* found nothing"):
        load_foreign(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_none(tmp_path, content):
    path = folder(tmp_path / "a", network())
    (path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json (cannot be read|must hold an object, found list)"):
        load_foreign(path)


def test_an_embedder_is_no_head(tmp_path):
    state = {f"encoder.{n}.weight": torch.ones(2, 2) for n in range(80)}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="has 80 tensors, a head has a few layers. Is this an embedder"):
        load_foreign(tmp_path)


def test_the_numbers_of_our_own_heads_are_not_read_without_their_meaning(tmp_path):
    layer = Layer(np.ones((1, D), np.float32), np.ones(1, np.float32))
    save_head(Head("binary", ("no", "yes"), (layer,)), tmp_path / "mine")
    with pytest.raises(ModelError, match=f"whose meaning is beside it: name {tmp_path / 'mine'}"):
        load_head(tmp_path / "mine" / "head.safetensors")


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path):
    assert not is_foreign(tmp_path / "a.ckpt")
    with pytest.raises(SourceError, match="no such file"):
        load_foreign(tmp_path / "a.ckpt")
    (tmp_path / "a.txt").write_text("x")
    assert not is_foreign(tmp_path / "a.txt")
    with pytest.raises(ModelError, match=r"a\.txt is no head: expected a folder or a file \*\.ckpt"):
        load_foreign(tmp_path / "a.txt")


def test_a_foreign_head_is_saved_and_read_in_our_format(tmp_path):
    head = load_foreign(folder(tmp_path / "a", network(outputs=2)))
    save_head(head, tmp_path / "ours")
    again = load_head(tmp_path / "ours")
    assert again.about == head.about
    for one, other in zip(head.layers, again.layers, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)


def test_importing_it_does_not_import_torch():
    code = "import sys, data_pipeline.heads.foreign; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
