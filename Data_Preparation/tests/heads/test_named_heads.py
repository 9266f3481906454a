"""Published heads, from a hub on this machine."""

import io

import pytest
import torch
from support.hub_server import COMMIT, in_process, serve

from data_pipeline.errors import SourceError, WrongEmbedderError
from data_pipeline.heads.identity import FIELDS, EmbedderIdentity, check_identity
from data_pipeline.heads.named import DEFAULT_EMBEDDER, NAMED_HEADS, load_named

REPO = "JQL-AI/JQL-Edu-Heads"
GEMMA = "checkpoints/edu-gemma-snowflake-balanced.ckpt"
LLAMA = "checkpoints/edu-llama-snowflake-balanced.ckpt"


def checkpoint(dim, value=0.5, hidden=4):
    content = {
        "pytorch-lightning_version": "2.5.1",
        "hyper_parameters": {"input_dim": dim, "hidden_dim": hidden, "learning_rate": 1e-3},
        "state_dict": {
            "layer1.weight": torch.full((hidden, dim), value), "layer1.bias": torch.zeros(hidden),
            "layer2.weight": torch.ones(1, hidden), "layer2.bias": torch.ones(1),
        },
    }  # fmt: skip
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


FILES = {GEMMA: checkpoint(768), LLAMA: checkpoint(384)}  # and no Mistral


@pytest.fixture(scope="module")
def hub():
    with serve(REPO, FILES) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(hub):
    return hub.url


LOAD = """
import json, sys
from data_pipeline.heads.files import load_head
from data_pipeline.errors import DataPipelineError
try:
    head = load_head(sys.argv[1])
    assert load_head(sys.argv[1]) is head
    print(json.dumps({
        "about": dict(head.about), "embedder": dict(head.embedder.settings), "labels": list(head.labels),
        "kind": head.kind, "dim": head.dim, "weight": head.layers[0].weight.tolist()[0][:2],
    }))
except DataPipelineError as error:
    print(json.dumps({"error": str(error), "kind": type(error).__name__}))
"""


def load(endpoint, home, name, offline=False):
    return in_process(LOAD, endpoint, home, name, offline=offline)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture(scope="module")
def gemma(endpoint, home):
    return load(endpoint, home, "Edu-JQL-Gemma-SF")


def test_the_default_heads_of_jql():
    assert {name: (head.repo, head.file) for name, head in NAMED_HEADS.items()} == {
        "Edu-JQL-Gemma-SF": (REPO, GEMMA),
        "Edu-JQL-Mistral-SF": (REPO, "checkpoints/edu-mistral-snowflake-balanced.ckpt"),
        "Edu-JQL-Llama-SF": (REPO, LLAMA),
    }
    assert DEFAULT_EMBEDDER == "Snowflake/snowflake-arctic-embed-m-v2.0"
    assert all(set(head.embedder) <= set(FIELDS) for head in NAMED_HEADS.values())


def test_a_named_head_is_downloaded_and_bound_to_its_embedder(gemma, hub):
    assert gemma["about"] == {
        "source": "edu-gemma-snowflake-balanced.ckpt", "format": "lightning", "name": "Edu-JQL-Gemma-SF",
        "repo": REPO, "file": GEMMA, "revision": COMMIT,
    }  # fmt: skip
    assert gemma["embedder"] == {
        "model": DEFAULT_EMBEDDER, "pooling": "cls", "normalized": "true", "max_length": "8192", "dim": "768",
    }  # fmt: skip
    assert (gemma["kind"], gemma["labels"], gemma["dim"], gemma["weight"]) == ("regression", ["score"], 768, [0.5, 0.5])
    assert f"GET /{REPO}/resolve/main/{GEMMA}" in hub.log


def test_offline_it_comes_from_the_cache_with_the_same_record(gemma, endpoint, home, hub):
    asked = len(hub.log)
    assert load(endpoint, home, "Edu-JQL-Gemma-SF", offline=True) == gemma
    assert len(hub.log) == asked


def test_a_second_process_asks_for_the_commit_alone(gemma, endpoint, home, hub):
    asked = len(hub.log)
    assert load(endpoint, home, "Edu-JQL-Gemma-SF") == gemma
    assert not any(line.startswith("GET") and "resolve" in line for line in hub.log[asked:])


def test_offline_without_a_cache_is_an_error_with_the_ways_out(endpoint, tmp_path):
    found = load(endpoint, tmp_path, "Edu-JQL-Gemma-SF", offline=True)
    assert found["kind"] == "SourceError"
    assert f"could not download the head {GEMMA} of {REPO}" in found["error"]
    assert "HF_HUB_OFFLINE=1" in found["error"]
    assert "give its path instead" in found["error"]


def test_a_hub_that_cannot_be_reached_is_an_error_with_the_ways_out(tmp_path):
    found = load("http://127.0.0.1:9", tmp_path, "Edu-JQL-Gemma-SF")
    assert found["kind"] == "SourceError"
    assert "cannot reach the hub at http://127.0.0.1:9" in found["error"]
    assert "set HF_ENDPOINT to a mirror" in found["error"]


def test_a_file_that_the_hub_has_not(endpoint, tmp_path):
    found = load(endpoint, tmp_path, "Edu-JQL-Mistral-SF")
    assert found["kind"] == "SourceError"
    assert "could not download the head checkpoints/edu-mistral-snowflake-balanced.ckpt" in found["error"]


def test_a_file_that_is_another_head(endpoint, tmp_path):
    found = load(endpoint, tmp_path, "Edu-JQL-Llama-SF")
    assert found["kind"] == "ModelError"
    assert "takes vectors of 384 dimensions" in found["error"]
    assert "this is not the head Edu-JQL-Llama-SF" in found["error"]


def test_an_unknown_name():
    with pytest.raises(SourceError, match="no head is called 'Edu'; expected one of Edu-JQL-Gemma-SF, "):
        load_named("Edu")


def test_a_named_head_refuses_vectors_of_another_model():
    bound = EmbedderIdentity(NAMED_HEADS["Edu-JQL-Gemma-SF"].embedder)
    same = {**bound.settings, "revision": "abc", "dtype": "float16"}
    check_identity("edu", bound, 768, same, "here")
    for change in ({"model": "Alibaba-NLP/gte-multilingual-base"}, {"pooling": "mean"}, {"max_length": "512"}):
        with pytest.raises(WrongEmbedderError):
            check_identity("edu", bound, 768, same | change, "here")
