import json
import logging
import threading
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from support.api import KEY, api_config, expected_vectors

from data_pipeline import ELMDataset
from data_pipeline.config import Config, CorpusConfig, PreprocessConfig, StorageConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import (
    ApiError,
    BudgetSpentError,
    ConfigError,
    ModelError,
    ShardMismatchError,
    StaleStageError,
)
from data_pipeline.stages.embed import embed_split
from data_pipeline.stages.pipeline import embed, prepare_paragraphs, run_pipeline
from data_pipeline.store import ParagraphStore, open_embedding_shard, read_manifest
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.testing import misbehaving_server, simulated_vectors


def config_for(tmp_path, server, shard_rows=1_000_000, **embedding):
    return Config(
        data_dir=tmp_path / "data",
        logs_dir=tmp_path / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60, near_dedup=False),
        storage=StorageConfig(shard_rows=shard_rows),
        embedding=api_config(server.base_url, **embedding),
    )


def texts_of(config, split="train"):
    return ParagraphStore(config.processed_dir).read(split)["text"].to_list()


def vectors_of(config, split="train"):
    folder = config.embeddings_dir
    return np.concatenate([load_file(path)["embeddings"] for path in sorted(folder.glob(f"{split}_*.safetensors"))])


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".lock"}


def test_the_pipeline_embeds_behind_an_api(tmp_path, caplog):
    with misbehaving_server() as server, caplog.at_level(logging.INFO):
        config = config_for(tmp_path, server, shard_rows=20, api={"price_per_million_tokens": 2.0})
        report = run_pipeline(config)
        requests = len(server.embedding_requests)
        again = run_pipeline(config)
        assert len(server.embedding_requests) == requests + 1  # the probe texts
    texts = texts_of(config)
    np.testing.assert_array_equal(vectors_of(config), expected_vectors(texts))
    assert all(result.skipped for result in again.embeddings.values())
    usage = report.to_json()["embeddings"]["train"]["usage"]
    assert usage["calls"] > 5
    assert usage["failed_calls"] == 0
    assert usage["cost"] == pytest.approx(usage["tokens"] * 2e-6)
    lines = [record.getMessage() for record in caplog.records]
    (before,) = [line for line in lines if line.startswith("Embedding train: about")]
    assert " tokens, 0.0" in before
    assert before.endswith(" in cost")
    assert any(line.startswith("train_embeddings-00001-of-") and line.endswith(" in cost") for line in lines)
    assert any(line.startswith(f"Embedding train: {usage['calls']} calls, 0 of them failed, ") for line in lines)


def test_files_say_what_made_them_and_hold_no_address_or_key(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    with misbehaving_server(api_key=KEY) as server:
        config = config_for(tmp_path, server, api={"api_key_env": "EMBEDDER_KEY"})
        run_pipeline(config)
        dataset = ELMDataset(config.data_dir, "test", corpus="sample")
        assert len(dataset) > 0
    with safe_open(config.get_embeddings_path("train"), "numpy") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["revision"], metadata["dim"]) == ("tiny-judge", "api:openai", "64")
    assert len(metadata["probes"]) == 512
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes()
            assert b"127.0.0.1" not in path.read_bytes()
    logs = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert b"EMBEDDER_KEY" in logs
    assert KEY.encode() not in logs


def test_another_address_and_other_limits_change_no_byte(tmp_path):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server, shard_rows=40)
        run_pipeline(config)
        before = content(config.embeddings_dir)
    with misbehaving_server(latency_s=0.01) as server:
        other = config_for(
            tmp_path, server, shard_rows=40, batch_size=3,
            api={"slots": 7, "encoding": "float", "price_per_million_tokens": 1.0, "max_cost": 9.0},
        )  # fmt: skip
        assert all(result.skipped for result in embed(other, ["train", "val", "test"]).embeddings.values())
        embed(other, ["train"], overwrite=True)
        for path in config.embeddings_dir.glob("*"):
            path.unlink()
        embed(other, ["train", "val", "test"])
    assert content(config.embeddings_dir) == before


