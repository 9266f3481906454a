"""Processes that are killed while requests are under way: a rerun ends in the same bytes, and asks for little twice."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.forks import ENVIRONMENT

from data_pipeline.config.load import load_config
from data_pipeline.stages.pipeline import embed, prepare_paragraphs
from data_pipeline.store import ParagraphStore
from data_pipeline.testing import misbehaving_server

pytestmark = [pytest.mark.posix, pytest.mark.slow]

BATCH, SLOTS, KILLS = 2, 3, 5

# Embeds when it is told to, so that no time to import is between the start and the kill.
DRIVER = """
import json, sys
from data_pipeline.config.load import load_config
from data_pipeline.stages.pipeline import embed
import data_pipeline.embeddings.api.embedder, httpx2
config = load_config(None, json.loads(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
embed(config, ["train"])
"""


def flags_for(folder, base_url):
    return {
        "data_dir": str(folder / "data"), "logs_dir": str(folder / "logs"), "corpus.source": "sample",
        "corpus.name": "sample", "preprocess.min_tokens": 60, "preprocess.near_dedup": False, "storage.shard_rows": 40,
        "embedding.backend": "api", "embedding.model_name": "tiny-judge", "embedding.api.base_url": base_url,
        "embedding.api.slots": SLOTS, "embedding.batch_size": BATCH, "embedding.flush_s": 1e-9,
    }  # fmt: skip


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".lock"}


def test_a_killed_run_ends_in_the_same_bytes_and_finished_rows_are_not_requested_again(tmp_path):
    with misbehaving_server(latency_s=0.03) as server:
        calm = load_config(None, flags_for(tmp_path / "calm", server.base_url))
        prepare_paragraphs(calm)
        embed(calm, ["train"])
        asked_calmly = len(server.embedding_requests) - 1
        flags = flags_for(tmp_path / "killed", server.base_url)
        killed = load_config(None, flags)
        prepare_paragraphs(killed)
        server.embedding_requests.clear()
        rng, deaths = random.Random(0), 0
        for kill in range(KILLS + 1):
            process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, json.dumps(flags)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, env=ENVIRONMENT,
            )  # fmt: skip
            assert process.stdout.readline() == "ready\n"
            before = len(server.embedding_requests)
            process.stdin.write("go\n")
            process.stdin.flush()
            if kill < KILLS:
                while len(server.embedding_requests) <= before and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(rng.uniform(0.05, 0.35))
                process.kill()
            code = process.wait(60)
            process.stdin.close()
            process.stdout.close()
            deaths += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL)
        assert deaths >= KILLS - 1
        sent = Counter(text for request in server.embedding_requests for text in request.texts)
    texts = set(ParagraphStore(killed.processed_dir).read("train")["text"].to_list())
    assert content(killed.embeddings_dir) == content(calm.embeddings_dir)
    assert sum(sent[text] > 0 for text in texts) == len(texts)
    # A kill costs the requests under way and the answers that wait to be written, of two shards.
    repeated = sum(sent[text] - 1 for text in texts)
    assert repeated <= deaths * 2 * (3 * SLOTS + 1) * BATCH
    assert repeated < asked_calmly * BATCH
