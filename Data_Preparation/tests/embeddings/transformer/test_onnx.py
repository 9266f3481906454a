"""ONNX Runtime on an export of a small model, beside torch."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_families import TEXTS, write_family

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.errors import ConfigError, ModelError

pytest.importorskip("onnxruntime", reason='needs the extra "onnx"')


class States(torch.nn.Module):
    def __init__(self, model, types):
        super().__init__()
        self.model, self.types = model, types

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        more = {"token_type_ids": token_type_ids} if self.types else {}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state


def export(folder, types=False, output="last_hidden_state"):
    """Write onnx/model.onnx as the makers of models do."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    example = tuple(torch.ones(2, 9, dtype=torch.long) for _ in names)
    axes = {name: {0: "texts", 1: "tokens"} for name in [*names, output]}
    (folder / "onnx").mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            States(model, types), example, folder / "onnx" / "model.onnx", input_names=names, output_names=[output],
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_family("bert, cls and Dense (LaBSE)", folder)
    export(folder)
    return folder


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), device="cpu", **config))


@pytest.mark.parametrize("types", [False, True])
def test_an_export_gives_the_vectors_of_torch(folder, types):
    export(folder, types)
    embedder = load(folder, backend="onnx", threads=1)
    assert (embedder.runtime.attention, embedder.runtime.padded) == ("onnx", True)
    np.testing.assert_allclose(encode(embedder, TEXTS), encode(load(folder), TEXTS), atol=1e-5)


def test_an_export_of_another_model_is_noticed(tmp_path):
    write_family("bert, mean (MiniLM)", tmp_path)
    export(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    weights["embeddings.word_embeddings.weight"] *= -1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="embedding.backend onnx is not correct for this model"):
        load(tmp_path, backend="onnx")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ModelError, r"has no onnx/model.onnx. Export the model with optimum-cli export onnx"),
        ({"dtype": "bfloat16"}, ConfigError, "computes in float32 on a CPU, not in bfloat16 on cpu"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path, settings, error, message):
    write_family("bert, mean (MiniLM)", tmp_path)
    with pytest.raises(error, match=message):
        load(tmp_path, backend="onnx", **settings)


def test_a_file_that_is_no_export_of_an_encoder_is_refused(folder, tmp_path):
    write_family("bert, mean (MiniLM)", tmp_path)
    export(tmp_path, output="logits")
    with pytest.raises(ModelError, match="and the outputs logits; expected those of an encoder"):
        load(tmp_path, backend="onnx")
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model.onnx cannot be loaded"):
        load(tmp_path, backend="onnx")
