"""Datasets whose data folder is at a URL: the files of a local run, another machine, growth, faults of the network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.faulty_store import Faults, bad_network
from support.object_store import s3_at
from support.published import config_at, local_files, remote_files, write_corpus

import data_pipeline
from data_pipeline import ELMDataset
from data_pipeline.errors import ConfigError, CorruptShardError, NotFoundError, StoreError
from data_pipeline.execution.run import append_documents
from data_pipeline.execution.upkeep import remove_garbage, roll_back
from data_pipeline.heads.model import Head, Layer
from data_pipeline.working_copy import opened


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path, 120)


@pytest.fixture
def expected(corpus, tmp_path):
    """Files of a run at a URL of a folder."""
    config = config_at(tmp_path / "mine", corpus, tmp_path / "cache", data_url=f"file://{tmp_path}/expected")
    data_pipeline.run(config)
    return local_files(config.data_dir)


def test_a_run_at_a_url_publishes_the_files_of_a_local_run(s3, bucket, corpus, expected, tmp_path):
    data_pipeline.run(config_at(tmp_path / "local", corpus, tmp_path / "cache"))
    local = local_files(tmp_path / "local")
    changed = {name for name in expected.keys() | local.keys() if expected.get(name) != local.get(name)}
    assert changed == {"grown_processed/.documents.arrow"}  # which names the source, by a path relative to the folder
    config = config_at(f"s3://{bucket}/data/", corpus, tmp_path / "here")
    report = data_pipeline.run(config)
    assert report.embeddings["train"].rows > 60
    assert remote_files(s3, f"{bucket}/data") == expected
    assert local_files(config.data_dir) == expected
    dataset = ELMDataset(f"s3://{bucket}/data", cache_dir=tmp_path / "reader")
    assert dataset[5]["text"] == ELMDataset(tmp_path / "local")[5]["text"]
    assert config.data_dir.parent == tmp_path / "here" / "working_copies"
    assert config.logs_dir == config.data_dir / "logs"


def test_the_same_run_again_transfers_nothing(s3, bucket, corpus, tmp_path):
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    data_pipeline.run(config)
    before = {name: info["LastModified"] for name, info in s3.find(bucket, detail=True).items()}
    report = data_pipeline.run(config)
    assert report.preprocess_skipped
    assert all(result.skipped for result in report.embeddings.values())
    s3.invalidate_cache()
    assert {name: info["LastModified"] for name, info in s3.find(bucket, detail=True).items()} == before


def test_another_machine_goes_on_with_what_is_at_the_url(s3, bucket, corpus, expected, tmp_path):
    url = f"s3://{bucket}/data"
    data_pipeline.run(config_at(url, corpus, tmp_path / "here"), skip_embeddings=True)
    there = config_at(url, corpus, tmp_path / "there")
    report = data_pipeline.run(there)
    assert report.preprocess_skipped
    assert remote_files(s3, f"{bucket}/data") == local_files(there.data_dir) == expected
    layer = Layer(np.full((1, 256), 0.1, np.float32), np.zeros(1, np.float32))
    data_pipeline.annotate(there, {"quality": Head("regression", ("score",), (layer,))})
    here = config_at(url, corpus, tmp_path / "here")
    assert "quality" in ELMDataset(config=here, scores=["quality"])[0]["metadata"]
    assert remote_files(s3, f"{bucket}/data") == local_files(here.data_dir)


def test_versions_are_published_and_removed_with_those_here(s3, bucket, corpus, tmp_path):
    url, more = f"s3://{bucket}/data", write_corpus(tmp_path, 40, 120)
    config = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(config)
    append_documents(config_at(url, more, tmp_path / "here"))
    assert remote_files(s3, f"{bucket}/data") == local_files(config.data_dir)
    assert any(".versions/0001/" in name for name in local_files(config.data_dir))
    elsewhere = config_at(url, more, tmp_path / "there")
    assert roll_back(elsewhere, 1) == 3
    assert remote_files(s3, f"{bucket}/data") == local_files(elsewhere.data_dir)
    assert remove_garbage(config, 0) > 0
    found = remote_files(s3, f"{bucket}/data")
    assert found == local_files(config.data_dir)
    assert not any(".versions" in name for name in found)
    rows = len(ELMDataset(url, cache_dir=tmp_path / "reader"))
    assert rows == len(ELMDataset(config=elsewhere))


def test_a_link_to_a_published_file_is_copied_there_and_not_sent_again(s3, bucket, corpus, tmp_path, monkeypatch):
    url, sent = f"s3://{bucket}/data", []
    config = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(config)
    put = opened.RemoteObjects.put

    def put_and_note(self, path, name):
        sent.append(name)
        return put(self, path, name)

    monkeypatch.setattr(opened.RemoteObjects, "put", put_and_note)
    append_documents(config_at(url, write_corpus(tmp_path, 40, 120), tmp_path / "here"))
    assert sent
    assert not [name for name in sent if ".versions" in name]
    assert remote_files(s3, f"{bucket}/data") == local_files(config.data_dir)


def test_a_bad_network_changes_nothing(s3, s3_url, bucket, corpus, expected, tmp_path):
    faults = Faults(error=0.1, lost=0.05, cut=0.1, slow=0.05, shuffled=True)
    with bad_network(s3_url, faults) as url, s3_at(url):
        config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
        data_pipeline.run(config)
        other = config_at(f"s3://{bucket}/data", corpus, tmp_path / "there")
        assert data_pipeline.run(other).preprocess_skipped
    assert min(faults.seen[name] for name in ("error", "lost", "cut", "slow")) > 0
    assert remote_files(s3, f"{bucket}/data") == expected
    assert local_files(config.data_dir) == local_files(other.data_dir) == expected
    assert not s3.exists(f"{bucket}/data/.writer.json")


def test_a_network_that_ends_ends_the_run_and_the_next_one_goes_on(
    s3, s3_url, bucket, corpus, expected, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    faults = Faults()
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    with bad_network(s3_url, faults) as url, s3_at(url):
        data_pipeline.run(config, skip_embeddings=True)
        published = opened.Publisher.publish

        def publish_and_break(self):
            published(self)
            faults.error = 1.0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opened.Publisher, "publish", publish_and_break)
            with pytest.raises(StoreError, match=rf"s3://{bucket}/data/.* cannot be"):
                data_pipeline.run(config)
    left = remote_files(s3, f"{bucket}/data")
    assert "grown_processed/manifest.json" in left
    assert "embeddings/manifest.json" not in left
    data_pipeline.run(config)
    assert remote_files(s3, f"{bucket}/data") == expected


def test_a_publication_that_ended_before_its_manifests_is_finished(s3, bucket, corpus, tmp_path, monkeypatch):
    url, more = f"s3://{bucket}/data", write_corpus(tmp_path, 40, 120)
    config = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(config)
    state, write = (config.data_dir / ".published.json").read_bytes(), opened.RemoteObjects.write

    def fail(self, name, content):
        if name == "grown_processed/manifest.json":
            raise StoreError("the network ends")
        return write(self, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.RemoteObjects, "write", fail)
        with pytest.raises(StoreError, match="the network ends"):
            append_documents(config_at(url, more, tmp_path / "here"))
    (config.data_dir / ".published.json").write_bytes(state)  # as if it had been killed before it was written
    before = local_files(config.data_dir)
    with pytest.raises(NotFoundError, match="No paragraphs"):
        ELMDataset(url, cache_dir=tmp_path / "reader")
    append_documents(config_at(url, more, tmp_path / "here"))
    assert remote_files(s3, f"{bucket}/data") == local_files(config.data_dir) == before


def test_files_that_an_unpublished_run_removed_do_not_come_back(s3, bucket, corpus, tmp_path):
    url, fewer = f"s3://{bucket}/data", write_corpus(tmp_path, 30, 500)
    config = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(config)
    other = config_at(url, fewer, tmp_path / "here")

    def fail(self, name, content):
        raise StoreError("the network ends")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened.RemoteObjects, "write", fail)
        with pytest.raises(StoreError, match="the network ends"):
            data_pipeline.run(other, overwrite=True)
    data_pipeline.run(other, overwrite=True)
    found = remote_files(s3, f"{bucket}/data")
    assert found == local_files(config.data_dir)
    assert len([name for name in found if name.startswith("grown_processed/train")]) == 2


def test_a_file_that_a_user_lost_is_fetched_again_and_not_removed_there(s3, bucket, corpus, tmp_path):
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    data_pipeline.run(config)
    before = remote_files(s3, f"{bucket}/data")
    for path in config.embeddings_dir.glob("train*"):
        path.unlink()
    data_pipeline.run(config)
    assert remote_files(s3, f"{bucket}/data") == local_files(config.data_dir) == before


def test_finished_files_are_published_while_a_stage_is_at_work(s3, bucket, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "_EVERY_S", 0.01)
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    with opened.published(config) as publisher:
        assert publisher is not None
        path = config.data_dir / "embeddings" / "train_embeddings.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"finished")
        (path.parent / ".val_embeddings.safetensors.partial").write_bytes(b"not")
        for _ in range(1000):
            s3.invalidate_cache()
            if s3.exists(f"{bucket}/data/embeddings/train_embeddings.safetensors"):
                break
    assert list(remote_files(s3, f"{bucket}/data")) == ["embeddings/train_embeddings.safetensors"]


def test_what_was_changed_on_both_sides_is_refused_and_kept(s3, bucket, corpus, tmp_path):
    url = f"s3://{bucket}/data"
    here = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(here)
    other = config_at(url, write_corpus(tmp_path, 50, 500), tmp_path / "there")
    data_pipeline.run(other, overwrite=True)
    path = next(iter(sorted(here.processed_dir.glob("val*.parquet"))))
    path.write_bytes(b"changed here")
    with pytest.raises(StoreError, match=rf"{here.data_dir} and {url} were both changed .*: grown_processed/val.*move"):
        data_pipeline.run(here)
    assert path.read_bytes() == b"changed here"
    shutil.rmtree(here.data_dir)
    assert len(ELMDataset(config=here)) == len(ELMDataset(config=other))


def test_a_file_that_was_replaced_at_the_url_is_no_part_of_a_dataset(s3, bucket, corpus, tmp_path):
    url = f"s3://{bucket}/data"
    here = config_at(url, corpus, tmp_path / "here")
    data_pipeline.run(here)
    name = next(name for name in s3.find(f"{bucket}/data/embeddings") if name.endswith(".safetensors"))
    content = bytearray(s3.cat_file(name))
    content[-1] ^= 1
    s3.pipe_file(name, bytes(content))
    with pytest.raises(CorruptShardError, match=rf"{url}/embeddings/.*has SHA-256 .*its manifest expects .*Run again"):
        data_pipeline.run(config_at(url, corpus, tmp_path / "there"))
    s3.rm_file(name)
    with pytest.raises(StoreError, match=rf"{url}/embeddings/manifest.json lists .*which is not there"):
        data_pipeline.run(config_at(url, corpus, tmp_path / "elsewhere"))


def test_names_that_lead_out_of_the_folder_are_not_fetched(s3, bucket, corpus, tmp_path):
    for name in ("embeddings/../../evil", "../evil", "x_processed/.hidden", "other/evil", "embeddings/a:b", "evil"):
        s3.pipe_file(f"{bucket}/data/{name}", b"evil")
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    data_pipeline.run(config)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"evil"] == []


def test_an_emptied_url_removes_nothing_here(s3, bucket, corpus, tmp_path):
    config = config_at(f"s3://{bucket}/data", corpus, tmp_path / "here")
    data_pipeline.run(config)
    before = local_files(config.data_dir)
    s3.rm(f"{bucket}/data", recursive=True)
    with pytest.raises(StoreError, match=rf"nothing is at s3://{bucket}/data any more, and .*move this folder away"):
        data_pipeline.run(config)
    assert local_files(config.data_dir) == before


def test_a_missing_bucket_is_named(s3, corpus, tmp_path):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/data/.writer.json cannot be written: .*does not exist"):
        data_pipeline.run(config_at("s3://no-such-bucket/data", corpus, tmp_path / "here"))


def test_other_file_systems_do_too(corpus, expected, tmp_path):
    config = config_at(f"file://{tmp_path}/there", corpus, tmp_path / "here")
    data_pipeline.run(config)
    assert local_files(tmp_path / "there") == expected
    assert data_pipeline.run(config_at(f"file://{tmp_path}/there", corpus, tmp_path / "other")).preprocess_skipped


def test_a_folder_of_the_user_can_be_the_working_copy(corpus, expected, tmp_path):
    url = f"file://{tmp_path}/there"
    config = config_at(tmp_path / "own", corpus, tmp_path / "cache", data_url=url)
    data_pipeline.run(config)
    assert local_files(tmp_path / "own") == local_files(tmp_path / "there") == expected
    moved = config_at(tmp_path / "own", corpus, tmp_path / "cache", data_url=f"{url}2")
    with pytest.raises(StoreError, match=rf"{tmp_path}/own is a working copy of {url}, not of {url}2"):
        data_pipeline.run(moved)
    (tmp_path / "own" / ".published.json").write_text("{")
    with pytest.raises(CorruptShardError, match=r"published.json cannot be read. Remove it"):
        data_pipeline.run(config)
    (tmp_path / "own" / ".published.json").unlink()
    assert data_pipeline.run(config).preprocess_skipped


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_dir": Path("s3://bucket/data")}, "is a URL as a Path, which loses a slash"),
        ({"data_dir": "s3://a/b", "data_url": "s3://c/d"}, "data_dir and data_url are different URLs"),
        ({"logs_dir": "s3://key:secret@bucket/logs"}, "logs_dir: s3://bucket/logs is a URL; expected a path"),
    ],
)
def test_urls_where_none_can_be_are_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        data_pipeline.load_config(None, settings)


def test_no_secret_of_a_url_is_in_a_file_or_message(corpus, tmp_path, caplog):
    config = config_at(f"file://user:hidden@{tmp_path}/there", corpus, tmp_path / "here")
    assert "hidden" not in json.dumps(config.model_dump(mode="json"))
    assert "hidden" not in str(config.data_dir)
    with pytest.raises(StoreError) as caught:
        data_pipeline.run(config_at("s3://user:hidden@no-such-bucket/x", corpus, tmp_path / "here"))
    assert "hidden" not in f"{caught.value}{caplog.text}"
    found = [path for path in (tmp_path / "here").rglob("*") if path.is_file() and b"hidden" in path.read_bytes()]
    assert found == []
