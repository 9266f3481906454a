"""Memory stays flat however many rows there are."""

import json
import os
import random
import subprocess
import sys

import pytest

# Peak memory of each stage in a process of its own, in bytes.
PEAK = """
import json, re, resource, sys
from pathlib import Path
from data_pipeline.stages.pipeline import embed, prepare_paragraphs
from data_pipeline.config.load import load_config

stage, flags = sys.argv[1], json.loads(sys.argv[2])
config = load_config(None, flags)
if stage == "preprocess":
    rows = prepare_paragraphs(config).manifest["counts"]["kept"]
else:
    results = embed(config, ["train", "val", "test"]).embeddings
    rows = sum(result.rows for result in results.values())
# ru_maxrss of Linux begins at the peak of the process that started this one.
status = Path("/proc/self/status")
own = re.search(r"VmHWM:\\s+(\\d+)", status.read_text() if status.exists() else "")
peak = int(own[1]) * 1024 if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(rows, peak)
"""


def peaks(folder, rows):
    generator = random.Random(0)
    words = [f"word{n}" for n in range(5000)]
    folder.mkdir()
    with (folder / "texts.jsonl").open("w") as file:
        for row in range(rows):
            text = " ".join([f"paragraph {row}", *generator.choices(words, k=20)])
            file.write(json.dumps({"text": text}) + "\n")
    flags = {
        "data_dir": str(folder / "data"),
        "logs_dir": str(folder / "logs"),
        "corpus.source": "jsonl",
        "corpus.name": "short",
        "corpus.path": str(folder / "texts.jsonl"),
        "preprocess.min_tokens": 5,
        # The leakage report holds an index of up to 50,000 test paragraphs, which is not what this is about.
        "split.train_ratio": 0.98,
        "split.val_ratio": 0.01,
        "split.test_ratio": 0.01,
        "embedding.model_name": "hashing",
        "embedding.batch_size": 256,
        "embedding.batch_tokens": 100_000,
        "embedding.precision": "int8",
        # The tokens and the plan of a shard, and of the next one, are in memory; not those of the corpus.
        "storage.shard_rows": 10_000,
    }
    # One heap, so that what is measured does not depend on which thread came first.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    found = []
    for stage in ("preprocess", "embed"):
        command = [sys.executable, "-c", PEAK, stage, json.dumps(flags)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        n, peak = map(int, done.stdout.split())
        assert n == rows
        found.append(peak)
    return found


@pytest.mark.slow
@pytest.mark.posix
def test_the_peak_does_not_grow_with_the_rows(tmp_path):
    # 30,000 of these rows fill a batch of the preprocessing, and several shards. The vectors of
    # the others would take 92 MB, their texts and tokens 30 MB.
    small = peaks(tmp_path / "small", 30_000)
    large = peaks(tmp_path / "large", 120_000)
    for stage, before, after in zip(("preprocess", "embed"), small, large, strict=True):
        growth_mb = (after - before) / 1e6
        assert growth_mb < 30, f"{stage}: {before / 1e6:.0f} MB at 30,000 rows, {after / 1e6:.0f} MB at 120,000"
