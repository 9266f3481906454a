"""How busy the judge's slots are: the real client, a server of its own process that takes 300 ms an answer.

Ideal is pairs x answer time / slots. The seed (auto-qrels) judges query by query, so that its slots idle while the
slowest call of each query ends; its way, the same calls with a wait after each query, is measured beside ours.
"""

import asyncio
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from harness import Figure, in_server_process

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.judge import load_judge
from data_pipeline.judge.pool import run_judge
from data_pipeline.testing import misbehaving_server
from data_pipeline.weak_labels.state import Pair, RunRecorder, SampledCandidate, State

_LATENCY_S, _SLOTS, _PER_QUERY = 0.3, 20, 25
_RUN = "benchmark"


def measure_slot_use(quick: bool) -> dict[str, Figure]:
    """`judge_slot_use`: ideal time by measured time, first call to last row on disk."""
    pairs = _pairs(20 if quick else 80)
    ideal_s = len(pairs) * _LATENCY_S / _SLOTS
    with in_server_process(_serve) as base_url, tempfile.TemporaryDirectory() as folder:
        config = JudgeConfig(base_url=base_url, model="tiny-judge", slots=_SLOTS)
        with State(Path(folder) / "state.db") as state:
            _fill(state, pairs)
            summary = run_judge(pairs, load_judge(config), RunRecorder(state, _RUN), config, total=len(pairs))
        if summary.labels != len(pairs) or summary.calls != len(pairs):
            raise SystemExit(f"expected {len(pairs)} labels from as many calls, got {summary}")
        by_query_s = asyncio.run(_query_by_query(pairs, config))
    ours, theirs = ideal_s / summary.wall_s, ideal_s / by_query_s
    note = f"{len(pairs)} pairs of {len(pairs) // _PER_QUERY} queries; query by query: {theirs:.3f}"
    return {"judge_slot_use": Figure(ours, "share", ">= 0.95", note)}


async def _query_by_query(pairs: list[Pair], config: JudgeConfig) -> float:
    """Seconds for the same calls, when each query waits for the one before."""
    judge = load_judge(config)
    await judge.open()
    slots = asyncio.Semaphore(_SLOTS)

    async def one(pair: Pair) -> None:
        async with slots:
            await judge.judge(pair.query, pair.passage)

    started = time.perf_counter()
    for first in range(0, len(pairs), _PER_QUERY):
        await asyncio.gather(*(one(pair) for pair in pairs[first : first + _PER_QUERY]))
    wall_s = time.perf_counter() - started
    await judge.close()
    return wall_s


def _pairs(queries: int) -> list[Pair]:
    passage = "A passage of about a hundred and twenty words, as a chunk of a document is. " * 9
    return [
        Pair(f"q{query}", f"p{place}", f"What is the number {query}?", f"{query}-{place}. {passage}")
        for query in range(queries)
        for place in range(_PER_QUERY)
    ]


def _fill(state: State, pairs: list[Pair]) -> None:
    state.start_run(_RUN, {})
    state.add_queries(_RUN, {pair.query_id: pair.query for pair in pairs}.items())
    for first in range(0, len(pairs), _PER_QUERY):
        some = pairs[first : first + _PER_QUERY]
        state.add_candidates(_RUN, some[0].query_id, [SampledCandidate(one.query_id, one.passage_id) for one in some])


def _serve(pipe: Connection) -> None:
    with misbehaving_server(latency_s=_LATENCY_S) as server:
        pipe.send(server.base_url)
        pipe.recv()


if __name__ == "__main__":
    from harness import print_table

    print_table("judging", measure_slot_use("--quick" in sys.argv))
