"""A corpus of one's own, from JSON Lines or parquet to the parquet splits, beside datatrove's pipeline.

The records are the body lines of WikiText-2 train, repeated until 1 GB (parquet: 250 MB) with every eighth word
exchanged for another of its vocabulary, so that no two texts are equal. Both sides read the records, apply the same
three filters (this package's functions), count tokens with the Qwen3 tokenizer, keep texts of 100 to 2,000 tokens and
write parquet; this package also looks for duplicates, divides into splits and measures leakage. datatrove runs its
`LocalPipelineExecutor` with a task for each of 16 files and a worker for each core. CPU seconds are user + system of
all processes and threads, start and imports included. Both must keep
the same texts with the same counts.

The figure of the quality presets is that of the benchmark `quality`, measured here again.

Peak memory is that of this package's process on 1 GB and on 4 GB. Chunks of WikiText-2's articles (256 tokens, no
overlap) are cut by this package and by semchunk with the same tokenizer.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import quality
from harness import Figure, Figures, in_fresh_process, peak_memory_mb, shared_data

_FILES = 16
_CHANGED = 8  # every eighth word
_MIN, _MAX = 100, 2000


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    megabytes = 12 if quick else 1000
    here = Path(__file__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # datatrove takes ten minutes for a gigabyte on two cores.
        shares = {"jsonl": megabytes, "parquet": megabytes // 4}
        sizes = {kind: _write(folder / kind, kind, share) for kind, share in shares.items()}
        runs = {
            (who, kind): in_fresh_process(here, who, kind, str(folder / kind))
            for kind in sizes
            for who in ("ours", "datatrove")
        }
        for kind in sizes:
            ours, theirs = (runs[who, kind]["answer"] for who in ("ours", "datatrove"))
            if ours != theirs:
                raise SystemExit(f"{kind}: the answers differ: {ours}, datatrove {theirs}")
        for part in ("jsonl", "parquet"):
            for path in (folder / part).iterdir():
                path.unlink()
        _write(folder / "large", "jsonl", 4 * megabytes)
        large = in_fresh_process(here, "ours", "jsonl", str(folder / "large"))
    chunks = in_fresh_process(here, "chunks", "1" if quick else "3")
    speed = {key: sizes[key[1]] / 1e6 / run["cpu_s"] for key, run in runs.items()}
    ratio = {kind: speed["ours", kind] / speed["datatrove", kind] for kind in sizes}
    small, many = runs["ours", "jsonl"]["peak_mb"], large["peak_mb"]
    return {
        "mb_per_cpu_s_jsonl": Figure(speed["ours", "jsonl"], "MB/CPU-s", "", f"{megabytes} MB, all cores"),
        "mb_per_cpu_s_parquet": Figure(
            speed["ours", "parquet"], "MB/CPU-s", "", f"{shares['parquet']} MB as JSON Lines"
        ),
        "mb_per_cpu_s_datatrove": Figure(speed["datatrove", "jsonl"], "MB/CPU-s", "", "the peer, JSON Lines"),
        "vs_datatrove": Figure(ratio["jsonl"], "x", ">= 3", "JSON Lines"),
        "vs_datatrove_parquet": Figure(ratio["parquet"], "x", ">= 3"),
        "wall_s_jsonl": Figure(runs["ours", "jsonl"]["wall_s"], "s", "", "this package"),
        "wall_s_datatrove": Figure(runs["datatrove", "jsonl"]["wall_s"], "s", "", "the peer"),
        "peak_mb_1gb": Figure(small, "MB"),
        "peak_mb_4gb": Figure(many, "MB", "within 10 % of 1 GB", f"{many / small - 1:+.1%}"),
        "gopher_mb_per_cpu_s": quality.measure(quick)["gopher_mb_per_cpu_s"],
        "rows_kept": Figure(runs["ours", "jsonl"]["answer"]["rows"], "rows"),
        "chunk_mb_per_cpu_s": Figure(chunks["ours"], "MB/CPU-s", "", "WikiText-2, 256 tokens"),
        "semchunk_mb_per_cpu_s": Figure(chunks["semchunk"], "MB/CPU-s", "", "the peer"),
        "chunk_vs_semchunk": Figure(chunks["ours"] / chunks["semchunk"], "x", ">= 1"),
    }


def _write(folder: Path, kind: str, megabytes: int) -> int:
    """Write the records of a corpus; returns their size as JSON Lines, in bytes."""
    import polars as pl

    folder.mkdir()
    written = 0
    for number in range(_FILES):
        lines = []
        for record in _records(np.random.default_rng(number), megabytes * 1_000_000 // _FILES):
            lines.append(json.dumps(record, ensure_ascii=False))
        content = ("\n".join(lines) + "\n").encode()
        written += len(content)
        if kind == "jsonl":
            (folder / f"{number:02}.jsonl").write_bytes(content)
        else:
            pl.read_ndjson(content).write_parquet(folder / f"{number:02}.parquet", row_group_size=10_000)
    return written


@cache
def _words() -> tuple[Any, list[int], Any]:
    """Words of all texts, where each text ends, and the vocabulary."""
    source = shared_data("wikitext-2") / "wiki.train.tokens"
    texts = [line.split() for line in source.read_text(encoding="utf-8").split("\n") if len(line) > 100]
    words = np.array([word for text in texts for word in text], dtype=object)
    return words, np.cumsum([len(text) for text in texts]).tolist(), np.array(sorted(set(words)), dtype=object)


def _records(random: np.random.Generator, size: int) -> Iterator[dict[str, str]]:
    """Records of texts until their size in bytes is reached."""
    words, ends, vocabulary = _words()
    while True:
        changed = words.copy()
        positions = np.arange(int(random.integers(_CHANGED)), len(words), _CHANGED)
        changed[positions] = vocabulary[random.integers(len(vocabulary), size=len(positions))]
        flat, ids = changed.tolist(), random.integers(2**63, size=len(ends)).tolist()
        for start, end, identity in zip([0, *ends], ends, ids, strict=False):
            text = " ".join(flat[start:end])
            yield {"id": f"{identity:x}", "text": text}
            size -= len(text.encode()) + 40
            if size < 0:
                return


def _ours(kind: str, source: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from data_pipeline.config.load import load_config
    from data_pipeline.download import open_corpus
    from data_pipeline.stages.preprocess import ParagraphOutput, Source, write_paragraphs

    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer")).backend_tokenizer
    corpus = {"corpus.source": kind, "corpus.path": str(source), "corpus.id_field": "id"}
    limits = {"preprocess.min_tokens": _MIN, "preprocess.max_tokens": _MAX, "preprocess.unit": "document"}
    config = load_config(None, corpus | limits | {"preprocess.clean": "raw", "storage.shard_rows": 10**6})
    with tempfile.TemporaryDirectory() as folder:
        output = ParagraphOutput(Path(folder) / "out", {})
        write_paragraphs(config, tokenizer, [Source(open_corpus(config.corpus), config.corpus)], output)
        return _result(started, Path(folder) / "out", "t*.parquet", "v*.parquet")


def _datatrove(kind: str, source: Path) -> dict[str, Any]:
    import os

    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.tokens import TokensCounter
    from datatrove.pipeline.writers import ParquetWriter

    started = time.monotonic()
    reader = {"jsonl": JsonlReader, "parquet": ParquetReader}[kind]
    with tempfile.TemporaryDirectory() as folder:
        # Without what appends an end to every text, which datatrove would count.
        settings = json.loads((shared_data("qwen3-tokenizer") / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer = Path(folder) / "tokenizer.json"
        tokenizer.write_text(json.dumps(settings | {"post_processor": None}), encoding="utf-8")
        LocalPipelineExecutor(
            pipeline=[
                reader(str(source)),
                LambdaFilter(_passes),
                TokensCounter(str(tokenizer)),
                LambdaFilter(_has_length),
                ParquetWriter(f"{folder}/out"),
            ],
            tasks=_FILES,
            workers=os.cpu_count() or 1,
            logging_dir=f"{folder}/logs",
            start_method="spawn",  # children of a fork server would not be counted
        ).run()
        return _result(started, Path(folder) / "out", "*.parquet")


def _passes(document: Any) -> bool:
    from data_pipeline.config import PreprocessConfig
    from data_pipeline.preprocess.filters import quality_reason

    return quality_reason(document.text, document.text, _DEFAULTS.setdefault("", PreprocessConfig())) is None


def _has_length(document: Any) -> bool:
    return _MIN <= document.metadata["token_count"] <= _MAX


_DEFAULTS: dict[str, Any] = {}


def _result(started: float, folder: Path, *patterns: str) -> dict[str, Any]:
    """Time, memory and answer of a run that wrote parquet files."""
    import resource  # which Windows does not have

    import polars as pl

    wall_s, peak_mb = time.monotonic() - started, peak_memory_mb()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    rows = tokens = digest = 0
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        table = pl.scan_parquet(path)
        names = table.collect_schema().names()
        count = pl.col("token_count") if "token_count" in names else pl.col("metadata").struct.field("token_count")
        for frame in table.select("text", count.cast(pl.Int64).alias("count")).collect_batches(chunk_size=50_000):
            rows, tokens = rows + len(frame), tokens + int(frame["count"].sum())
            digest = (digest + sum(frame.hash_rows(seed=1).to_list())) % 2**64
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb,
            "answer": {"rows": rows, "tokens": tokens, "digest": digest}}  # fmt: skip


def _chunks(repeats: int) -> dict[str, float]:
    """MB per CPU-second of this package's chunker and of semchunk, the best of several runs each."""
    import semchunk
    from transformers import AutoTokenizer

    from data_pipeline.config import CorpusConfig
    from data_pipeline.download import open_corpus
    from data_pipeline.preprocess import TokenCounter, load_fast_library
    from data_pipeline.preprocess.natural_chunks import NaturalChunker

    tokenizer = AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer"))
    corpus = open_corpus(CorpusConfig.model_validate({"source": "wikitext", "path": shared_data("wikitext-2")}))
    texts = [document.text for document in corpus.documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    backend = tokenizer.backend_tokenizer
    best: dict[str, float] = {}
    for _ in range(repeats):
        # Both keep the counts of pieces that they have seen, so each run has counters of its own.
        counter = TokenCounter(backend, load_fast_library(backend))
        chunker = NaturalChunker(counter, 256, 0)
        peer = semchunk.chunkerify(lambda text: len(backend.encode(text, add_special_tokens=False)), 256)
        for name, cut in {"ours": lambda chunker=chunker: list(chunker.cut(texts)),
                          "semchunk": lambda peer=peer: [peer(text) for text in texts]}.items():  # fmt: skip
            started = time.process_time()
            cut()
            best[name] = max(best.get(name, 0.0), megabytes / (time.process_time() - started))
    return best


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "chunks":
        print(json.dumps(_chunks(int(arguments[0]))))
    else:
        print(json.dumps({"ours": _ours, "datatrove": _datatrove}[what](arguments[0], Path(arguments[1]))))
