"""How fast this machine embeds, measured in seconds: for `elm doctor`."""

import time

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.engine import Engine
from data_pipeline.embeddings.load import load_embedder
from data_pipeline.embeddings.plan import make_plan

_SECONDS = 2.0
_TEXTS = [
    f"Paragraph {number}. The lighthouse keeper counted the ships that passed before the fog came in from the north, "
    "and wrote each of them into his book: the hour, the flag, the sails she carried, and whether she answered. " * 3
    for number in range(64)
]


def measure_tokens_per_s(config: EmbeddingConfig) -> float:
    """Measure how many tokens per second an embedder computes, for texts of about 150 tokens.

    Args:
        config: names the model and the engine.

    Raises:
        DataPipelineError: the model cannot be loaded.
    """
    embedder = load_embedder(config)
    plan = make_plan(embedder.tokenize(_TEXTS))
    for _ in Engine(embedder).run(plan, str):  # the first call selects kernels, which takes time
        pass
    started, tokens = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        for _ in Engine(embedder).run(plan, str):
            pass
        tokens += int(plan.tokens.lengths.sum())
    return tokens / (time.perf_counter() - started)
