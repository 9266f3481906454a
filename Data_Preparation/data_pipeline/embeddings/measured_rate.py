"""How fast this machine embeds, measured in seconds: for `elm doctor`."""

import time
from dataclasses import dataclass
from itertools import cycle, islice

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.engine import Engine
from data_pipeline.embeddings.load import load_embedder
from data_pipeline.embeddings.plan import make_plan

_SECONDS = 2.0
_MOST_TOKENS = 65_536  # of a model that is so fast that its batches are larger
_TEXTS = [
    f"Paragraph {number}. The lighthouse keeper counted the ships that passed before the fog came in from the north, "
    "and wrote each of them into his book: the hour, the flag, the sails she carried, and whether she answered. " * 3
    for number in range(64)
]


@dataclass(frozen=True)
class MeasuredRate:
    """Speed of a model on this machine."""

    tokens_per_s: float
    batch_tokens: int
    """Largest number of tokens in a batch, at most the default of the model, that fits into memory."""


def measure_rate(config: EmbeddingConfig) -> MeasuredRate:
    """Measure how many tokens a batch may have, and how many tokens per second are computed in such batches.

    Args:
        config: names the model and the engine.

    Raises:
        DataPipelineError: the model cannot be loaded, or a batch of a single text does not fit.
    """
    embedder = load_embedder(config)
    batch_tokens = config.batch_tokens or embedder.runtime.batch_tokens
    lengths = embedder.tokenize(_TEXTS).lengths
    count = int(min(batch_tokens, _MOST_TOKENS) // lengths.mean()) + 1
    # Texts that differ, since each distinct text is computed once.
    texts = [f"{number} {text}" for number, text in enumerate(islice(cycle(_TEXTS), count))]
    plan = make_plan(embedder.tokenize(texts))
    while True:
        engine = Engine(embedder, batch_tokens)
        for _ in engine.run(plan, str):  # the first call selects kernels, which takes time
            pass
        if not engine.tally.memory_backoffs:
            break
        batch_tokens //= 2
    started, tokens = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        for _ in Engine(embedder, batch_tokens).run(plan, str):
            pass
        tokens += int(plan.tokens.lengths.sum())
    return MeasuredRate(tokens / (time.perf_counter() - started), batch_tokens)


def measure_tokens_per_s(config: EmbeddingConfig) -> float:
    """Measure how many tokens per second an embedder computes, for texts of about 150 tokens.

    Args:
        config: names the model and the engine.

    Raises:
        DataPipelineError: the model cannot be loaded.
    """
    return measure_rate(config).tokens_per_s
