"""Several workers, and more rows than memory: what the engines cost, what they gain, and what stays flat.

Local overhead: WikiText-2 with MiniLM, the whole job, by the engine local with one worker over that in one process,
all cores each. Two workers: preprocessing of 1 GB of JSON Lines, near duplicates included, and embedding of a part of
WikiText-2 with MiniLM, by two workers over one, a thread each. The bytes of all outputs must be equal.

datatrove: the same preprocessing as in the benchmark `ingest`, both with two workers; wall time.

Peak memory: 100,000 and 1,000,000 paragraphs of about 60 words through preprocessing with near duplicates, the hashing
embedder and a head, by two workers; the most that any process had. Disk: bytes of the data folder over those of the
paragraphs, vectors and scores alone.

Near duplicates: 5,000,000 rows of 60 words, of which one in ten is a changed copy of an earlier one, and 500,000 of
them by an index in memory (rensa's MinHash LSH, with the same comparison of candidates). The pairs of the common part
must be the same.

Kills: see `scale_kills`.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ingest
import numpy as np
import psutil
from harness import Figure, Figures, in_fresh_process, peak_memory_mb, shared_data

_HERE = Path(__file__)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_NEEDED = {"train.parquet", "val.parquet", "test.parquet"}
_NEAR_ROWS, _MEMORY_ROWS = 5_000_000, 500_000


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = "quick" if quick else "full"
    whole = {engine: in_fresh_process(_HERE, "whole", size, engine) for engine in ("inline", "local")}
    with tempfile.TemporaryDirectory() as name:
        ingest._write(Path(name) / "corpus", "jsonl", 12 if quick else 1000)
        made = [in_fresh_process(_HERE, "preprocess", size, name, str(n), **_ONE_THREAD) for n in (1, 2)]
    with tempfile.TemporaryDirectory() as name:
        ingest._write(Path(name) / "corpus", "jsonl", 12 if quick else 250)
        ours = in_fresh_process(_HERE, "ours", size, name, **_ONE_THREAD)
        theirs = in_fresh_process(Path(ingest.__file__), "datatrove", "jsonl", f"{name}/corpus", **_ONE_THREAD)
    embedded = [in_fresh_process(_HERE, "embed", size, str(n), **_ONE_THREAD) for n in (1, 2)]
    for runs in (list(whole.values()), made, embedded):
        _check_equal([run["sha256"] for run in runs])
    _check_equal([ours["answer"], theirs["answer"]])
    rows = (1_000, 10_000) if quick else (100_000, 1_000_000)
    peaks = [in_fresh_process(_HERE, "peak", size, str(count)) for count in rows]
    near, memory = (in_fresh_process(_HERE, what, size) for what in ("near", "memory"))
    _check_equal([near["common"], memory["common"]])
    killed = in_fresh_process(_HERE.with_name("scale_kills.py"), size)
    return {
        "local_overhead": Figure(whole["local"]["seconds"] / whole["inline"]["seconds"] - 1, "", "<= 0.05",
                                 f"{whole['local']['seconds']:.0f} s, in one process {whole['inline']['seconds']:.0f}"),
        "two_worker_speedup": _speedup(made, ">= 1.8", "preprocessing, near duplicates included"),
        "two_worker_speedup_embedding": _speedup(embedded, ">= 1.9", "MiniLM, a thread each; start-up included"),
        "vs_datatrove": Figure(theirs["wall_s"] / ours["wall_s"], "x", ">= 3",
                               f"{ours['wall_s']:.0f} s, datatrove {theirs['wall_s']:.0f} s"),
        "peak_gb_100k": Figure(peaks[0]["peak_mb"] / 1000, "GB", "<= 1.5", f"{rows[0]:,} rows"),
        "peak_gb_1m": Figure(peaks[1]["peak_mb"] / 1000, "GB", "<= 1.5, within 10 % of the one before",
                             f"{rows[1]:,} rows, {peaks[1]['seconds']:.0f} s"),
        "disk_vs_minimum": Figure(peaks[1]["disk"], "", "<= 1.05"),
        "near_dedup_rows_per_s": Figure(near["rows"] / near["seconds"], "rows/s", "", f"{near['rows']:,} rows"),
        "near_dedup_rows_per_s_in_memory": Figure(
            memory["rows"] / memory["seconds"], "rows/s", "", f"{memory['rows']:,} rows, the former way"
        ),
        "near_dedup_peak_gb": Figure(near["peak_mb"] / 1000, "GB", "", f"{near['rows']:,} rows"),
        "near_dedup_peak_gb_in_memory": Figure(memory["peak_mb"] / 1000, "GB", "", f"{memory['rows']:,} rows"),
        "kills": Figure(sum(killed["kills"].values()), "kills", "" if quick else ">= 300",
                        ", ".join(f"{engine} {count}" for engine, count in killed["kills"].items())),
        "byte_identical": Figure(1 - killed["wrong"] / killed["jobs"], "of the jobs", "1", f"{killed['jobs']} jobs"),
        "near_dedup_pairs": Figure(near["pairs"], "pairs", "", "those of the common part are the same"),
    }  # fmt: skip


def _speedup(runs: list[dict[str, Any]], goal: str, note: str) -> Figure:
    one, two = (run["seconds"] for run in runs)
    return Figure(one / two, "x", goal, f"{note}: {one:.0f} s, {two:.0f} s")


def _check_equal(answers: list[Any]) -> None:
    if any(answer != answers[0] for answer in answers):
        raise SystemExit(f"the answers differ: {answers}")


def _config(folder: Path, **settings: Any) -> Any:
    from data_pipeline.config.load import load_preset

    return load_preset("offline", {"data_dir": str(folder / "data"), "logs_dir": str(folder / "logs"), **settings})


def _sha256(folder: Path) -> str:
    """SHA-256 of the names and bytes of all output files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".lock" and not {".cache", ".crews"} & set(name.parts):
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _engine(folder: Path, workers: int) -> Iterator[Any]:
    from data_pipeline.execution.local_engine import LocalEngine
    from data_pipeline.stages.base import WorkerPlace

    threads = max(1, (os.cpu_count() or 1) // workers)
    with LocalEngine([WorkerPlace(f"worker-{n}", None, threads) for n in range(workers)], folder / "crew") as engine:
        yield engine


def _whole(quick: bool, engine: str) -> dict[str, Any]:
    from data_pipeline.stages.base import run_in_order
    from data_pipeline.stages.pipeline import run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = shared_data("wikitext-2") / "wiki.test.tokens" if quick else shared_data("wikitext-2")
        config = _config(folder, **{"corpus.source": "wikitext", "corpus.path": str(source)})
        started = time.monotonic()
        if engine == "inline":
            run(config, execute=run_in_order)
        else:
            with _engine(folder, 1) as execute:
                run(config, execute=execute)
        return {"seconds": time.monotonic() - started, "sha256": _sha256(folder / "data")}


def _preprocess(folder: Path, workers: int) -> dict[str, Any]:
    from data_pipeline.stages.pipeline import run

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        config = _config(work, **{
            "corpus.source": "jsonl", "corpus.path": str(folder / "corpus"), "corpus.id_field": "id",
            "preprocess.min_tokens": 20, "preprocess.near_dedup": True,
        })  # fmt: skip
        started = time.monotonic()
        with _engine(work, workers) as execute:
            run(config, skip_embeddings=True, execute=execute)
        return {"seconds": time.monotonic() - started, "sha256": _sha256(work / "data")}


def _ours(folder: Path) -> dict[str, Any]:
    """Preprocessing as the pipeline of datatrove does it in `ingest`, by two workers."""
    from transformers import AutoTokenizer

    from data_pipeline.config.load import load_config
    from data_pipeline.download import open_corpus
    from data_pipeline.stages.preprocess import ParagraphOutput, Source, write_paragraphs

    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer")).backend_tokenizer
    with tempfile.TemporaryDirectory() as name:
        config = load_config(None, {
            "corpus.source": "jsonl", "corpus.path": str(folder / "corpus"), "corpus.id_field": "id",
            "preprocess.min_tokens": ingest._MIN, "preprocess.max_tokens": ingest._MAX, "preprocess.unit": "document",
            "preprocess.clean": "raw", "storage.shard_rows": 10**6, "data_dir": name,
        })  # fmt: skip
        output = ParagraphOutput(Path(name) / "out", {})
        with _engine(Path(name), 2) as execute:
            source = Source(open_corpus(config.corpus), config.corpus)
            write_paragraphs(config, tokenizer, [source], output, execute=execute)
        return ingest._result(started, output.folder, "t*.parquet", "v*.parquet")


def _embed(quick: bool, workers: int) -> dict[str, Any]:
    from data_pipeline.stages.pipeline import embed, run
    from data_pipeline.types import SPLITS

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = shared_data("wikitext-2") / ("wiki.test.tokens" if quick else "wiki.train.tokens")
        corpus = {"corpus.source": "wikitext", "corpus.path": str(source), "corpus.limit": 10 if quick else 600}
        config = _config(folder, **{**corpus, "embedding.threads": 1})
        run(config, skip_embeddings=True)
        started = time.monotonic()
        with _engine(folder, workers) as execute:
            embed(config, SPLITS, execute=execute)
        return {"seconds": time.monotonic() - started, "sha256": _sha256(folder / "data" / "embeddings")}


def _words_of(count: int, rng: np.random.Generator, vocabulary: np.ndarray[Any, Any]) -> str:
    return " ".join(vocabulary[rng.integers(len(vocabulary), size=count)])


def _word(number: int) -> str:
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))


