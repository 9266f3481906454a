"""What a quarter of an hour on a borrowed GPU can show: `python Data_Preparation/benchmarks/gpu_rehearsal.py`.

One command under eight minutes, without network, in the order of what is asked first. Every part is a process of its
own with a time limit, and its figures are in the result before the next part begins: whenever the machine is taken
away, what was measured stays.

    tests    pytest -m gpu: every attention path against float32 on the CPU, memory that runs out, compiled layers
    0.6b     Qwen3-Embedding-0.6B (random weights, the real sizes and tokenizer) beside sentence-transformers
    4b       the same for 4B
    loader   a training step on the GPU, fed from float16 vectors on disk

Texts are one in four of WikiText-2's validation and test paragraphs. Quick: a tiny model, also on a CPU.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_embedding import figures_of
from harness import CHECKOUT, RESULTS, Figure, Figures, print_table, write_result

_HERE = Path(__file__).parent
_RESULT = RESULTS / "gpu_rehearsal.json"
_LIMITS_S = {"tiny": 300, "tests": 150, "0.6b": 110, "4b": 150, "loader": 60}
_SHARE = 4
_WAYS = ("varlen", "flash_attention_2", "sentence_transformers_sdpa_32", "sentence_transformers_flash_attention_2_32")
_TINY_WAYS = ("segments", "sentence_transformers_sdpa_8")
_ROWS, _DIM, _BATCH = 200_000, 1024, 512


def measure(quick: bool, path: Path | None = None) -> Figures:
    """Measure part by part, and write the result after each; see the top of this file."""
    sizes = ("tiny",) if quick else ("0.6b", "4b")
    parts: dict[str, Callable[[], Figures]] = {"tests": lambda: _tests(quick)}
    parts |= {size: lambda size=size: _model(size) for size in sizes}
    parts["loader"] = lambda: _loader(quick)
    figures: dict[str, Figure] = {}
    for name, part in parts.items():
        started = time.perf_counter()
        try:
            figures |= part()
        except (subprocess.SubprocessError, ValueError, KeyError, IndexError) as error:
            print(f"{name}: {type(error).__name__}: {str(error)[-2000:]}", file=sys.stderr)
        figures[f"{name}_wall_s"] = Figure(time.perf_counter() - started, "s", f"<= {_LIMITS_S.get(name, 60)}")
        if path is not None:
            write_result("gpu_rehearsal", figures, path)
        print_table(f"gpu_rehearsal: {name}", figures)
    return figures


def _tests(quick: bool) -> Figures:
    """Counts of the tests that need a GPU."""
    chosen = ["-m", "gpu", "Data_Preparation/tests/embeddings/transformer/test_gpu.py"]
    if quick:
        chosen = ["--collect-only", *chosen]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=_LIMITS_S["tests"], check=False
    )
    print(done.stdout[-3000:])
    closing = done.stdout.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|tests)", closing)}
    return {
        "tests_passed": Figure(counts.get("passed", 0), "tests"),
        "tests_failed": Figure(counts.get("failed", 0), "tests", "<= 0"),
        "tests_skipped": Figure(counts.get("skipped", 0), "tests"),
    }


def _model(size: str) -> Figures:
    ways, share = (_TINY_WAYS, 1) if size == "tiny" else (_WAYS, _SHARE)
    command = [
        sys.executable,
        str(_HERE / "gpu_embedding.py"),
        "--measure",
        size,
        "--share",
        str(share),
        "--only",
        *ways,
    ]
    return figures_of(_json_of(command, _LIMITS_S.get(size, 60)), size)


def _loader(quick: bool) -> Figures:
    command = [sys.executable, __file__, "--part", "loader", *(["--quick"] if quick else [])]
    found = _json_of(command, _LIMITS_S["loader"])
    return {
        "loader_rows_per_s": Figure(found["rows_per_s"], "rows/s", "", f"{found['dim']} dimensions, {found['device']}"),
        "loader_wait_share": Figure(found["wait_share"], "of the time", "<= 0.1", "a training step waits for rows"),
    }


def _json_of(command: list[str], limit_s: float) -> Any:
    """Run a part in a process of its own; the last line that it prints is JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=limit_s, check=True, cwd=CHECKOUT
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _train(quick: bool) -> dict[str, Any]:
    """Train a linear layer on rows from disk; how fast rows come, and how long the step waits for them."""
    import torch
    from loader_stores import made_up_vectors, short_texts, write_store

    from data_pipeline import ELMDataset

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, dim = (2_000, 64) if quick else (_ROWS, _DIM)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder, rows, dim, short_texts(), made_up_vectors(dim), shard_rows=rows)
        dataset = ELMDataset(folder, split="train", dtype=torch.float16, columns=("embedding",))
        layer = torch.nn.Sequential(torch.nn.Linear(dim, 4096), torch.nn.GELU(), torch.nn.Linear(4096, dim)).to(device)
        optimizer = torch.optim.AdamW(layer.parameters())
        loader = dataset.get_dataloader(batch_size=_BATCH, shuffle="full", seed=0, device=device)
        waited, seen, started = 0.0, 0, time.perf_counter()
        batches = iter(loader)
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            if batch is None:
                break
            vectors = batch["embedding"].float()
            assert vectors.device.type == device
            loss = (layer(vectors) - vectors).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(vectors)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    assert seen == rows
    return {"rows_per_s": rows / seconds, "wait_share": waited / seconds, "dim": dim, "device": device}


def main() -> None:
    """The one command."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a tiny model, on the GPU or the CPU")
    parser.add_argument("--json", type=Path, default=None, help=f"where to write the result (default: {_RESULT.name})")
    parser.add_argument("--part", choices=("loader",), help="run one part and print its JSON")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(_train(arguments.quick)))
        return
    measure(arguments.quick, arguments.json or (None if arguments.quick else _RESULT))


if __name__ == "__main__":
    main()
