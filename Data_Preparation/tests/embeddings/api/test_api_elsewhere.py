"""Other places that embed: vectors of passages, the command line, the preflight, the fingerprint."""

import logging

import numpy as np
import pytest
from support.api import KEY, api_config, expected_vectors

from data_pipeline.cli import main
from data_pipeline.config import EmbeddingConfig
from data_pipeline.config.load import load_config
from data_pipeline.embeddings import load_embedder
from data_pipeline.errors import ApiError, FilesFailedError, ShardMismatchError
from data_pipeline.machine import preflight
from data_pipeline.retrieval.passage_vectors import vectors_of
from data_pipeline.retrieval.passages import passages_of_lists
from data_pipeline.testing import misbehaving_server, simulated_vectors

TEXTS = [f"passage number {number} of thirty" for number in range(30)]


def passages():
    return passages_of_lists([*map(str, range(30)), "empty"], [*TEXTS, ""])


def test_vectors_of_passages_are_computed_once_and_resume(tmp_path):
    settings = {"batch_size": 5, "flush_s": 1e-9}
    with misbehaving_server([(range(4, 99), "500")], quirks=["noisy"]) as server, pytest.raises(ApiError):
        vectors_of(passages(), tmp_path, api_config(server.base_url, **settings))
    with misbehaving_server(quirks=["noisy"]) as server:
        config = api_config(server.base_url, **settings)
        load_embedder(config)  # another number of the requests that follow, so other noise
        vectors = vectors_of(passages(), tmp_path, config)
        assert len(server.embedding_requests) == 2 + 3  # the probe texts twice
        vectors_of(passages(), tmp_path, config)
        assert len(server.embedding_requests) == 2 + 3 + 1
        np.testing.assert_allclose(vectors.read(np.arange(30)), expected_vectors(TEXTS), atol=1e-5)
        np.testing.assert_array_equal(vectors.read(np.array([30])), np.zeros((1, 64)))
        server.embed = lambda texts: simulated_vectors(texts, "another")
        with pytest.raises(ShardMismatchError, match=r"made with probes [0-9a-f]{12}.*changed behind its name"):
            vectors_of(passages(), tmp_path, config)


@pytest.mark.usefixtures("clean_logging")
def test_file_pipelines_resume_where_a_server_rounds_otherwise(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs the extra annotation")
    from support.file_jobs import embedding_job, write_lines

    from data_pipeline.integrations.ml_filter import run_embedding_pipeline

    write_lines(tmp_path / "in" / "a.jsonl", [{"id": str(row), "text": text} for row, text in enumerate(TEXTS)])

    def job(server):
        api = api_config(server.base_url).api.model_dump(exclude_defaults=True)
        embedder = {"backend": "api", "api": api}
        return embedding_job(
            tmp_path, embedding_model="tiny-judge", embedder=embedder, batch_size=5, writer_batch_size=5
        )

    with misbehaving_server([(range(4, 99), "500")], quirks=["noisy"]) as server:
        with pytest.raises(FilesFailedError, match="no failure became a vector"):
            run_embedding_pipeline(job(server))
        assert len(server.embedding_requests) > 4
    with misbehaving_server(quirks=["noisy"]) as server:
        load_embedder(api_config(server.base_url))
        run_embedding_pipeline(job(server))
        assert len(server.embedding_requests) == 2 + 3
        run_embedding_pipeline(job(server))
        assert len(server.embedding_requests) <= 2 + 3 + 1
    with h5py.File(tmp_path / "out" / "embeddings" / "a.h5", "r") as file:
        np.testing.assert_allclose(file["train"]["embeddings"][:], expected_vectors(TEXTS), atol=1e-5)


@pytest.mark.usefixtures("clean_logging")
def test_the_command_line_has_a_flag_for_every_setting_of_the_calls(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    flags = [
        "--corpus.source", "sample", "--data_dir", tmp_path / "data", "--logs_dir", tmp_path / "logs",
        "--preprocess.min_tokens", "60", "--preset", "offline", "--embedding.weights", "hub",
        "--embedding.backend", "api", "--model-name", "tiny-judge",
        "--embedding.api.slots", "3", "--embedding.api.api_key_env", "EMBEDDER_KEY", "--embedding.max_length", "null",
        "--embedding.api.price_per_million_tokens", "1",
    ]  # fmt: skip
    with misbehaving_server(api_key=KEY) as server:
        flags += ["--embedding.api.base_url", server.base_url]
        assert main([str(flag) for flag in ["run", *flags]]) == 0
        assert server.most_at_once <= 3
        capsys.readouterr()
        assert main([str(flag) for flag in ["embed", *flags, "--overwrite", "--embedding.api.max_calls", "0"]]) == 0
    with misbehaving_server([(range(1, 99), "500")], api_key=KEY) as server:
        flags += ["--embedding.api.base_url", server.base_url, "--embedding.api.backoff_s", "0.01"]
        flags += ["--embedding.variant", "other", "--embedding.api.tries", "2"]
        assert main([str(flag) for flag in ["embed", *flags]]) == 1
    errors = capsys.readouterr().err
    assert "no failure became a vector" in errors
    assert "Traceback" not in errors
    assert KEY not in errors
    logs = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert KEY.encode() not in logs


def test_a_key_that_is_missing_is_found_before_the_run(monkeypatch):
    monkeypatch.delenv("EMBEDDER_KEY", raising=False)
    flags = {"embedding.backend": "api", "embedding.model_name": "m", "embedding.api.api_key_env": "EMBEDDER_KEY"}
    config = load_config(None, {"corpus.source": "sample", **flags})
    (problem,) = preflight(config, corpus=True, tokenizer=True, weights=True)
    assert "embedding.api.api_key_env: the environment variable EMBEDDER_KEY is not set" in problem
    assert preflight(config, corpus=True, tokenizer=True, weights=False) == []


def test_how_calls_are_made_is_in_no_fingerprint():
    plain = EmbeddingConfig()
    assert "api" not in plain.deciding()
    calls = {"base_url": "http://h/v1", "api_key_env": "X", "slots": 2, "tries": 9, "max_calls": 3, "encoding": "float"}
    assert plain.model_copy(update={"api": api_config(api=calls).api}).deciding() == plain.deciding()
    assert api_config(api={"provider": "voyage"}).deciding() != api_config().deciding()


def test_the_full_address_of_the_embeddings_is_accepted():
    for address in (
        "http://h/v1",
        "http://h/v1/",
        "http://h/v1/embeddings",
        "http://h/v1/embeddings/",
        "http://h/v1/embed",
    ):
        assert api_config(address).api.base_url == "http://h/v1"


def test_nothing_is_logged_about_a_model_that_runs_here(caplog):
    with caplog.at_level(logging.INFO):
        load_embedder(EmbeddingConfig(model_name="hashing"))
    assert caplog.text == ""
