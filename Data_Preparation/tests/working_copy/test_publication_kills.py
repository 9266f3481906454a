"""Runs that publish to S3 are killed at random moments: what a reader finds is whole, and the end is as if none was."""

import os
import random
import signal
import subprocess
import sys
import time

import yaml
from support.faulty_store import Faults, bad_network
from support.object_store import KEYS, s3_at
from support.published import config_at, local_files, remote_files, write_corpus

import data_pipeline
from data_pipeline import ELMDataset
from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.execution.run import append_documents
from data_pipeline.types import SPLITS

_KILLS = 8


def run_until_killed(arguments, environment, seconds):
    """Run the command line; returns whether it ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "data_pipeline.cli", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, said
    return True


def rows_read(url, cache):
    """Number of rows of each split that a reader finds; None for no dataset."""
    found = []
    for split in SPLITS:
        try:
            dataset = ELMDataset(url, split, cache_dir=cache)
            dataset.get_batch(range(len(dataset)))
        except CorruptShardError:
            raise
        except StoreError:
            return None
        found.append(len(dataset))
    return found


def test_a_reader_finds_one_version_or_none_after_every_kill(s3, s3_url, bucket, tmp_path):
    first, more = write_corpus(tmp_path, 120), write_corpus(tmp_path, 60, 120)
    expected = config_at(tmp_path / "mine", first, tmp_path / "cache", data_url=f"file://{tmp_path}/expected")
    data_pipeline.run(expected)
    versions = [None, rows_read(f"file://{tmp_path}/expected", tmp_path / "cache")]
    append_documents(config_at(tmp_path / "mine", more, tmp_path / "cache", data_url=f"file://{tmp_path}/expected"))
    versions.append(rows_read(f"file://{tmp_path}/expected", tmp_path / "cache"))

    url, chance, kills = f"s3://{bucket}/data", random.Random(0), 0
    settings = expected.model_dump(mode="json", include={"preprocess", "storage", "embedding", "corpus"})
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    common = ["--config", str(tmp_path / "settings.yaml"), "--output-dir", url, "--cache_dir", str(tmp_path / "here")]
    with bad_network(s3_url, Faults(slow=0.3)) as slow:
        environment = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": slow}
        for command, corpus in (("run", first), ("append", more)):
            limit, done = 2.0, False
            while not done:
                started = time.monotonic()
                seconds = chance.uniform(0.5, limit) if kills < _KILLS else 300
                done = run_until_killed([command, *common, "--corpus.path", str(corpus)], environment, seconds)
                kills += not done
                limit = max(limit, (time.monotonic() - started) * 1.2)
                with s3_at(s3_url):
                    assert rows_read(url, tmp_path / "reader") in versions
    assert kills >= 2
    with s3_at(s3_url) as system:
        assert rows_read(url, tmp_path / "reader") == versions[-1]
        found, wanted = remote_files(system, f"{bucket}/data"), local_files(tmp_path / "expected")
        assert found == wanted
