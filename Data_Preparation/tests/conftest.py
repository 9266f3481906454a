"""What the tests share: settings that need no model, a tiny real model, the data beside the checkout."""

import logging
import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from support.shared_data import SHARED

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig

# No test reaches for the network, whatever it forgets to say.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Threads of torch that wait for each other by spinning take the cores from what they wait for, where other processes
# use the machine too: several times slower with two test processes on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A report takes a second of every run of the command line, and its tests ask for one.
os.environ.setdefault("ELM_REPORT", "false")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by their slow tests for xdist, and skip tests of POSIX elsewhere."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        # Files are handed out in this order: none that takes minutes may come when the others are done.
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])
    if not hasattr(os, "fork"):
        for item in items:
            if item.get_closest_marker("posix"):
                item.add_marker(
                    pytest.mark.skip(reason="needs fork, SIGKILL and the like, which Windows does not have")
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs and prints may hold half of a surrogate pair, which a test process cannot send to the main one."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def shared() -> Path:
    """Folder of real data beside the checkout; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"real data is not at {SHARED} (set ELM_SHARED_DATA)")
    return SHARED


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The bundled sample and the hashing embedder, writing to a folder of its own."""
    return Config(
        data_dir=tmp_path / "data",
        logs_dir=tmp_path / "logs",
        corpus=CorpusConfig(source="sample", name="sample"),
        preprocess=PreprocessConfig(min_tokens=60),
        embedding=EmbeddingConfig(model_name="hashing", batch_size=16),
    )


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 model of two layers with the real Qwen3 tokenizer, as a folder."""
    source = SHARED / "qwen3-tokenizer"
    if not source.is_dir():
        pytest.skip(f"the Qwen3 tokenizer is not at {source} (set ELM_SHARED_DATA)")
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    settings = Qwen3Config(
        vocab_size=151_669, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=4096,
    )  # fmt: skip
    Qwen3Model(settings).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """A command sets up the root logger; it does not outlive a test."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More are slower with models as small as these; a test may change the number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
