"""WikiText-2 train, from raw lines to the three parquet splits, with the real Qwen3 tokenizer.

Ways: this package with the fast counting library, this package without it (pre-tokens), and
the peer: the same rules text by text with Python's `re` and the tokenizer called once a text,
as the original pipeline works. CPU seconds are user + system of all threads, of the best of
three runs, each in a process of its own with one thread (threads waiting for each other cost
CPU time that says nothing of the work; a figure with the default threads stands beside it).
Importing and loading tokenizers is not counted, nor is the leakage report (its own figure). All
ways must keep the same rows with the same counts.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness import Figure, Figures, in_fresh_process, shared_data

_REPEATS = 3
_MIN, _MAX = 100, 2000
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    source = shared_data("wikitext-2") / ("wiki.valid.tokens" if quick else "wiki.train.tokens")
    megabytes = source.stat().st_size / 1e6
    threads = {"default_threads": {}}
    ways = {
        way: [
            in_fresh_process(Path(__file__), way, str(source), **threads.get(way, _ONE_THREAD))
            for _ in range(1 if quick else _REPEATS)
        ]
        for way in ("fast", "fallback", "with_leakage", "default_threads", "one_at_a_time")
    }
    best = {way: min(run["cpu_s"] for run in runs) for way, runs in ways.items()}
    answers = {way: runs[0]["answer"] for way, runs in ways.items()}
    equal = all(answer == answers["one_at_a_time"] for answer in answers.values())
    if not equal:
        raise SystemExit(f"the ways disagree: {[(way, answer['rows']) for way, answer in answers.items()]}")
    return {
        "mb_per_cpu_s": Figure(megabytes / best["fast"], "MB/CPU-s", ">= 15", "with the fast counting library"),
        "mb_per_cpu_s_fallback": Figure(megabytes / best["fallback"], "MB/CPU-s", ">= 8", "without it"),
        "mb_per_cpu_s_with_leakage": Figure(megabytes / best["with_leakage"], "MB/CPU-s", "", "leakage report too"),
        "mb_per_cpu_s_default_threads": Figure(
            megabytes / best["default_threads"], "MB/CPU-s", "", "fast, as many threads as the libraries take"
        ),
        "mb_per_cpu_s_one_at_a_time": Figure(megabytes / best["one_at_a_time"], "MB/CPU-s", "", "the peer"),
        "cpu_ratio_vs_one_at_a_time": Figure(best["one_at_a_time"] / best["fast"], "x", ">= 10"),
        "cpu_ratio_fallback": Figure(best["one_at_a_time"] / best["fallback"], "x"),
        "token_counts_equal": Figure(1.0 if equal else 0.0, "share", "1", "every kept row, all ways"),
        "rows_kept": Figure(answers["fast"]["rows"], "rows"),
        "tokens": Figure(answers["fast"]["tokens"], "tokens"),
        "counter_load_cpu_s": Figure(min(run["load_s"] for run in ways["fast"]), "CPU-s", "", "once a run"),
    }


def _ours(source: Path, way: str) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from data_pipeline.config.load import load_config
    from data_pipeline.download import open_corpus
    from data_pipeline.stages import preprocess
    from data_pipeline.store import ParagraphStore

    tokenizer = AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer")).backend_tokenizer
    if way != "with_leakage":
        preprocess.measure_leakage = lambda folder, threshold, execute: {}

    def run(path: Path, folder: Path) -> tuple[float, float]:
        started = time.process_time()
        own = {"corpus.source": "wikitext", "corpus.name": "benchmark", "corpus.path": str(path)}
        fast = {"preprocess.fast_tokens": "off" if way == "fallback" else "auto"}
        config = load_config(None, own | fast | {"storage.shard_rows": 10**6})
        loaded = time.process_time()
        source = preprocess.Source(open_corpus(config.corpus), config.corpus)
        output = preprocess.ParagraphOutput(folder, {})
        preprocess.write_paragraphs(config, tokenizer, [source], output)
        return time.process_time() - loaded, loaded - started

    with tempfile.TemporaryDirectory() as folder:
        # The sample first: modules that are imported at first use are not what is measured.
        from data_pipeline.download.sample import FOLDER

        run(FOLDER / "articles.tokens", Path(folder) / "warm")
        cpu_s, load_s = run(source, Path(folder) / "out")
        store = ParagraphStore(Path(folder) / "out")
        counts: dict[str, int] = {}
        for split in store.splits:
            frame = store.read(split, ["text", "token_count"])
            counts |= dict(zip(frame["text"], frame["token_count"], strict=True))
    return {"cpu_s": cpu_s, "load_s": load_s, "answer": _answer(counts)}


def _one_at_a_time(source: Path) -> dict[str, Any]:
    import random

    import polars as pl
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer"))
    tokenizer.encode("warm up", add_special_tokens=False)
    started = time.process_time()
    kept: dict[str, int] = {}
    for raw in _sections(source.read_text(encoding="utf-8").split("\n")):
        if sum(line.count("<unk>") for line in raw) > 0.25 * (" ".join(raw).count(" ") + 1):
            continue
        text = " ".join(filter(None, map(_clean, raw)))
        letters = [char for char in text if not char.isspace()]
        digits = sum(char.isdigit() for char in letters)
        special = sum(not char.isalnum() for char in letters)
        if len(text) < 20 or special > 0.5 * len(letters) or digits > 0.5 * len(letters):
            continue
        tokens = len(tokenizer.encode(text, add_special_tokens=False))
        if _MIN <= tokens <= _MAX and text not in kept:
            kept[text] = tokens
    rows = list(kept.items())
    random.Random(42).shuffle(rows)
    cuts = [0, int(0.8 * len(rows)), int(0.9 * len(rows)), len(rows)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (start, end) in enumerate(pairwise(cuts)):
            frame = pl.DataFrame(rows[start:end], schema=["text", "token_count"], orient="row")
            frame.write_parquet(Path(folder) / f"{number}.parquet")
    return {"cpu_s": time.process_time() - started, "load_s": 0.0, "answer": _answer(kept)}


def _sections(lines: list[str]) -> Iterator[list[str]]:
    from data_pipeline.utils.markup import parse_heading

    section: list[str] = []
    for number, line in enumerate(lines):
        above = lines[number - 1] if number else ""
        below = lines[number + 1] if number + 1 < len(lines) else ""
        heading = not above.strip() and not below.strip() and parse_heading(line) is not None
        if line.strip() and not heading:
            section.append(line)
        elif section:
            yield section
            section = []
    if section:
        yield section


def _clean(line: str) -> str:
    """The package's own rules, applied to one line by Python's `re`."""
    import unicodedata

    from data_pipeline.preprocess import clean

    line = re.sub(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]", "", line)
    line = " " + re.sub(r"\s+", " ", unicodedata.normalize("NFC", line)).strip(" ") + " "
    if line.count('"') % 2 == 0:
        line = _apply(line, [clean._QUOTED])
    if "<unk>" in line:
        if re.search(clean._UNKNOWN_IN_COMPOUND, line):
            line = _apply(line, clean._COMPOUNDS)
        line = _apply(line, clean._UNKNOWN)
    line = _apply(line, (*clean._RANGES, *clean._JOINED))
    for spaced, attached in (*clean._ATTACHED.items(), *clean._MARKS.items()):
        line = line.replace(spaced, attached)
    return line.strip(" ")


def _apply(line: str, rules: Any) -> str:
    for pattern, replacement in rules:
        line = re.sub(pattern, replacement.replace("$", "\\"), line)
    return line


def _answer(counts: dict[str, int]) -> dict[str, Any]:
    from data_pipeline.store.hashing import column_sha256

    rows = sorted(counts.items())
    digest = column_sha256(f"{count} {text}" for text, count in rows)
    return {"rows": len(rows), "tokens": sum(counts.values()), "sha256": digest}


if __name__ == "__main__":
    way, source = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(_one_at_a_time(source) if way == "one_at_a_time" else _ours(source, way)))