@pytest.mark.parametrize("fault", ["500", "too_few_vectors", "other_model"])
def test_a_failed_run_keeps_what_was_answered_and_the_next_one_asks_for_the_rest(fault, tmp_path):
    with misbehaving_server([(range(6, 99), fault)]) as server:
        config = config_for(tmp_path, server, batch_size=8)
        prepare_paragraphs(config)
        with pytest.raises(ApiError, match="run the same command again"):
            embed(config, ["train"])
        answered = {text for request in server.embedding_requests[1:6] for text in request.texts}
    assert not config.get_embeddings_path("train").exists()
    with misbehaving_server() as server:
        config = config_for(tmp_path, server, batch_size=8)
        embed(config, ["train"])
        asked = {text for request in server.embedding_requests[1:] for text in request.texts}
    texts = texts_of(config)
    assert asked == set(texts) - answered
    np.testing.assert_array_equal(vectors_of(config), expected_vectors(texts))


def test_a_text_that_the_server_refuses_is_named_by_its_id(tmp_path):
    refused = []
    with misbehaving_server([(lambda _, text: any(part in text for part in refused), "400")]) as server:
        config = config_for(tmp_path, server)
        prepare_paragraphs(config)
        refused.append(texts_of(config)[7])
        with pytest.raises(ModelError, match=r"has about \d+ tokens, and the server refuses it: HTTP 400") as caught:
            embed(config, ["train"])
    assert str(caught.value).split()[0] == ParagraphStore(config.processed_dir).read("train")["text_id"][7]


def test_a_run_that_would_cost_too_much_sends_no_text(tmp_path):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server, api={"price_per_million_tokens": 100.0, "max_cost": 0.01})
        prepare_paragraphs(config)
        with pytest.raises(
            BudgetSpentError, match=r"max_cost: Embedding train is estimated to cost .* No text was sent"
        ):
            embed(config, ["train"])
        assert len(server.embedding_requests) == 1


def test_a_stopped_budget_resumes(tmp_path):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server, batch_size=8, api={"max_calls": 4})
        prepare_paragraphs(config)
        runs = 0
        while True:
            try:
                embed(config, ["train"])
                break
            except BudgetSpentError:
                runs += 1
        texts = texts_of(config)
        assert runs == -(-len(set(texts)) // 8) // 4
        sent = [text for request in server.embedding_requests for text in request.texts if request.number]
        assert len([text for text in sent if text in set(texts)]) == len(set(texts))
    np.testing.assert_array_equal(vectors_of(config), expected_vectors(texts))


def test_slots_work_on_the_next_shard_while_one_waits_for_its_last_answer(tmp_path):
    slow, finished_at = [], []

    def embed_slowly(texts):
        if slow and slow[0] in texts:
            time.sleep(1.5)
            finished_at.append(time.monotonic())
        return simulated_vectors(texts)

    with misbehaving_server(embed=embed_slowly) as server:
        config = config_for(tmp_path, server, shard_rows=16, batch_size=2)
        prepare_paragraphs(config)
        texts = texts_of(config)
        slow.append(texts[3])
        embed(config, ["train"])
        early = [request.texts for request in server.embedding_requests if request.at_s < finished_at[0]]
        assert server.most_at_once <= 4
    assert set(texts[:32]) <= {text for some in early for text in some}
    np.testing.assert_array_equal(vectors_of(config), expected_vectors(texts))


def test_one_failing_shard_stops_the_others(tmp_path):
    with misbehaving_server([(range(4, 999), "500")], latency_s=0.01) as server:
        config = config_for(tmp_path, server, shard_rows=16, batch_size=2, api={"tries": 2})
        prepare_paragraphs(config)
        with pytest.raises(ApiError, match=r"HTTP 500.*\(2 tries\)"):
            embed(config, ["train"])
        assert len(server.embedding_requests) < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("task", "embed"))]


def another_model(texts):
    return simulated_vectors(texts, "another")


def test_a_model_changed_behind_its_name_is_refused(tmp_path):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server)
        run_pipeline(config)
        server.embed = another_model
        message = r"the model 'tiny-judge' \(api:openai\) was changed behind its name: .*manifest.json have the sketch"
        for split in ("train", "val"):
            with pytest.raises(StaleStageError, match=message):
                embed(config, [split])
        (config.embeddings_dir / "manifest.json").unlink()  # killed before the manifest: the files still say it
        with pytest.raises(StaleStageError, match="was changed behind its name"):
            embed(config, ["train"])
        embed(config, ["train", "val", "test"], overwrite=True)
    np.testing.assert_array_equal(vectors_of(config), expected_vectors(texts_of(config), model="another"))


