"""Embedding on a GPU at the size of the real models, beside sentence-transformers and the model card's loop.

One command, and nothing from the network: `python Data_Preparation/benchmarks/gpu_embedding.py`. The exact
configurations of Qwen3-Embedding-4B and 0.6B with random weights made on the device, the real tokenizer, and
the sections of WikiText-2's validation and test files (`$ELM_SHARED_DATA`). Speed does not depend on what
the weights are, so the speeds are those of the real models; the vectors mean nothing, but must agree.

Each way is timed from texts to vectors, once, after a warm-up on some of the texts; a loop that is slow by
nature gets a part of them. The ceiling is a product of two 8192 x 8192 matrices in the same precision.
On a machine without a GPU, and with --quick, a tiny model runs the same code.
"""

import gc
import json
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Figure,
    Figures,
    in_fresh_process,
    link_or_copy,
    print_table,
    shared_data,
    write_readme,
    write_result,
)
from models import make_qwen3, qwen3_sentence_transformer

from data_pipeline.errors import ModelError

_PRODUCT_SIZE = 8192
_EXACT_TEXTS = 16
_TINY_TEXTS = 24
_CARD_SHARE = 8  # the model card's loop gets one text of so many
_GOALS = {"4b": ">= 75000", "0.6b": ">= 400000"}

Encode = Callable[[list[str]], np.ndarray]


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    import torch

    if not torch.cuda.is_available() and not quick:
        raise SystemExit("there is no CUDA GPU here; --quick runs the same code with a tiny model on the CPU")
    if quick:
        return figures_of(in_fresh_process(Path(__file__), "--measure", "tiny"), "tiny")
    found = {size: in_fresh_process(Path(__file__), "--measure", size) for size in ("4b", "0.6b")}
    return {**figures_of(found["4b"], "4b"), **figures_of(found["0.6b"], "0.6b")}


def figures_of(found: dict[str, Any], size: str) -> dict[str, Figure]:
    """Figures of one model's measurement."""
    name = f"qwen3_{size.replace('.', '')}"
    best, peer = found["ways"][found["ours"]], found["ways"][found["peer"]]
    first = "" if size == "4b" else f"{name}_"
    figures = {
        f"{name}_tokens_per_s": Figure(
            best["tokens_per_s"], "tokens/s", _GOALS.get(size, ""), f"{found['ours']}, {found['tokens']:,} tokens"
        ),
        f"{first}share_of_matmul_ceiling": Figure(
            best["tokens_per_s"] * found["flops_per_token"] / found["ceiling_flops"], "of the measured ceiling",
            ">= 0.75" if size == "4b" else "", f"{found['ceiling_flops'] / 1e12:,.4g} TFLOP/s",
        ),
        f"{first}speed_vs_sentence_transformers": Figure(
            best["tokens_per_s"] / peer["tokens_per_s"], "x", ">= 1.5" if size == "4b" else "", found["peer"]
        ),
        f"{first}max_cosine_loss": Figure(found["max_cosine_loss"], "", "", "to one text at a time in float32"),
        f"{first}padding_share": Figure(found["padding_share"], "of tokens", "<= 0.01"),
    }  # fmt: skip
    for way, numbers in found["ways"].items():
        note = f"{numbers['peak_gb']:.1f} GB at most, 1 - cosine to ours {numbers['cosine_loss']:.1g}"
        figures[f"{name}_{way}_tokens_per_s"] = Figure(numbers["tokens_per_s"], "tokens/s", "", note)
    return figures


