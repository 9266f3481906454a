import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def quick_run(script, path):
    """Figures of a benchmark with --quick, and its process."""
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text())["figures"], result


@pytest.mark.slow
def test_the_gpu_benchmark_runs_with_a_tiny_model(shared, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra bench")
    figures, result = quick_run("gpu_embedding.py", tmp_path / "found.json")
    assert figures["qwen3_tiny_tokens_per_s"]["value"] > 0
    assert abs(figures["qwen3_tiny_max_cosine_loss"]["value"]) < 1e-6
    assert figures["qwen3_tiny_padding_share"]["value"] < 0.01
    ways = [name for name in figures if name.endswith("_tokens_per_s")]
    assert len(ways) >= 7
    assert "left out" not in result.stderr


def test_the_gpu_benchmark_says_that_it_needs_a_gpu():
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_embedding.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode != 0
    assert "there is no CUDA GPU here; --quick runs the same code with a tiny model" in result.stderr


@pytest.mark.slow
def test_the_rehearsal_writes_its_result_after_every_part(shared, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra bench")
    figures, _ = quick_run("gpu_rehearsal.py", tmp_path / "found.json")
    assert figures["qwen3_tiny_tokens_per_s"]["value"] > 0
    assert figures["loader_rows_per_s"]["value"] > 0
    assert [name for name in figures if name.endswith("_wall_s")] == ["tests_wall_s", "tiny_wall_s", "loader_wall_s"]
