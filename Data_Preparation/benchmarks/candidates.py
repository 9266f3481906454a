"""Candidates for judging: how good they are on Cranfield, and what finding them costs.

Quality: Cranfield 1400, titles and abstracts, MiniLM (weights of the extra `offline`), this package's defaults.
Each of the 225 queries has one document with the code -1, by every sign the paper whose author asked it: it is
dropped from the runs before they are scored. Scored by ir-measures.

Speed of BM25: made-up passages whose words are as frequent as in texts (Zipf), the queries' words likewise. The
peer is bm25s's own `retrieve`, over the same index held in memory, all queries in one call; both ways tokenise
with the same tokenizer. In turns, the fastest counting. Scores must be equal, and rows wherever a score is the
only one of its kind.

Lookups: the ids of 200 candidates -> their rows among a million, beside `id in list` and `list.index` of each,
which the older agent did for every query.

The judge's slots: see `judging.py`.

Quick: part of Cranfield, whose figures are then of an easier task, and fewer passages.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cranfield import minilm, open_cranfield
from harness import Figure, Figures
from judging import measure_slot_use

_CRANFIELD, _QUICK_CRANFIELD = 1400, 250
_PASSAGES, _QUICK_PASSAGES = 100_000, 10_000
_WORDS, _PASSAGE_WORDS, _QUERY_WORDS = 50_000, 60, 10
_QUERIES = 200
_K = 200
_IDS, _LOOKUPS = 1_000_000, 40
_TURNS = 3
_WAYS = {
    "": ("minmax", "fused by min-max, the default"),
    "_rrf": ("rrf", "fused by reciprocal ranks"),
    "_bm25": ("bm25", "BM25 alone"),
    "_dense": ("dense", "MiniLM alone, every passage"),
    "_bm25_then_dense": ("bm25_then_dense", "the older order"),
}


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
        quality = _quality(Path(name), _QUICK_CRANFIELD if quick else _CRANFIELD)
        speed = _bm25(Path(name) / "zipf", _QUICK_PASSAGES if quick else _PASSAGES, 1 if quick else _TURNS)
    goals = {"": (">= 0.455", ">= 0.87")}
    figures = {}
    for way, (_, note) in _WAYS.items():
        ndcg, recall = goals.get(way, ("", ""))
        figures[f"ndcg_at_10{way}"] = Figure(quality[way]["nDCG@10"], "", ndcg, note)
        figures[f"recall_at_200{way}"] = Figure(quality[way]["R@200"], "", recall, note)
    return {
        **figures,
        "bm25_queries_per_s_vs_bm25s": Figure(
            speed["ours"] / speed["peer"], "x", "", f"{speed['passages']:,} passages, {_K} deep, {speed['backend']}"
        ),
        "bm25_queries_per_s": Figure(speed["ours"], "queries/s", "", "tokenising included"),
        "bm25s_queries_per_s": Figure(speed["peer"], "queries/s", "", "the peer, tokenising included"),
        "index_passages_per_s": Figure(speed["index"], "passages/s", "", f"of {_PASSAGE_WORDS} words"),
        **measure_slot_use(quick),
        "lookup_speedup_at_1m": Figure(_lookups(), "x", ">= 50", "rows of ids, beside `in` and `list.index`"),
    }


def _quality(folder: Path, documents: int) -> dict[str, dict[str, float]]:
    """nDCG@10 and R@200 of every way."""
    import ir_measures
    from ir_measures import R, nDCG

    from data_pipeline.retrieval.candidates import CandidateConfig, find_candidates

    data, embedder = open_cranfield(folder, documents), minilm()
    qrels = [ir_measures.Qrel(query, name, gain) for query, gains in data.qrels.items() for name, gain in gains.items()]
    found = {}
    for way, (fusion, _) in _WAYS.items():
        texts, work = list(data.queries.values()), folder / "work"
        lists = find_candidates(data.passages, texts, CandidateConfig(fusion=fusion), work_dir=work, embedder=embedder)
        named = (
            (name, data.passages.ids([one.row for one in some])) for name, some in zip(data.queries, lists, strict=True)
        )
        scores = ir_measures.calc_aggregate([nDCG @ 10, R @ 200], qrels, list(data.run(named)))
        found[way] = {str(name): float(value) for name, value in scores.items()}
    return found


def _bm25(folder: Path, count: int, turns: int) -> dict[str, Any]:
    """Queries a second of both ways, after checking that they found the same."""
    import bm25s

    from data_pipeline.retrieval.bm25 import open_bm25
    from data_pipeline.retrieval.passages import passages_of_lists
    from data_pipeline.retrieval.tokenizer import Bm25Tokenizer

    rng = np.random.default_rng(0)
    texts = _zipf_texts(rng, count, _PASSAGE_WORDS)
    queries = _zipf_texts(rng, _QUERIES, _QUERY_WORDS)
    started = time.perf_counter()
    index = open_bm25(passages_of_lists([str(row) for row in range(count)], texts), folder)
    indexing = time.perf_counter() - started
    backend = "numba" if _has_numba() else "numpy"
    peer = bm25s.BM25.load(folder, backend=backend, show_progress=False)
    tokenizer = Bm25Tokenizer()

    def bare() -> Any:
        return peer.retrieve([tokenizer.tokens(query) for query in queries], k=_K, show_progress=False)

    ways: dict[str, Callable[[], Any]] = {"ours": lambda: list(index.search(queries, _K)), "peer": bare}
    best = dict.fromkeys(ways, float("inf"))
    answers = {}
    for way, run in ways.items():
        answers[way] = run()  # also warms up
    for _ in range(turns):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            best[way] = min(best[way], time.perf_counter() - started)
    for query, ours in enumerate(answers["ours"]):
        _check_equal(ours.rows, ours.scores, answers["peer"].documents[query], answers["peer"].scores[query])
    return {
        **{way: _QUERIES / seconds for way, seconds in best.items()},
        "index": count / indexing,
        "passages": count,
        "backend": backend,
    }


def _check_equal(rows: np.ndarray, scores: np.ndarray, peer_rows: np.ndarray, peer_scores: np.ndarray) -> None:
    """Ends the run where the answers differ in more than the order of equal scores and in passages without any."""
    positive = peer_scores > 0
    peer_rows, peer_scores = peer_rows[positive], peer_scores[positive]
    if not np.array_equal(scores, peer_scores):
        raise SystemExit("our BM25 scores are not those of bm25s")
    # At the cut, and among each other, equal scores may come in any order from bm25s.
    values, counts = np.unique(scores, return_counts=True)
    alone = np.isin(scores, values[counts == 1]) & (scores > (scores[-1] if len(scores) == _K else 0))
    if not np.array_equal(rows[alone], peer_rows[alone]):
        raise SystemExit("our BM25 rows are not those of bm25s")


def _zipf_texts(rng: np.random.Generator, count: int, words: int) -> list[str]:
    shares = 1 / np.arange(10, _WORDS + 10)
    numbers = rng.choice(_WORDS, (count, words), p=shares / shares.sum())
    return [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]


def _has_numba() -> bool:
    import importlib.util

    return importlib.util.find_spec("numba") is not None


def _lookups() -> float:
    """How many times faster the rows of some ids are found."""
    from data_pipeline.retrieval.passages import passages_of_lists

    ids = [f"document-{row // 5}_chunk_{row % 5}" for row in range(_IDS)]
    passages = passages_of_lists(ids, [""] * _IDS)
    # One in the middle of each equal part, so that the list's mean way is half of it.
    rows = [(2 * place + 1) * _IDS // (2 * _LOOKUPS) for place in range(_LOOKUPS)]
    wanted = [f"document-{row // 5}_chunk_{row % 5}" for row in rows]  # not the list's own strings: no quick `is`
    started = time.perf_counter()
    older = [ids.index(name) for name in wanted if name in ids]
    older_s = time.perf_counter() - started
    best = float("inf")
    for _ in range(_TURNS):
        started = time.perf_counter()
        found = passages.rows_of(wanted)
        best = min(best, time.perf_counter() - started)
    if not older == rows == found.tolist():
        raise SystemExit("the rows of some ids are wrong")
    return older_s / best