def measure_size(size: str, share: int = 1, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Measure one model.

    Args:
        size: tiny, 0.6b or 4b.
        share: one text of so many is taken.
        only: ways to measure besides the package's own choice; empty for all.
    """
    import torch

    device, dtype = ("cuda", "float16") if torch.cuda.is_available() else ("cpu", "float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        make_qwen3(size, folder, device, dtype)
        texts = _paragraphs(folder, Path(name))[: _TINY_TEXTS if size == "tiny" else None : share]
        return _compare(folder, texts, device, dtype, only)


def _compare(folder: Path, texts: list[str], device: str, dtype: str, only: tuple[str, ...]) -> dict[str, Any]:
    settings = {"model_name": str(folder), "device": device, "dtype": dtype}
    plan = _plan(settings, texts)
    lengths = plan["lengths"]
    first, vectors = _timed(lambda: _ours(settings), texts, lengths, None)
    ways = {"auto": first}
    for way, make in _other_ways(settings).items():
        if only and way not in only:
            continue
        try:
            ways[way], _ = _timed(make, texts, lengths, vectors)
        except (ImportError, ValueError, RuntimeError, ModelError) as error:  # not installed, or not for this GPU
            print(f"{way}: left out: {type(error).__name__}: {error}", file=sys.stderr)
    some = slice(None, None, _CARD_SHARE)
    if not only:
        ways["model_card"], _ = _timed(
            lambda: _model_card(folder, device, dtype), texts[some], lengths[some], vectors[some]
        )
    exact = list(range(0, len(texts), -(-len(texts) // _EXACT_TEXTS)))
    alone = _ours({**settings, "dtype": "float32", "attention": "padded", "batch_size": 1})(
        [texts[row] for row in exact]
    )
    # The fastest of ours that changes nothing but the last bits; float8 is something else.
    own = {way for way in ways if not way.startswith(("sentence", "model_card", "float8"))}
    return {
        "ways": ways,
        "ours": max(own, key=lambda way: ways[way]["tokens_per_s"]),
        "peer": max((way for way in ways if way.startswith("sentence")), key=lambda way: ways[way]["tokens_per_s"]),
        "tokens": int(lengths.sum()),
        "flops_per_token": plan["flops"] / int(lengths.sum()),
        "padding_share": plan["padding_share"],
        "max_cosine_loss": _cosine_loss(vectors[exact], alone),
        "ceiling_flops": _ceiling(device, dtype),
    }


def _other_ways(settings: dict[str, Any]) -> dict[str, Callable[[], Encode]]:
    """Ours with every setting that might be faster, and sentence-transformers."""
    ours: dict[str, dict[str, Any]] = {"segments": {"attention": "segments"}, "padded": {"attention": "padded"}}
    if settings["device"] == "cuda":
        ours |= {name: {"attention": name} for name in ("varlen", "flash_attention_2")}
        ours |= {"compiled": {"compile": True}, "float8": {"fp8": True}}
    ways: dict[str, Callable[[], Encode]] = {
        way: partial(_ours, {**settings, **setting}) for way, setting in ours.items()
    }
    for attention in ("sdpa", "flash_attention_2") if settings["device"] == "cuda" else ("sdpa",):
        for batch_size in (8, 32):
            way = f"sentence_transformers_{attention}_{batch_size}"
            ways[way] = partial(_sentence_transformers, settings, attention, batch_size)
    return ways


def _timed(
    make: Callable[[], Encode], texts: list[str], lengths: np.ndarray, expected: np.ndarray | None
) -> tuple[dict[str, float], np.ndarray]:
    """Speed and memory of one way, whose model is gone afterwards."""
    import torch

    on_gpu = torch.cuda.is_available()
    encode = make()
    encode(texts[:: max(1, len(texts) // 64)])
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    del encode
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    loss = 0.0 if expected is None else _cosine_loss(vectors, expected)
    return {"tokens_per_s": float(lengths.sum()) / seconds, "peak_gb": peak, "cosine_loss": loss}, vectors


def _cosine_loss(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float((1 - (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def _ceiling(device: str, dtype: str) -> float:
    """Floating-point operations a second of a large matrix product, the best of some."""
    import torch

    size = _PRODUCT_SIZE if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        torch.matmul(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _paragraphs(model: Path, folder: Path) -> list[str]:
    """Paragraphs of WikiText-2's validation and test files, as the main job makes them."""
    from data_pipeline import load_preset
    from data_pipeline.stages.pipeline import prepare_paragraphs
    from data_pipeline.store import ParagraphStore

    (folder / "corpus").mkdir()
    for name in ("wiki.valid.tokens", "wiki.test.tokens"):
        link_or_copy(shared_data("wikitext-2") / name, folder / "corpus" / name)
    config = load_preset("offline", {
        "data_dir": folder / "data", "corpus.source": "wikitext", "corpus.path": folder / "corpus",
        "embedding.model_name": str(model), "embedding.weights": "hub",
    })  # fmt: skip
    prepare_paragraphs(config)
    store = ParagraphStore(config.processed_dir)
    batches = (batch for split in store.splits for shard in store.shards(split) for batch in shard.batches(["text"]))
    return [text for batch in batches for text in batch["text"].to_pylist()]


def _plan(settings: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    from data_pipeline.embeddings.plan import make_plan

    embedder = _embedder(settings)
    plan = make_plan(embedder.tokenize(texts))
    summary = plan.summary(embedder.runtime, embedder.runtime.batch_tokens, None)
    return {"lengths": plan.tokens.lengths, "flops": summary.flops, "padding_share": summary.padding_share}


def _embedder(settings: dict[str, Any]) -> Any:
    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings import load_embedder

    return load_embedder(EmbeddingConfig(**settings))


def _ours(settings: dict[str, Any]) -> Encode:
    from data_pipeline.embeddings import encode

    embedder = _embedder(settings)
    size = settings.get("batch_size")
    return lambda texts: encode(embedder, texts, batch_size=size)


def _sentence_transformers(settings: dict[str, Any], attention: str, batch_size: int) -> Encode:
    import torch

    peer = qwen3_sentence_transformer(
        settings["model_name"], 8192, dtype=getattr(torch, settings["dtype"]), attn_implementation=attention
    ).to(settings["device"])
    return lambda texts: peer.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)


def _model_card(folder: Path, device: str, dtype: str) -> Encode:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()

    def encode(texts: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), 8):
            some = texts[start : start + 8]
            batch = tokenizer(some, padding=True, truncation=True, max_length=8192, return_tensors="pt").to(device)
            with torch.no_grad():
                last = model(**batch).last_hidden_state[:, -1]
            found.append(torch.nn.functional.normalize(last, p=2, dim=1).float().cpu().numpy())
        return np.concatenate(found)

    return encode


def main() -> None:
    """The one command; with `--measure SIZE` one model's part of it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a tiny model, on the GPU or the CPU")
    parser.add_argument("--json", type=Path, help="where to write the result (default: results/embedding_gpu.json)")
    parser.add_argument("--measure", choices=("tiny", "0.6b", "4b"), help="print one model's numbers as JSON")
    parser.add_argument("--share", type=int, default=1, help="with --measure: take one text of so many")
    parser.add_argument("--only", nargs="*", default=(), help="with --measure: ways to measure besides auto")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_size(arguments.measure, arguments.share, tuple(arguments.only))))
        return
    figures = measure(arguments.quick)
    print_table("embedding_gpu", figures)
    if arguments.json or not arguments.quick:
        write_result("embedding_gpu", figures, arguments.json)
    if not arguments.quick and not arguments.json:
        write_readme()


if __name__ == "__main__":
    main()
