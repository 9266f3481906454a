"""Embedding models of every kind beside the libraries that people use for them: equal vectors, and speed.

Families: small models with random weights in the files of published families (`tests/support/model_families.py`); the
share whose vectors equal those of sentence-transformers to 1e-5 of the largest number, packed and padded, documents and
queries. Static models: a table of 256 dimensions over the Qwen3 vocabulary in the format of model2vec, on the
paragraphs of WikiText-2 train, beside model2vec's own `encode`. MiniLM in float32, and Qwen3-Embedding-0.6B in its true
shape (28 layers, random weights), beside sentence-transformers at a batch size of 8 and of its default 32. API: a
server that answers every request in 200 ms, with the real stage over several files.

The ways of a comparison take turns in one process, and the fastest turn of each counts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from api_embedding import measure_api_slots
from harness import CHECKOUT, Figure, Figures, in_fresh_process, shared_data
from models import make_qwen3, minilm_folder, qwen3_sentence_transformer, wikitext_lines

_TOLERANCE = 1e-5
_STATIC_DIM = 256
_TURNS = 2
_MIN_WORDS = 80

Encode = Callable[[list[str]], np.ndarray]


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = "quick" if quick else "full"
    families = in_fresh_process(Path(__file__), "families", size)
    static = in_fresh_process(Path(__file__), "static", size)
    minilm = in_fresh_process(Path(__file__), "minilm", size)
    qwen3 = in_fresh_process(Path(__file__), "qwen3", size)
    return {
        **measure_api_slots(quick),
        "families_equal": Figure(
            families["equal"] / families["families"], "of families", ">= 1.0", f"{families['families']} families"
        ),
        "families_max_difference": Figure(families["max_difference"], "", "<= 1e-5", "of the largest number"),
        "static_vs_model2vec": Figure(
            static["model2vec"] / static["ours"], "x", ">= 1.0", f"{static['texts']:,} texts, one table"
        ),
        "static_tokens_per_s": Figure(static["tokens"] / static["ours"], "tokens/s"),
        "static_max_abs_diff": Figure(static["max_abs_diff"], "", "<= 1e-5", "to model2vec"),
        "minilm_avx2_vs_sentence_transformers": Figure(
            min(minilm["peer_8"], minilm["peer_32"]) / minilm["ours"], "x", ">= 1.4", minilm["note"]
        ),
        "minilm_openvino_tokens_per_s": Figure(minilm["tokens"] / minilm["openvino"], "tokens/s", "", "another way"),
        "minilm_tokens_per_s": Figure(minilm["tokens"] / minilm["ours"], "tokens/s"),
        "qwen3_06b_shape_vs_sentence_transformers": Figure(
            min(qwen3["peer_8"], qwen3["peer_32"]) / qwen3["ours"], "x", ">= 1.5", qwen3["note"]
        ),
        "qwen3_06b_shape_tokens_per_s": Figure(qwen3["tokens"] / qwen3["ours"], "tokens/s"),
        "qwen3_06b_shape_gflops": Figure(qwen3["flops"] / qwen3["ours"] / 1e9, "GFLOP/s"),
        "matmul_gflops": Figure(qwen3["ceiling"] / 1e9, "GFLOP/s", "", "products of the same shapes, packed weights"),
    }  # fmt: skip


def _families(quick: bool) -> dict[str, Any]:
    sys.path.insert(0, str(CHECKOUT / "Data_Preparation" / "tests"))
    from sentence_transformers import SentenceTransformer
    from support.model_families import FAMILIES, TEXTS, write_family

    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings import encode, load_embedder

    names = list(FAMILIES)[::8] if quick else list(FAMILIES)
    differences = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            family = write_family(name, Path(folder))
            peer = SentenceTransformer(folder, device="cpu")
            expected = {False: peer.encode_document(TEXTS), True: peer.encode_query(TEXTS)}
            for attention in ("auto", "padded") if family.architecture else ("auto",):
                embedder = load_embedder(EmbeddingConfig(
                    model_name=folder, device="cpu", normalize=False, attention=attention, **family.embedding
                ))  # fmt: skip
                for query, vectors in expected.items():
                    found = encode(embedder, TEXTS, query=query)
                    difference = float(np.abs(found - vectors).max() / np.abs(vectors).max())
                    differences[name] = max(differences.get(name, 0.0), difference)
    equal = sum(difference <= _TOLERANCE for difference in differences.values())
    for name, difference in differences.items():
        if difference > _TOLERANCE:
            print(f"{name}: {difference:.2g}", file=sys.stderr)
    return {"families": len(names), "equal": equal, "max_difference": max(differences.values())}


def _static(quick: bool) -> dict[str, Any]:
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings import encode, load_embedder

    tokenizer = Tokenizer.from_file(str(shared_data("qwen3-tokenizer") / "tokenizer.json"))
    table = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), _STATIC_DIM), dtype=np.float32)
    texts = wikitext_lines("train")[: 1000 if quick else None]
    with tempfile.TemporaryDirectory() as folder:
        StaticModel(table, tokenizer, config={"normalize": True}, normalize=True).save_pretrained(folder)
        peer = StaticModel.from_pretrained(folder, max_length=None)
        embedder = load_embedder(EmbeddingConfig(model_name=folder, device="cpu", max_length=1_000_000))
        ways: dict[str, Encode] = {
            "ours": lambda some: encode(embedder, some),
            "model2vec": lambda some: np.asarray(peer.encode(some)),
        }
        seconds, vectors = _in_turns(ways, texts, 1 if quick else _TURNS)
        tokens = len(embedder.tokenize(texts).ids)
    difference = float(np.abs(vectors["ours"] - vectors["model2vec"]).max())
    return seconds | {"texts": len(texts), "tokens": tokens, "max_abs_diff": difference}


def _minilm(quick: bool) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    settings = {"model_name": "sentence-transformers/all-MiniLM-L6-v2", "weights": "package"}
    peer = SentenceTransformer(str(minilm_folder()), device="cpu")
    return _compare(settings, peer, 64 if quick else 500, {"openvino": settings | {"backend": "openvino"}}, quick)


def _qwen3(quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        make_qwen3("tiny" if quick else "0.6b", Path(folder))
        peer = qwen3_sentence_transformer(folder, 512)
        found = _compare({"model_name": folder, "max_length": 512}, peer, 10, {}, quick)
        return found | {"ceiling": _ceiling()}


def _compare(settings: dict[str, Any], peer: Any, count: int, others: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Seconds of this package and of sentence-transformers on the same texts, whose vectors must agree."""
    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings import encode, load_embedder
    from data_pipeline.embeddings.plan import make_plan

    long = [line for line in wikitext_lines("valid") if len(line.split()) >= _MIN_WORDS]
    texts = long[:: max(1, len(long) // count)][:count]
    embedders = {
        name: load_embedder(EmbeddingConfig.model_validate({"device": "cpu", **values}))
        for name, values in ({"ours": settings} | others).items()
    }
    ways: dict[str, Encode] = {
        name: lambda some, embedder=embedder: encode(embedder, some) for name, embedder in embedders.items()
    }
    for size in (8, 32):
        ways[f"peer_{size}"] = lambda some, size=size: peer.encode(
            some, batch_size=size, normalize_embeddings=True, show_progress_bar=False
        )
    seconds, vectors = _in_turns(ways, texts, 1 if quick else _TURNS)
    if (difference := float(np.abs(vectors["ours"] - vectors["peer_8"]).max())) > _TOLERANCE:
        raise SystemExit(f"the vectors differ by {difference:.2g}")
    plan = make_plan(embedders["ours"].tokenize(texts))
    tokens = int(plan.tokens.lengths.sum())
    flops = float(embedders["ours"].runtime.cost.flops(plan.tokens.lengths).sum())
    note = f"{len(texts)} texts, {tokens:,} tokens, {embedders['ours'].runtime.attention}"
    return seconds | {"tokens": tokens, "flops": flops, "note": note}


def _in_turns(ways: dict[str, Encode], texts: list[str], turns: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The fastest of some turns of each way, after a warm-up."""
    seconds: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for encode in ways.values():
        encode(texts[:4])
    for _ in range(turns):
        for name, encode in ways.items():
            started = time.perf_counter()
            vectors[name] = encode(texts)
            seconds[name] = min(seconds.get(name, np.inf), time.perf_counter() - started)
    return seconds, vectors


def _ceiling() -> float:
    """Floating-point operations a second of products with packed weights of the model's largest shape."""
    import torch

    from data_pipeline.embeddings.transformer.linear import PackedLinear, unavailable_reason

    linear = torch.nn.Linear(1024, 3072, bias=False)
    layer = linear if unavailable_reason(torch.float32) else PackedLinear(linear)
    x = torch.randn(4096, 1024)
    best = np.inf
    with torch.inference_mode():
        for _ in range(8):
            started = time.perf_counter()
            layer(x)
            best = min(best, time.perf_counter() - started)
    return 2 * 4096 * 1024 * 3072 / float(best)


if __name__ == "__main__":
    what, size = sys.argv[1:]
    parts = {"families": _families, "static": _static, "minilm": _minilm, "qwen3": _qwen3}
    print(json.dumps(parts[what](size == "quick")))
