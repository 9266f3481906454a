"""Reading users' files, and the memory of the near-duplicate search.

JSON Lines through `json_records`, beside a plain loop over the file with `json.loads`: one line of 200 MB, and 200 MB
of short lines. CPU seconds, the best of three, each way in a process of its own; both ways must give the same records
(SHA-256 of them all). And the memory that the near-duplicate index grows by a text, from the second half of the texts.
"""

import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from harness import Figure, Figures, in_fresh_process

_MEGABYTES = 200
_REPEATS = 3
_TEXTS = 200_000


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    megabytes = 20 if quick else _MEGABYTES
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long.jsonl", Path(folder) / "short.jsonl"
        long.write_text(json.dumps({"text": "word " * (megabytes * 200_000)}) + "\n")
        line = json.dumps({"id": "a", "text": "river stone lamp winter garden music paper " * 12}) + "\n"
        short.write_text(line * (megabytes * 1_000_000 // len(line)))
        for name, path in (("long_line", long), ("short_lines", short)):
            best = {way: _best(way, path, quick) for way in ("ours", "plain")}
            if best["ours"]["sha256"] != best["plain"]["sha256"]:
                raise SystemExit(f"{path.name}: the two ways read different records")
            figures[f"{name}_cpu_s"] = Figure(best["ours"]["cpu_s"], "CPU-s", "", f"{megabytes} MB of JSON Lines")
            figures[f"{name}_vs_plain_loop"] = Figure(
                best["ours"]["cpu_s"] / best["plain"]["cpu_s"], "x", "<= 2", "of a plain loop's CPU time, same records"
            )
    texts = 20_000 if quick else _TEXTS
    near = in_fresh_process(Path(__file__), "near", str(texts))
    figures["near_index_kb_per_text"] = Figure(
        near["kb_per_text"], "kB", "", f"memory of the near-duplicate index, of {texts:,} texts of 100 words"
    )
    return figures


def _best(way: str, path: Path, quick: bool) -> dict[str, Any]:
    runs = [in_fresh_process(Path(__file__), way, str(path)) for _ in range(1 if quick else _REPEATS)]
    return min(runs, key=lambda run: run["cpu_s"])


def _read(way: str, path: Path) -> dict[str, Any]:
    from data_pipeline.user_files import json_records

    started = time.process_time()
    digest = hashlib.sha256()
    records: Iterable[Any]
    if way == "ours":
        records = (values for _, values in json_records(path))
        digested = _digest(records, digest)
    else:
        with path.open("rb") as file:
            digested = _digest((json.loads(line) for line in file), digest)
    return {"cpu_s": time.process_time() - started, "sha256": digested}


def _digest(records: Iterable[Any], digest: Any) -> str:
    for record in records:
        digest.update(record["text"].encode())
    return str(digest.hexdigest())


def _near(count: int) -> dict[str, Any]:
    from data_pipeline.preprocess.near_index import NearIndex

    rng = random.Random(0)
    vocabulary = [f"word{number}" for number in range(5000)]
    texts = [" ".join(rng.choices(vocabulary, k=100)) for _ in range(count)]
    NearIndex(0.8, texts[:1000])
    process = psutil.Process()
    before = process.memory_info().rss
    index = NearIndex(0.8, texts)
    return {"kb_per_text": (process.memory_info().rss - before) / count / 1000, "of": type(index).__name__}


if __name__ == "__main__":
    found = _near(int(sys.argv[2])) if sys.argv[1] == "near" else _read(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps(found))
