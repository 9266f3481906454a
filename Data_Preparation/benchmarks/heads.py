"""Heads over stored vectors: speed beside a step that works document by document, and SST-2.

Speed: three heads of 768 -> 1000 -> 1 score a file of 768-dimensional float32 vectors with ids, from HDF5 to
JSON Lines. The peer does it in the style of datatrove steps, as ML-Filter's pipeline did: a reader turns every row
into a Document whose text is a list of floats, a step makes tensors of a batch of them, applies the heads one after
the other and takes each number out alone, and datatrove's JsonlWriter writes them. Here it is one call of
`annotate_file`, reading, hashing and writing included. The bare product is numpy's (or torch's, the faster) of the
same memory-mapped array with the three first layers side by side, a thousand rows at a time, and nothing else. Each
way in a process of its own, on both cores, in turns, the fastest counting; scores are compared, every row.

Memory: what `annotate_file` takes of its own, above what it has before the first row, of a file and of one ten
times as long.

SST-2: MiniLM's vectors of the 67,349 sentences and phrases, kept still; a head is trained on 90 % of them, chosen on
10 %, and measured once on the 872 of dev. Phrases of one sentence are on both sides of that division (the data do not
say which sentence they are of), so the validation loss flatters; dev is apart.

Quick: fewer rows.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, Figures, anonymous_mb, in_fresh_process, shared_data

_DIM, _HIDDEN, _HEADS = 768, 1000, 3
_ROWS, _QUICK_ROWS = 60_000, 6_000
_MEMORY_ROWS = 40_000
_BLOCK = 1000
_TURNS = 3


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    rows = _QUICK_ROWS if quick else _ROWS
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
        folder = Path(name)
        _make_heads(folder)
        _make_file(folder / "vectors.h5", rows)
        best: dict[str, dict[str, Any]] = {}
        for _ in range(1 if quick else _TURNS):
            for way in _WAYS:
                found = in_fresh_process(Path(__file__), way, str(folder))
                if way not in best or found["wall_s"] < best[way]["wall_s"]:
                    best[way] = found
        difference = _compare(folder, rows)
        few = rows if quick else _MEMORY_ROWS
        memory = {}
        for size in (few, 10 * few):
            _make_file(folder / "vectors.h5", size)
            memory[size] = in_fresh_process(Path(__file__), "ours", str(folder))["anonymous_mb"]
    sst2 = in_fresh_process(Path(__file__), "sst2", "quick" if quick else "full")
    ours, peer = best["ours"], best["per_document"]
    bare = min(best["numpy"]["wall_s"], best["torch"]["wall_s"])
    return {
        "speed_vs_per_document_step": Figure(
            peer["cpu_s"] / ours["cpu_s"], "x", ">= 3", "documents a CPU-second, HDF5 to JSON Lines"
        ),
        "time_vs_bare_matmul": Figure(
            ours["wall_s"] / bare,
            "x",
            "<= 1.5",
            "from reading to writing, of the faster of numpy's and torch's product",
        ),
        "documents_per_cpu_s": Figure(rows / ours["cpu_s"], "docs/CPU-s", ">= 19000", "three heads"),
        "per_document_step_per_cpu_s": Figure(rows / peer["cpu_s"], "docs/CPU-s", "", "the peer"),
        "scoring_alone_vs_bare_matmul": Figure(best["scorer"]["wall_s"] / bare, "x", "", "`Scorer.score`, no files"),
        "max_abs_difference": Figure(difference, "", "<= 1e-5", "to the peer's scores, every row"),
        f"anonymous_mb_{few // 1000}k": Figure(memory[few], "MB", "", "of its own, at its peak"),
        f"anonymous_mb_{few // 100}k": Figure(memory[10 * few], "MB", "", "ten times the rows"),
        "sst2_dev_accuracy": Figure(sst2["linear"]["accuracy"], "", ">= 0.79", "a linear head on frozen MiniLM"),
        "sst2_train_s": Figure(sst2["linear"]["cpu_s"], "CPU-s", "<= 120", f"{sst2['rows']:,} rows"),
        "sst2_dev_accuracy_hidden_1000": Figure(sst2["hidden"]["accuracy"], "", ">= 0.79", "the default head"),
        "sst2_train_s_hidden_1000": Figure(sst2["hidden"]["cpu_s"], "CPU-s", "<= 120"),
        "sst2_ece": Figure(sst2["linear"]["ece"], "", "", "expected calibration error on dev, linear"),
    }


def _make_heads(folder: Path) -> None:
    from data_pipeline.heads import Head, Layer, save_head

    rng = np.random.default_rng(0)
    for number in range(_HEADS):
        layers = tuple(
            Layer(
                (rng.normal(size=(outputs, inputs)) / inputs**0.5).astype(np.float32),
                rng.normal(size=outputs).astype(np.float32),
            )
            for inputs, outputs in ((_DIM, _HIDDEN), (_HIDDEN, 1))
        )
        save_head(Head("regression", ("score",), layers), folder / f"head{number}")


def _make_file(path: Path, rows: int) -> None:
    from data_pipeline.store.hdf5 import Block, Layout, write_embedding_file

    rng = np.random.default_rng(1)

    def blocks() -> Iterator[Block]:
        for start in range(0, rows, _BLOCK):
            vectors = rng.normal(size=(min(_BLOCK, rows - start), _DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            yield Block([f"document-{start + row}" for row in range(len(vectors))], vectors, {}, None)

    layout = Layout(rows, _DIM, np.dtype(np.float32), {}, None, None)
    write_embedding_file(path, "train", layout, {"dim": str(_DIM), "settings": "benchmark"}, blocks())


def _compare(folder: Path, rows: int) -> float:
    """Largest difference of any score, after checking that both files have the same documents in order."""
    worst, count = 0.0, 0
    with (folder / "ours.jsonl").open() as ours, (folder / "per_document.jsonl").open() as theirs:
        for one, other in zip(ours, theirs, strict=True):
            mine, peer = json.loads(one), json.loads(other)
            if mine["document_id"] != peer["document_id"]:
                raise SystemExit(f"row {count}: {mine['document_id']} and {peer['document_id']} are not one document")
            worst = max(worst, *(abs(mine[f"score_head{n}"] - peer[f"score_head{n}"]) for n in range(_HEADS)))
            count += 1
    if count != rows or worst > 1e-4:
        raise SystemExit(f"{count} of {rows} rows, scores differ by up to {worst}: the two ways do not agree")
    return worst


def _heads(folder: Path) -> dict[str, Any]:
    from data_pipeline.heads import load_head

    return {f"head{number}": load_head(folder / f"head{number}") for number in range(_HEADS)}


def _ours(folder: Path) -> Callable[[], None]:
    from data_pipeline.heads import Scorer
    from data_pipeline.integrations.ml_filter.annotate import annotate_file
    from data_pipeline.integrations.ml_filter.jobs import AnnotationParameters

    scorer = Scorer(_heads(folder))
    params = AnnotationParameters(
        embeddings_directory=folder, output_dir=folder, output_keys=["document_id"], batch_size=_BLOCK,
        regression_head_checkpoints={name: name for name in scorer.heads},
    )  # fmt: skip
    scorer.score(np.zeros((_BLOCK, _DIM), np.float32))  # the first call makes kernels ready

    def run() -> None:
        annotate_file(folder / "vectors.h5", folder / "ours.jsonl", scorer, params, overwrite=True)

    (folder / "ours.jsonl").unlink(missing_ok=True)
    return run


def _scorer(folder: Path) -> Callable[[], None]:
    from data_pipeline.heads import Scorer

    scorer, vectors = Scorer(_heads(folder)), _mapped(folder)
    scorer.score(vectors[:_BLOCK])

    def run() -> None:
        for start in range(0, len(vectors), _BLOCK):
            scorer.score(vectors[start : start + _BLOCK])

    return run


def _mapped(folder: Path) -> Any:
    from data_pipeline.store.hdf5 import EmbeddingFile

    with EmbeddingFile(folder / "vectors.h5", "train") as file:
        vectors = file.vectors()
    assert isinstance(vectors, np.memmap)
    return vectors


def _numpy(folder: Path) -> Callable[[], None]:
    weights = np.concatenate([head.layers[0].weight for head in _heads(folder).values()]).T.copy()
    vectors = _mapped(folder)
    vectors[:_BLOCK] @ weights

    def run() -> None:
        for start in range(0, len(vectors), _BLOCK):
            vectors[start : start + _BLOCK] @ weights

    return run


def _torch(folder: Path) -> Callable[[], None]:
    import torch

    weights = torch.from_numpy(np.concatenate([head.layers[0].weight for head in _heads(folder).values()]))
    vectors = _mapped(folder)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(vectors), _BLOCK):
                torch.nn.functional.linear(torch.from_numpy(np.array(vectors[start : start + _BLOCK])), weights)

    return run


def _per_document(folder: Path) -> Callable[[], None]:
    import heads_peer

    return heads_peer.run_of(folder / "vectors.h5", folder / "per_document.jsonl", _heads(folder), _BLOCK)


_WAYS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "ours": _ours,
    "scorer": _scorer,
    "numpy": _numpy,
    "torch": _torch,
    "per_document": _per_document,
}


def _timed(run: Callable[[], None]) -> dict[str, float]:
    before, peak, finished = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not finished.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finished.set()
    watcher.join()
    return {"wall_s": wall, "cpu_s": cpu, "anonymous_mb": max(0, peak[0] - before)}


def _sst2(quick: bool) -> dict[str, Any]:
    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.config.training import TrainingConfig
    from data_pipeline.embeddings import encode, load_embedder
    from data_pipeline.heads import Labelled, evaluate_head, identity_of, train_head

    folder = shared_data("sst2")
    embedder = load_embedder(EmbeddingConfig(model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package"))
    parts = {}
    for split in ("train", "dev"):
        lines = [line.rstrip("\n").rsplit("\t", 1) for line in (folder / f"{split}.tsv").open()][1:]
        lines = lines[:4000] if quick and split == "train" else lines
        vectors = encode(embedder, [text for text, _ in lines])
        labels = np.array([float(label) for _, label in lines])
        names = np.arange(len(lines)).astype(np.str_)
        parts[split] = Labelled(vectors, labels, names, embedder.identity.to_metadata(), f"SST-2 {split}")
    identity = identity_of(embedder)
    found: dict[str, Any] = {"rows": len(parts["train"])}
    for name, hidden in (("linear", [0]), ("hidden", [1000])):
        cpu = time.process_time()
        trained = train_head(parts["train"], TrainingConfig(kind="binary", hidden=hidden), identity)
        cpu = time.process_time() - cpu
        measures = evaluate_head(trained.head, parts["dev"], rounds=0).measures
        found[name] = {"cpu_s": cpu, "accuracy": measures["accuracy"].value, "ece": measures["ece"].value}
    return found


if __name__ == "__main__":
    result = _sst2(sys.argv[2] == "quick") if sys.argv[1] == "sst2" else _timed(_WAYS[sys.argv[1]](Path(sys.argv[2])))
    print(json.dumps(result))
