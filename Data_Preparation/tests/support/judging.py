"""What the tests of judging share: a few pairs in a state, and a config that does not wait."""

from contextlib import contextmanager

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.judge.pool import run_judge
from data_pipeline.weak_labels.state import Pair, RunRecorder, SampledCandidate, State

RUN = "run"


def make_pairs(queries=4, passages=3):
    return [
        Pair(f"q{q}", f"p{q}-{p}", f"what is number {q}?", f"Passage {p}. It speaks of number {q} at some length.")
        for q in range(queries)
        for p in range(passages)
    ]


def quick(base_url="http://127.0.0.1:9/v1", **changes):
    values = {
        "base_url": base_url, "model": "tiny-judge", "slots": 4, "tries": 2, "backoff_s": 0.01, "max_backoff_s": 0.02,
        "timeout_s": 20.0, "flush_s": 0.02, "breaker_window": 1000,
    }  # fmt: skip
    return JudgeConfig(**(values | changes))


@contextmanager
def opened(path, pairs, run=RUN):
    """A state that has these pairs as candidates."""
    with State(path) as state:
        fill(state, pairs, run)
        yield state


def fill(state, pairs, run=RUN):
    state.start_run(run, {"seed": 1})
    state.add_queries(run, list({pair.query_id: pair.query for pair in pairs}.items()))
    for query_id in dict.fromkeys(pair.query_id for pair in pairs):
        mine = [pair for pair in pairs if pair.query_id == query_id]
        state.add_candidates(
            run, query_id, [SampledCandidate(query_id, pair.passage_id, {"bm25": 1.5}) for pair in mine]
        )


def judge_all(path, pairs, judge, config=None, **more):
    with opened(path, pairs) as state:
        summary = run_judge(pairs, judge, RunRecorder(state, RUN), config or quick(), **more)
        return summary, list(state.judged_pairs(RUN))


def grades(found):
    """Pair -> grade, of those that have one."""
    return {
        (one.query_id, one.candidate.passage_id): one.judgement.grade
        for one in found
        if one.judgement is not None and one.judgement.status == "ok"
    }


def statuses(found):
    return [None if one.judgement is None else one.judgement.status for one in found]
