"""Weak labels against gold, on Cranfield: what a judge that errs does to them, and what failed calls do not.

The judge is simulated on gold: a relevant passage (any gain) is found relevant with probability 0.9, any other one is
rejected with probability 0.95, each pair for itself and always alike. The whole cascade runs with this package's
defaults, about 25 calls a query.

Kendall's tau: thirteen retrieval systems (BM25 with several parameters, with and without stemming, MiniLM, and fusions)
are ranked by nDCG@10 under the gold judgements and under the weak ones. The systems that make the candidates are among
them, which flatters a little. False negatives: mined hard negatives that gold calls relevant.

Failed calls: a server that answers a third of its requests with errors, garbage or nothing; labels of pairs whose calls
failed are counted in the qrels and triples.

Quick: part of the documents, whose figures are of another task.
"""

import json
import os
import tempfile
from hashlib import blake2b
from pathlib import Path

import ir_measures
from cranfield import FIELDS, Cranfield, minilm, open_cranfield
from harness import Figure, Figures, link_or_copy
from ir_measures import nDCG
from scipy.stats import kendalltau

from data_pipeline.config.labels import LabelConfig
from data_pipeline.embeddings import Embedder
from data_pipeline.judge import ScriptedJudge
from data_pipeline.retrieval.candidates import CandidateConfig, find_candidates
from data_pipeline.stages.label import LabelReport, label
from data_pipeline.testing import misbehaving_server
from data_pipeline.weak_labels.qrels import read_qrels
from data_pipeline.weak_labels.state import State

_DOCUMENTS, _QUICK_DOCUMENTS = 1400, 250
_SENSITIVITY, _SPECIFICITY = 0.9, 0.95
_SYSTEMS = (
    *({"fusion": "bm25", "k1": k1, "b": b, "language": language}
      for k1, b in ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75)) for language in ("english", "none")),
    {"fusion": "dense"},
    *({"fusion": "minmax", "dense_weight": weight} for weight in (0.3, 0.5, 0.7)),
    {"fusion": "rrf"},
    {"fusion": "rrf", "k1": 1.5, "b": 0.75},
    {"fusion": "bm25_then_dense"},
)  # fmt: skip


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
        folder, embedder = Path(name), minilm()
        data = open_cranfield(folder, _QUICK_DOCUMENTS if quick else _DOCUMENTS)
        report = _labelled(data, folder / "labels", embedder)
        gold, weak = _ndcg(data, folder / "labels", embedder, report)
        negatives, wrong = _false_negatives(data, report)
        failed, leaked = _failing(data, folder / "failing", 20 if quick else 60)
    return {
        "kendall_tau_simulated_judge": Figure(
            float(kendalltau(gold, weak).statistic), "", ">= 0.90", f"{len(_SYSTEMS)} systems"
        ),
        "false_negative_share": Figure(wrong / max(1, negatives), "", "<= 0.03", f"of {negatives:,} mined negatives"),
        "labels_from_failed_calls": Figure(leaked, "labels", "0", f"{failed:,} pairs whose calls failed"),
        "calls_per_query": Figure(report.summary.calls / report.queries, "calls", "25", "as sampled"),
        "positives_per_query": Figure(
            sum(int(n) * count for n, count in report.figures["queries_by_positives"].items()) / report.queries, "", ""
        ),
        "queries_short_of_negatives": Figure(
            report.figures["queries_short_of_negatives"] / report.queries, "of queries", "", "fewer than 10"
        ),
    }


def _config(data: Cranfield, folder: Path, **more: object) -> LabelConfig:
    queries = folder.parent / "queries.jsonl"
    queries.write_text(
        "".join(json.dumps({"query_id": name, "query": text}) + "\n" for name, text in data.queries.items())
    )
    qrels = folder.parent / "gold.tsv"
    qrels.write_text(
        "".join(f"{query}\t0\t{document}\t{3}\n" for query, found in data.qrels.items() for document in found)
    )
    return LabelConfig.model_validate(
        {
            "work_dir": folder,
            "passages": {"source": "file", "path": data.corpus, **FIELDS.model_dump()},
            "queries": {"path": queries},
            "gold": qrels,
            "candidates": {"embedding": {"model_name": "sentence-transformers/all-MiniLM-L6-v2", "weights": "package"}},
            **more,
        }
    )


