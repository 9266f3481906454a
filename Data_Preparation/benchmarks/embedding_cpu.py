"""Embedding on a CPU beside sentence-transformers and the Qwen3 model card's loop: speed and agreement.

Texts are the body lines of WikiText-2's validation file that have 100 tokens or more. Each way is
timed from texts to vectors, tokenising and planning included, in one process, in turns, the fastest
counting; the ways that were only tried get one turn. MiniLM reads at most 256 tokens of a text. Qwen3
has random weights, 4 layers and a width of 256 (its vectors mean nothing), and the real tokenizer.
sentence-transformers runs at a batch size of 8 and of its default 32, and the faster one is the peer.
Quick: 96 texts, one turn.

The ways that were tried and are not used are measured too: padding, torch's own linear layers (MKL),
and OpenVINO. A figure in bfloat16 says so where the CPU emulates it; it gets one turn then.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from harness import Figure, Figures, in_fresh_process
from models import make_qwen3, minilm_folder, qwen3_sentence_transformer, wikitext_lines

_MIN_TOKENS = 100
_TURNS = 2
_QUICK_TEXTS = 96
_IN_THE_GOALS = ("model_card", "peer", "peer_32", "ours", "bf16")

Encode = Callable[[list[str]], np.ndarray]


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = "quick" if quick else "full"
    minilm = in_fresh_process(Path(__file__), "minilm", size)
    qwen3 = in_fresh_process(Path(__file__), "qwen3", size)
    figures = {
        "minilm_speed_vs_sentence_transformers": Figure(
            minilm["ours"] / minilm["peer"], "x", ">= 1.4", f"{minilm['tokens']:,} tokens, same texts"
        ),
        "minilm_bf16_speed_vs_sentence_transformers": Figure(
            minilm["bf16"] / minilm["peer"], "x", ">= 2.2", minilm["bf16_note"]
        ),
        "minilm_bf16_min_cosine": Figure(minilm["bf16_min_cosine"], "", ">= 0.9995", "to sentence-transformers"),
        "qwen3_speed_vs_model_card": Figure(
            qwen3["ours"] / qwen3["model_card"], "x", ">= 1.9", f"{qwen3['tokens']:,} tokens, batches of 8"
        ),
        "qwen3_speed_vs_sentence_transformers": Figure(qwen3["ours"] / qwen3["peer"], "x", ">= 1.4"),
        "max_abs_diff": Figure(
            max(minilm["max_abs_diff"], qwen3["max_abs_diff"]), "", "<= 1e-5", "float32, to the peers, every text"
        ),
        "padding_share": Figure(max(minilm["padding_share"], qwen3["padding_share"]), "of tokens", "<= 0.01"),
        "planning_share": Figure(
            max(minilm["planning_share"], qwen3["planning_share"]), "of the time", "<= 0.05", "tokenising included"
        ),
    }
    for model, found in (("minilm", minilm), ("qwen3", qwen3)):
        for way, note in found["ways"].items():
            figures[f"{model}_{way}_tokens_per_s"] = Figure(found[way], "tokens/s", "", note)
    return figures


def _run(model: str, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model == "qwen3":
            make_qwen3("tiny", folder)
        return _minilm(quick) if model == "minilm" else _qwen3(folder, quick)


def _minilm(quick: bool) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    settings = {"model_name": "sentence-transformers/all-MiniLM-L6-v2", "weights": "package"}
    embedder = _embedder(settings)
    texts = _texts(embedder, quick)
    peer = SentenceTransformer(str(minilm_folder()), device="cpu")
    peer.max_seq_length = embedder.identity.max_length
    ways: dict[str, tuple[str, Encode]] = {
        "peer": ("sentence-transformers, batches of 8", _sentence_transformers(peer, 8)),
        "peer_32": ("sentence-transformers, batches of 32, its default", _sentence_transformers(peer, 32)),
        "ours": ("packed, oneDNN", _ours(embedder)),
        "bf16": ("the same in bfloat16", _ours(_embedder(settings, dtype="bfloat16"))),
        **_other_ways(settings),
        "openvino_bf16": (
            "OpenVINO in bfloat16, padded",
            _ours(_embedder(settings, backend="openvino", dtype="bfloat16")),
        ),
    }
    found, vectors = _in_turns(embedder, texts, ways, quick)
    found["bf16_min_cosine"] = float((vectors["bf16"] * vectors["peer"]).sum(axis=1).min())
    found["bf16_note"] = (
        "" if _has_bfloat16() else "emulated: this CPU has no bfloat16 instructions, the goal is not its"
    )
    return found


def _qwen3(folder: Path, quick: bool) -> dict[str, Any]:
    settings = {"model_name": str(folder)}
    embedder = _embedder(settings)
    texts = _texts(embedder, quick)
    peer = qwen3_sentence_transformer(folder, embedder.identity.max_length)
    ways: dict[str, tuple[str, Encode]] = {
        "model_card": ("the model card's loop, left padding, batches of 8", _model_card(folder)),
        "peer": ("sentence-transformers, batches of 8", _sentence_transformers(peer, 8)),
        "peer_32": ("sentence-transformers, batches of 32, its default", _sentence_transformers(peer, 32)),
        "ours": ("packed, oneDNN, last layer pruned", _ours(embedder)),
        **_other_ways(settings),
    }
    return _in_turns(embedder, texts, ways, quick)[0]


def _other_ways(settings: dict[str, Any]) -> dict[str, tuple[str, Encode]]:
    with mock.patch("data_pipeline.embeddings.transformer.paths.pack_linear_layers", return_value=False):
        by_mkl = _embedder(settings)
    return {
        "by_mkl": ("packed, torch's own linear layers", _ours(by_mkl)),
        "padded": ("padded, oneDNN", _ours(_embedder(settings, attention="padded"))),
        "openvino": ("OpenVINO, padded", _ours(_embedder(settings, backend="openvino"))),
    }


def _embedder(settings: dict[str, Any], **more: Any) -> Any:
    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings import load_embedder

    return load_embedder(EmbeddingConfig(**settings, **more))


def _texts(embedder: Any, quick: bool) -> list[str]:
    lines = wikitext_lines("valid")
    long = np.flatnonzero(embedder.tokenize(lines).lengths >= _MIN_TOKENS).tolist()
    return [lines[row] for row in long][: _QUICK_TEXTS if quick else None]


def _in_turns(
    embedder: Any, texts: list[str], ways: dict[str, tuple[str, Encode]], quick: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tokens a second of every way, what it gave, and what the embedder's plan says."""
    from data_pipeline.embeddings.plan import make_plan

    warm = texts[:16]
    best, planning = dict.fromkeys(ways, float("inf")), float("inf")
    vectors: dict[str, np.ndarray] = {}
    for encode in ways.values():
        encode[1](warm)
    for turn in range(1 if quick else _TURNS):
        for way, (_, encode) in ways.items():
            if turn and (way not in _IN_THE_GOALS or (way == "bf16" and not _has_bfloat16())):
                continue
            started = time.perf_counter()
            vectors[way] = encode(texts)
            best[way] = min(best[way], time.perf_counter() - started)
        started = time.perf_counter()
        plan = make_plan(embedder.tokenize(texts))
        planning = min(planning, time.perf_counter() - started)
    tokens = len(plan.tokens.ids)
    peer = "model_card" if "model_card" in ways else "peer"
    summary = plan.summary(embedder.runtime, embedder.runtime.batch_tokens, None)
    found = {way: tokens / seconds for way, seconds in best.items()}
    found["peer"] = max(found["peer"], found["peer_32"])
    return {
        **found,
        "ways": {way: note for way, (note, _) in ways.items()},
        "tokens": tokens,
        "max_abs_diff": max(
            float(np.abs(vectors[way] - vectors[peer]).max()) for way in vectors if not way.endswith("bf16")
        ),
        "padding_share": summary.padding_share,
        "planning_share": planning / best["ours"],
    }, vectors


def _has_bfloat16() -> bool:
    from data_pipeline.embeddings.transformer.loading import _cpu_has_bfloat16

    return _cpu_has_bfloat16()


def _ours(embedder: Any) -> Encode:
    from data_pipeline.embeddings import encode

    return lambda texts: encode(embedder, texts)


def _sentence_transformers(peer: Any, batch_size: int) -> Encode:
    return lambda texts: peer.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)


def _model_card(folder: Path) -> Encode:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModel.from_pretrained(folder).eval()

    def encode(texts: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), 8):
            some = texts[start : start + 8]
            batch = tokenizer(some, padding=True, truncation=True, max_length=8192, return_tensors="pt")
            with torch.no_grad():
                last = model(**batch).last_hidden_state[:, -1]
            found.append(torch.nn.functional.normalize(last, p=2, dim=1).numpy())
        return np.concatenate(found)

    return encode


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], sys.argv[2] == "quick")))
