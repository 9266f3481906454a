"""The older system's base.yaml is understood, and each of its keys takes effect."""

import json

import pytest
import yaml

from data_pipeline.cli import main
from data_pipeline.config.labels import LabelConfig
from data_pipeline.errors import ConfigError
from data_pipeline.integrations import auto_qrels_config as older_config
from data_pipeline.integrations.auto_qrels_config import from_older, is_older

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')

# The keys of that file, each with a value of its own.
OLDER = {
    "dataset": {
        "name": "wiki",
        "corpus": {"name": "someone/corpus", "split": "validation", "text_field": "body", "id_field": "page"},
        "queries": {"name": "someone/queries", "split": "test", "text_field": "question", "id_field": "number"},
    },
    "paths": {
        "prepared_dir": "x/prepared", "hf_cache_dir": "x/cache", "passages_dir": "x/passages",
        "indexes_dir": "x/indexes",
    },
    "corpus": {"passage_tokens": 150, "passage_stride": 70},
    "bm25": {"k1": 1.1, "b": 0.3},
    "dense": {"model_name": "someone/encoder", "device": "mps", "batch_size": 7},
    "llm": {
        "base_url": "http://127.0.0.1:8081/v1/chat/completions", "model": "small", "timeout": 12.5, "max_concurrent": 9
    },
    "agent": {
        "global_top_k_bm25": 120, "bm25_score_percentile": 0.25, "dense_top_k_from_bm25": 60,
        "llm_candidates_top_k": 45, "llm_conf_threshold": 0.8, "positives_max": 4, "hard_negatives_per_query": 6,
        "min_passage_tokens": 40, "max_passages_per_page": 3, "checkpoint_dir": "x/checkpoints",
        "checkpoint_interval": 10, "max_queries": 11,
    },
    "output": {"qrels_path": "x/qrels.tsv", "triples_path": "x/triples.jsonl"},
    "logging": {"log_dir": "x/logs", "level": "WARNING", "log_file": "agent.log"},
    "huggingface": {"auto_push": True, "repo_id": "someone/labels", "token": "${MY_TOKEN}", "private": False},
}  # fmt: skip


def made(content):
    return LabelConfig.model_validate(from_older(content))


def changed(key, value):
    content = json.loads(json.dumps(OLDER))
    *sections, name = key.split(".")
    place = content
    for section in sections:
        place = place[section]
    if value is None:
        del place[name]
    else:
        place[name] = value
    return content


def keys(content, prefix=""):
    for name, value in content.items():
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]


def test_every_key_has_its_place():
    config = made(OLDER)
    assert config.run == "wiki"
    passages = config.passages
    assert (passages.source, passages.hub.name, passages.hub.split) == ("documents", "someone/corpus", "validation")
    assert (passages.text_field, passages.id_field) == ("body", "page")
    assert (passages.window_tokens, passages.stride_tokens, passages.min_tokens) == (150, 70, 40)
    queries = config.queries
    assert (queries.source, queries.hub.name, queries.hub.split, queries.max_queries) == (
        "hub", "someone/queries", "test", 11,
    )  # fmt: skip
    assert (queries.text_field, queries.id_field) == ("question", "number")
    assert str(passages.hub.cache_dir) == str(queries.hub.cache_dir) == "x/cache"
    found = config.candidates
    assert (found.fusion, found.k1, found.b) == ("bm25_then_dense", 1.1, 0.3)
    assert (found.bm25_k, found.bm25_percentile, found.top_k) == (120, 0.25, 60)
    assert found.embedding is not None
    assert (found.embedding.model_name, found.embedding.device, found.embedding.batch_size) == (
        "someone/encoder", "mps", 7,
    )  # fmt: skip
    judge = config.judge
    assert (judge.base_url, judge.model, judge.timeout_s, judge.slots) == ("http://127.0.0.1:8081/v1", "small", 12.5, 9)
    assert judge.flush_answers == 250
    assert (config.rerank.model, config.rerank.top_k) == ("cross-encoder/ms-marco-MiniLM-L-6-v2", 45)
    assert [(part.first, part.last, part.take) for part in config.sampling.strata] == [
        (1, 10, 10), (11, 30, 10), (31, 45, 5),
    ]  # fmt: skip
    assert (config.positives.min_p, config.positives.per_query, config.negatives.per_query) == (0.8, 4, 6)
    assert config.sampling.per_document == 3
    assert str(config.state_path) == "x/checkpoints/state.sqlite"
    assert [str(path) for path in (config.records_dir, config.passages_dir, config.indexes_dir)] == [
        "x/prepared", "x/passages", "x/indexes",
    ]  # fmt: skip
    assert (str(config.output.qrels_path), str(config.output.triples_path)) == ("x/qrels.tsv", "x/triples.jsonl")
    assert (config.logging.level, str(config.logging.file)) == ("WARNING", "x/logs/agent.log")
    assert (config.push.repo_id, config.push.private, config.push.token_env) == ("someone/labels", False, "MY_TOKEN")


@pytest.mark.parametrize("key", list(keys(OLDER)))
def test_no_key_is_read_and_ignored(key):
    try:
        other = made(changed(key, None))
    except ValueError:
        return  # without it there is no data set
    assert other != made(OLDER)


def test_a_table_of_places_names_knobs_that_there_are():
    for place in older_config._PLACES.values():
        model = LabelConfig
        *sections, name = place.split(".")
        for section in sections:
            annotation = model.model_fields[section].annotation
            parts = (annotation, *getattr(annotation, "__args__", ()))
            model = next(part for part in parts if hasattr(part, "model_fields"))
        assert name in model.model_fields


def test_nothing_is_sent_unless_the_file_says_so():
    assert made(changed("huggingface.auto_push", False)).push.repo_id is None
    assert made(changed("huggingface.auto_push", None)).push.repo_id is None
    assert made(changed("huggingface.private", None)).push.private


def test_a_token_in_the_file_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="does not belong in a file") as caught:
        from_older(changed("huggingface.token", "hf_abcdefgh"))
    assert "hf_abcdefgh" not in str(caught.value)


def test_strangers_are_named():
    with pytest.raises(ConfigError, match=r"agent\.speed: no key of the older base\.yaml"):
        from_older({**OLDER, "agent": {"speed": 3}})
    with pytest.raises(ConfigError, match=r"candidates\.k1: .*do not mix"):
        from_older({**OLDER, "candidates": {"k1": 3}})


def test_ours_is_not_taken_for_it():
    assert not is_older({"queries": {"source": "sample"}, "output": {"beir": True}, "logging": {"level": "INFO"}})
    assert is_older({"llm": {}})


def test_the_command_takes_it(tmp_path, monkeypatch, clean_logging):
    seen = []

    def stop(config):
        seen.append(config)
        raise ConfigError("far enough")

    monkeypatch.setattr("data_pipeline.execution.labels.make_weak_labels", stop)
    content = changed("logging.log_dir", str(tmp_path / "logs"))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content))
    assert main(["label", "--config", str(tmp_path / "base.yaml")]) == 2
    assert seen[0].run == "wiki"
    assert (tmp_path / "logs" / "agent.log").exists()