def _labelled(data: Cranfield, folder: Path, embedder: Embedder) -> LabelReport:
    ids, texts = data.passages.ids(), data.passages.texts()
    id_of = dict(zip(texts, ids, strict=True))
    query_of = {text: name for name, text in data.queries.items()}

    def grade(query: str, passage: str) -> int:
        luck = int.from_bytes(blake2b(f"{query}\0{passage}".encode(), digest_size=8).digest(), "big") / 2**64
        relevant = id_of[passage] in data.qrels.get(query_of[query], {})
        return 3 if luck < (_SENSITIVITY if relevant else 1 - _SPECIFICITY) else 0

    return label(_config(data, folder), judge=ScriptedJudge(grade), embedder=embedder)


def _ndcg(data: Cranfield, folder: Path, embedder: Embedder, report: LabelReport) -> tuple[list[float], list[float]]:
    """Of every system, under gold and under weak judgements."""
    gold = [ir_measures.Qrel(q, d, gain) for q, found in data.qrels.items() for d, gain in found.items()]
    labels = read_qrels(report.folder / "qrels.tsv")
    weak = [ir_measures.Qrel(q, d, grade) for q, found in labels.items() for d, grade in found.items()]
    values: tuple[list[float], list[float]] = ([], [])
    for number, settings in enumerate(_SYSTEMS):
        config = CandidateConfig.model_validate(settings)
        # Each system has a BM25 index of its own; all share the vectors.
        work = folder if config.fusion == "dense" else folder / f"system-{number}"
        lists = find_candidates(
            data.passages, list(data.queries.values()), config, work_dir=_linked(folder, work), embedder=embedder
        )
        named = (
            (name, data.passages.ids([one.row for one in found]))
            for name, found in zip(data.queries, lists, strict=True)
        )
        run = list(data.run(named))
        for qrels, found in zip((gold, weak), values, strict=True):
            found.append(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])
    return values


def _linked(folder: Path, work: Path) -> Path:
    """A work folder that has the vectors of another one, so that they are made once."""
    work.mkdir(exist_ok=True)
    for path in folder.glob("vectors-*.safetensors"):
        if not (work / path.name).exists():
            link_or_copy(path, work / path.name)
    return work


def _false_negatives(data: Cranfield, report: LabelReport) -> tuple[int, int]:
    """Mined negatives, and those of them that are relevant."""
    total = wrong = 0
    for line in (report.folder / "triples.jsonl").read_text().splitlines():
        record = json.loads(line)
        total += len(record["hard_negative_doc_ids"])
        wrong += sum(name in data.qrels.get(record["query_id"], {}) for name in record["hard_negative_doc_ids"])
    return total, wrong


def _failing(data: Cranfield, folder: Path, queries: int) -> tuple[int, int]:
    """Pairs whose calls failed, and how many of them are in an output as a label."""
    faults = ("500", "garbage", "truncated", "reset", "refusal", "429")
    plan = [(range(number, 10**6, 18), fault) for number, fault in enumerate(faults, start=1)]
    with misbehaving_server(plan) as server:
        config = _config(
            data, folder,
            queries={"path": folder.parent / "queries.jsonl", "max_queries": queries},
            judge={"base_url": server.base_url, "model": "tiny-judge", "tries": 1, "breaker_share": 1.0},
            candidates={"fusion": "bm25"}, negatives={"margin_score": "bm25"},
        )  # fmt: skip
        report = label(config)
    labelled = {(query, name) for query, found in read_qrels(report.folder / "qrels.tsv").items() for name in found}
    for line in (report.folder / "triples.jsonl").read_text().splitlines():
        record = json.loads(line)
        names = record["positive_doc_ids"] + record["hard_negative_doc_ids"]
        labelled |= {(record["query_id"], name) for name in names}
    with State(config.work_dir / "state.sqlite", read_only=True) as state:
        failed = {
            (pair.candidate.query_id, pair.candidate.passage_id)
            for pair in state.judged_pairs(config.run)
            if pair.judgement is None or pair.judgement.status != "ok"
        }
    return len(failed), len(failed & labelled)