def test_unfinished_work_of_a_model_that_changed_is_refused(tmp_path):
    with misbehaving_server([(range(6, 99), "500")]) as server:
        config = config_for(tmp_path, server, batch_size=8)
        prepare_paragraphs(config)
        with pytest.raises(ApiError):
            embed(config, ["train"])
    with misbehaving_server(embed=another_model) as server:
        config = config_for(tmp_path, server, batch_size=8)
        with pytest.raises(StaleStageError, match=r"was changed behind its name.*\.partial have the sketch"):
            embed(config, ["train"])
        assert len(server.embedding_requests) == 1


@pytest.mark.parametrize("quirk", ["noisy", "half_precision_noise"])
def test_rounding_of_the_server_is_no_other_model(quirk, tmp_path, monkeypatch):
    with misbehaving_server([(range(6, 99), "500")], quirks=[quirk]) as server:
        config = config_for(tmp_path, server, batch_size=8)
        prepare_paragraphs(config)
        with pytest.raises(ApiError):
            embed(config, ["train"])
    # Another number of requests before it, so other noise.
    with misbehaving_server(quirks=[quirk]) as server:
        load_embedder(config.embedding.model_copy(update={"api": api_config(server.base_url).api}))
        config = config_for(tmp_path, server, batch_size=8)
        embed(config, ["train"])
        assert len(server.embedding_requests) < 2 + len(texts_of(config)) // 8
        embed(config, ["val", "test"])
        assert all(result.skipped for result in embed(config, ["train", "val", "test"]).embeddings.values())
        settings = [
            entry["settings"] for entry in read_manifest(config.embeddings_dir, EmbeddingManifest)["splits"].values()
        ]
        assert len({entry["probes"] for entry in settings}) == 1
        assert load_embedder(config.embedding).identity.probes != settings[0]["probes"]
        monkeypatch.setenv("ELM_EMBEDDING__API__BASE_URL", server.base_url)
        assert ELMDataset(config.data_dir, "val", corpus="sample").verify("reembed")
        load_maker(open_embedding_shard(config.get_embeddings_path("val")))


def test_queries_are_embedded_by_the_server_of_the_environment(tmp_path, monkeypatch):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server, api={"provider": "voyage"}, dim=48)
        run_pipeline(config)
        dataset = ELMDataset(config.data_dir, "train", corpus="sample")
        with pytest.raises(ConfigError, match=r"ELM_EMBEDDING__API__BASE_URL"):
            dataset.search("a ship in the fog")
        monkeypatch.setenv("ELM_EMBEDDING__API__BASE_URL", server.base_url)
        monkeypatch.setenv("ELM_EMBEDDING__QUERY_PROMPT", "find: ")
        (best, *_) = dataset.search(dataset[3]["text"])
        assert best["index"] == 3
        assert server.embedding_requests[-1].texts == ["find: " + dataset[3]["text"]]
        assert server.embedding_requests[-1].body["input_type"] == "query"
        server.embed = another_model
        with pytest.raises(ShardMismatchError, match=r"were made with probes '[0-9a-f]{12}'"):
            ELMDataset(config.data_dir, "train", corpus="sample").search("a ship")


def test_counts_of_the_paragraphs_are_those_of_the_requests(tmp_path):
    with misbehaving_server() as server:
        config = config_for(tmp_path, server)
        prepare_paragraphs(config)
        store = ParagraphStore(config.processed_dir)
        frame = store.read("train")
        embedder = load_embedder(config.embedding)
        tokens = embedder.tokenize(frame["text"].to_list())
        assert tokens.lengths.tolist() == frame["token_count"].to_list()
        assert store.manifest["settings"]["tokenizer"] == embedder.identity.tokenizer
        result = embed_split(store, "test", embedder, config.embedding, config.embeddings_dir)
        assert result.rows == len(encode(embedder, texts_of(config, "test")))
    assert json.loads((config.embeddings_dir / "manifest.json").read_text())["splits"]["test"]["rows"] == result.rows
