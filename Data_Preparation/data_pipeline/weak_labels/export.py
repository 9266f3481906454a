"""Labels on disk, rendered from the state: the same judgements give the same bytes.

| file | what it is |
|---|---|
| `qrels.tsv` | TREC: query id, 0, passage id, grade |
| `triples.jsonl` | a line a query with positives: ids, grades, hard negatives and where they came from |
| `training.parquet` | sentence-transformers: anchor, positive, negative_1, ..., negative_n |
| `margins.parquet` | for MarginMSE: query, positive, negative, and the difference of their scores |
| `beir/` | corpus.jsonl, queries.jsonl, qrels/train.tsv |
| `judgements.parquet` | every pair, with scores, ranks, status, grade and probability |
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.utils import batched, publish
from data_pipeline.weak_labels.negatives import Mined
from data_pipeline.weak_labels.state import JudgedPair

_ROWS = 10_000


def by_query(pairs: Iterable[JudgedPair]) -> Iterator[list[JudgedPair]]:
    """The pairs of each query, in the queries' order."""
    for _, group in groupby(pairs, key=lambda pair: pair.candidate.query_id):
        yield list(group)


def write_qrels(path: Path, pairs: Iterable[JudgedPair], with_zeros: bool) -> int:
    """Grades in TREC's format; only of pairs that were judged.

    Args:
        path: of the file.
        pairs: of a run.
        with_zeros: also those judged not relevant.

    Returns:
        How many were written.
    """
    count = 0
    with _lines(path) as file:
        for pair in pairs:
            judgement = pair.judgement
            if judgement is None or judgement.grade is None or (judgement.grade == 0 and not with_zeros):
                continue
            ids = (pair.candidate.query_id, pair.candidate.passage_id)
            file.write(f"{ids[0]}\t0\t{ids[1]}\t{judgement.grade}\n")
            count += 1
    return count


def write_triples(path: Path, mined: Iterable[Mined]) -> int:
    """A JSON object for each query that has a positive; returns how many."""
    count = 0
    with _lines(path) as file:
        for query in mined:
            if not query.positives:
                continue
            record: dict[str, Any] = {
                "query_id": query.query_id,
                "query": query.query,
                "positive_doc_ids": [pair.candidate.passage_id for pair in query.positives],
                "positive_scores": [pair.judgement.grade for pair in query.positives if pair.judgement],
                "hard_negative_doc_ids": [negative.passage_id for negative in query.negatives],
                "hard_negatives": [
                    {"doc_id": negative.passage_id, "kind": negative.kind, "p": negative.p,
                     "scores": dict(negative.scores), "ranks": dict(negative.ranks)}
                    for negative in query.negatives
                ],
                "left_out": dict(query.left_out),
                "missing_negatives": query.missing,
            }  # fmt: skip
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_training(path: Path, mined: Iterable[Mined], text_of: Callable[[str], str], negatives: int) -> int:
    """Rows for sentence-transformers: each positive with the query's negatives; queries with fewer are left out.

    Args:
        path: of the file.
        mined: of all queries.
        text_of: a passage's text.
        negatives: of a row.

    Returns:
        How many rows.
    """
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, negatives + 1))]
    rows = (
        (query.query, text_of(pair.candidate.passage_id),
         *(text_of(negative.passage_id) for negative in query.negatives[:negatives]))
        for query in mined
        if len(query.negatives) >= negatives
        for pair in query.positives
    )  # fmt: skip
    return _parquet(path, pa.schema([(name, pa.large_string()) for name in names]), rows)


def write_margins(path: Path, mined: Iterable[Mined], text_of: Callable[[str], str], score: str) -> int:
    """Rows for MarginMSE (Hofstaetter et al., 2020): the positive's score less the negative's; returns how many."""
    schema = pa.schema(
        [("query", pa.large_string()), ("positive", pa.large_string()), ("negative", pa.large_string()),
         ("label", pa.float32())]
    )  # fmt: skip
    rows = (
        (query.query, text_of(pair.candidate.passage_id), text_of(negative.passage_id),
         pair.candidate.scores[score] - negative.scores[score])
        for query in mined
        for pair in query.positives
        for negative in query.negatives
        if score in pair.candidate.scores and score in negative.scores
    )  # fmt: skip
    return _parquet(path, schema, rows)


def write_judgements(path: Path, pairs: Iterable[JudgedPair]) -> int:
    """Every pair, judged or not, with all that is known of it; returns how many."""
    schema = pa.schema(
        [("query_id", pa.string()), ("passage_id", pa.string()), ("status", pa.string()), ("grade", pa.int8()),
         ("p", pa.float64()), ("confidence", pa.float64()), ("reason", pa.string()), ("scores", pa.string()),
         ("ranks", pa.string())]
    )  # fmt: skip

    def row(pair: JudgedPair) -> tuple[Any, ...]:
        found, judged = pair.candidate, pair.judgement
        known = ("unjudged", None, None, None, "") if judged is None else (
            judged.status, judged.grade, judged.p, judged.confidence, judged.reason
        )  # fmt: skip
        details = (json.dumps(dict(part), sort_keys=True) for part in (found.scores, found.ranks))
        return (found.query_id, found.passage_id, *known, *details)

    return _parquet(path, schema, map(row, pairs))


def write_beir(
    folder: Path, pairs: Callable[[], Iterable[JudgedPair]], passages: Iterable[tuple[str, str]], with_zeros: bool
) -> None:
    """A folder as BEIR's loaders read it.

    Args:
        folder: is made.
        pairs: reads those of a run, from the start at each call.
        passages: id and text of all of them.
        with_zeros: also judgements of not relevant.
    """
    with _lines(folder / "corpus.jsonl") as file:
        for passage_id, text in passages:
            file.write(json.dumps({"_id": passage_id, "title": "", "text": text}, ensure_ascii=False) + "\n")
    with _lines(folder / "queries.jsonl") as file:
        for group in by_query(pairs()):
            record = {"_id": group[0].candidate.query_id, "text": group[0].query}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    with _lines(folder / "qrels" / "train.tsv") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for pair in pairs():
            judgement = pair.judgement
            if judgement is not None and judgement.grade is not None and (judgement.grade or with_zeros):
                file.write(f"{pair.candidate.query_id}\t{pair.candidate.passage_id}\t{judgement.grade}\n")


class _lines:  # noqa: N801, it is used like a function
    """A text file that gets its name when all is written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> IO[str]:
        self._file = self._temporary.open("w", encoding="utf-8", newline="\n")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            publish(self._temporary, self._path)
        else:
            self._temporary.unlink()


def _parquet(path: Path, schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, count = path.with_name(f".{path.name}.tmp"), 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            for some in batched(rows, _ROWS):
                columns = [list(values) for values in zip(*some, strict=True)]
                file.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
                count += len(some)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    publish(temporary, path)
    return count