def _texts(count: int) -> Iterator[str]:
    """Texts of 60 words, of which one in ten is an earlier one with a few words changed."""
    rng, chosen = np.random.default_rng(0), random.Random(0)
    vocabulary = np.array([_word(number) for number in range(20_000)], dtype=object)
    kept: list[str] = []
    for number in range(count):
        if number % 10 == 9:
            words = chosen.choice(kept).split()
            for _ in range(chosen.randint(1, 4)):
                words[chosen.randrange(len(words))] = _word(chosen.randrange(20_000))
            yield " ".join(words)
            continue
        text = _words_of(60, rng, vocabulary)
        if len(kept) < 1000:
            kept.append(text)
        else:
            kept[number % 1000] = text
        yield text


def _peak(count: int) -> dict[str, Any]:
    """Memory and disk of the whole job with a head, by two workers."""
    from data_pipeline.heads.model import Head, Layer
    from data_pipeline.stages.pipeline import run
    from data_pipeline.stages.score import annotate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in.jsonl").open("w") as file:
            for number, text in enumerate(_texts(count)):
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
        config = _config(folder, **{
            "corpus.source": "jsonl", "corpus.path": str(folder / "in.jsonl"), "corpus.id_field": "id",
            "preprocess.min_tokens": 10, "preprocess.near_dedup": True, "embedding.model_name": "hashing",
        })  # fmt: skip
        rng = np.random.default_rng(0)
        layer = Layer(rng.normal(size=(1, 256)).astype(np.float32), np.zeros(1, np.float32))
        started = time.monotonic()
        with _watched() as peak, _engine(folder, 2) as execute:
            report = run(config, execute=execute)
            annotate(config, {"quality": Head("regression", ("score",), (layer,))}, execute=execute)
        seconds = time.monotonic() - started
        rows = sum(result.rows for result in report.embeddings.values())
        sizes = {path: path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file()}
        needed = [path for path in sizes if path.suffix == ".safetensors" or path.name in _NEEDED]
        disk = sum(sizes.values()) / sum(sizes[path] for path in needed)
    return {"rows": rows, "seconds": seconds, "peak_mb": peak["mb"], "disk": disk}


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Most memory of any process of this one and its children, in MB, while a block runs."""
    peak, stop = {"mb": 0.0}, threading.Event()

    def look() -> None:
        own = psutil.Process()
        while not stop.wait(0.2):
            for process in own.children(recursive=True):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    continue
                line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
                peak["mb"] = max(peak["mb"], int(line.split()[1]) * 1024 / 1e6 if line else 0.0)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak["mb"] = max(peak["mb"], peak_memory_mb())


def _near(quick: bool) -> dict[str, Any]:
    import pyarrow as pa

    from data_pipeline.preprocess.near_pairs import near_repeats
    from data_pipeline.preprocess.staging import Staging, staged_file

    count = _NEAR_ROWS // (500 if quick else 1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows"
        schema = pa.schema([("text", pa.large_string())])
        with pa.ipc.new_file(path, schema) as file:
            batch: list[str] = []
            for text in _texts(count):
                batch.append(text)
                if len(batch) == 8192:
                    file.write_table(pa.table([batch], schema=schema))
                    batch = []
            file.write_table(pa.table([batch], schema=schema))
        before = peak_memory_mb()
        started = time.monotonic()
        pairs = near_repeats(Staging([staged_file(path)]), np.ones(count, np.bool_), 0.8, Path(name) / "near")
        seconds = time.monotonic() - started
    common = pairs[pairs[:, 0] < _MEMORY_ROWS // (500 if quick else 1)]
    return {"rows": count, "seconds": seconds, "peak_mb": peak_memory_mb(), "before_mb": before, "pairs": len(pairs),
            "common": hashlib.sha256(common.tobytes()).hexdigest()}  # fmt: skip


def _memory(quick: bool) -> dict[str, Any]:
    """The former way: an index of all rows in memory, which rows are compared with one after the other."""
    from rensa import RMinHash, RMinHashLSH

    from data_pipeline.preprocess.near import jaccard, shingles

    count = _MEMORY_ROWS // (500 if quick else 1)
    texts = list(_texts(count))
    started = time.monotonic()
    index, pairs = RMinHashLSH(0.8, 128, 32), []
    for row, text in enumerate(texts):
        own, sketch = shingles(text), RMinHash(128, 1)
        sketch.update(list(own))
        scored = [(jaccard(own, shingles(texts[other])), -other) for other in index.query(sketch)]
        similarity, negative = max(scored, default=(0.0, 0))
        if similarity >= 0.8:
            pairs.append((row, -negative))
        else:
            index.insert(row, sketch)
    seconds = time.monotonic() - started
    common = np.array(pairs, np.int64).reshape(-1, 2)
    return {"rows": count, "seconds": seconds, "peak_mb": peak_memory_mb(), "pairs": len(pairs),
            "common": hashlib.sha256(common.tobytes()).hexdigest()}  # fmt: skip


if __name__ == "__main__":
    what, quick = sys.argv[1], sys.argv[2] == "quick"
    if what == "whole":
        print(json.dumps(_whole(quick, sys.argv[3])))
    elif what == "preprocess":
        print(json.dumps(_preprocess(Path(sys.argv[3]), int(sys.argv[4]))))
    elif what == "ours":
        print(json.dumps(_ours(Path(sys.argv[3]))))
    elif what == "embed":
        print(json.dumps(_embed(quick, int(sys.argv[3]))))
    elif what == "peak":
        print(json.dumps(_peak(int(sys.argv[3]))))
    else:
        print(json.dumps((_near if what == "near" else _memory)(quick)))
