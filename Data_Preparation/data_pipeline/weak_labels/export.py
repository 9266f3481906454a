"""Output files with labels, rendered from the state: the same judgements give the same bytes.

| file | content |
|---|---|
| `qrels.tsv` | TREC: query id, 0, passage id, grade; ids with white space are percent-encoded |
| `triples.jsonl` | a line for each query with positives: ids, grades, hard negatives and their origin |
| `training.parquet` | sentence-transformers: anchor, positive, negative_1, ..., negative_n |
| `margins.parquet` | MarginMSE: query, positive, negative, difference of their scores |
| `beir/` | corpus.jsonl, queries.jsonl with all queries, qrels/train.tsv |
| `judgements.parquet` | all pairs: scores, ranks, status, grade, probability |
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.retrieval.ids import to_trec
from data_pipeline.utils import encodable, published
from data_pipeline.weak_labels.accounts import Account
from data_pipeline.weak_labels.negatives import Mined
from data_pipeline.weak_labels.state import JudgedPair

_ROWS_AT_ONCE = 10_000
_MARGINS = pa.schema(
    [("query", pa.large_string()), ("positive", pa.large_string()), ("negative", pa.large_string()),
     ("label", pa.float32())]
)  # fmt: skip


def by_query(pairs: Iterable[JudgedPair]) -> Iterator[list[JudgedPair]]:
    """Group pairs by query, in the order of the queries."""
    for _, group in groupby(pairs, key=lambda pair: pair.candidate.query_id):
        yield list(group)


def write_qrels(path: Path, pairs: Iterable[JudgedPair], with_zeros: bool) -> int:
    """Write the grades of judged pairs in TREC's format.

    Args:
        path: file to write.
        pairs: pairs of a run.
        with_zeros: also write pairs that were judged not relevant.

    Returns:
        Number of written pairs.
    """
    count = 0
    with _text_file(path) as file:
        for query_id, passage_id, grade in _graded(pairs, with_zeros):
            file.write(f"{to_trec(query_id)}\t0\t{to_trec(passage_id)}\t{grade}\n")
            count += 1
    return count


def _graded(pairs: Iterable[JudgedPair], with_zeros: bool) -> Iterator[tuple[str, str, int]]:
    """Ids of query and passage, and the grade, of those pairs that have one."""
    for pair in pairs:
        if pair.grade is not None and (pair.grade or with_zeros):
            yield pair.query_id, pair.candidate.passage_id, pair.grade


class MinedFiles:
    """Writer of triples.jsonl, training.parquet and margins.parquet, in one pass over the queries.

    Args:
        folder: folder of the three files.
        text_of: passage id -> text.
        negatives: number of negatives in a row of training.parquet; queries with fewer are left out of it.
        margin_score: name of the score whose differences are in margins.parquet.
    """

    def __init__(self, folder: Path, text_of: Callable[[str], str], negatives: int, margin_score: str) -> None:
        self._text_of, self._negatives, self._score = text_of, negatives, margin_score
        self.positives = 0
        """Number of positives of all queries."""
        self.margins = 0
        """Number of pairs of a positive and a negative of the same query."""
        names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, negatives + 1))]
        self._folder, self._columns = folder, pa.schema([(name, pa.large_string()) for name in names])

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._triples = files.enter_context(_text_file(self._folder / "triples.jsonl"))
            self._training = files.enter_context(_table(self._folder / "training.parquet", self._columns))
            self._margins = files.enter_context(_table(self._folder / "margins.parquet", _MARGINS))
            self._files = files.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def add(self, query: Mined) -> None:
        """Write the next query, in order."""
        if query.positives:
            self._triples.write(json.dumps(triple(query), ensure_ascii=False) + "\n")
        self.positives += len(query.positives)
        self.margins += len(query.positives) * len(query.negatives)
        self._training.add(training_rows(query, self._text_of, self._negatives))
        self._margins.add(margin_rows(query, self._text_of, self._score))

    @property
    def accounts(self) -> list[Account]:
        """Accounts of the positives in training.parquet and of the pairs of positive and negative in margins.parquet.

        Available when the files are written.
        """
        rows, margins = self._training.rows, self._margins.rows
        return [
            Account(
                "training.parquet", {"positives": self.positives},
                {"rows": rows, "query_has_too_few_negatives": self.positives - rows},
            ),
            Account(
                "margins.parquet", {"positives_with_a_negative": self.margins},
                {"rows": margins, f"without_{self._score}_score": self.margins - margins},
            ),
        ]  # fmt: skip


def triple(query: Mined) -> dict[str, Any]:
    """Make the line of a query in triples.jsonl."""
    return {
        "query_id": query.query_id,
        "query": query.query,
        "positive_doc_ids": [pair.candidate.passage_id for pair in query.positives],
        "positive_scores": [pair.grade for pair in query.positives],
        "hard_negative_doc_ids": [negative.passage_id for negative in query.negatives],
        "hard_negatives": [
            {"doc_id": negative.passage_id, "kind": negative.kind, "p": negative.p,
             "scores": dict(negative.scores), "ranks": dict(negative.ranks)}
            for negative in query.negatives
        ],
        "left_out": dict(query.left_out),
        "missing_negatives": query.missing,
    }  # fmt: skip


def training_rows(query: Mined, text_of: Callable[[str], str], negatives: int) -> Iterator[tuple[str, ...]]:
    """Make rows for sentence-transformers: each positive with the query's negatives; none if there are too few."""
    if len(query.negatives) < negatives:
        return
    texts = [text_of(negative.passage_id) for negative in query.negatives[:negatives]]
    for pair in query.positives:
        yield (query.query, text_of(pair.candidate.passage_id), *texts)


def margin_rows(query: Mined, text_of: Callable[[str], str], score: str) -> Iterator[tuple[Any, ...]]:
    """Make rows for MarginMSE (Hofstaetter et al., 2020): the label is the positive's score less the negative's."""
    for pair in query.positives:
        for negative in query.negatives:
            if score in pair.candidate.scores and score in negative.scores:
                margin = pair.candidate.scores[score] - negative.scores[score]
                yield query.query, text_of(pair.candidate.passage_id), text_of(negative.passage_id), margin


def write_judgements(path: Path, pairs: Iterable[JudgedPair]) -> int:
    """Write all pairs, judged or not, with their scores and judgements; return the number of pairs."""
    schema = pa.schema(
        [("query_id", pa.string()), ("passage_id", pa.string()), ("status", pa.string()), ("grade", pa.int8()),
         ("p", pa.float64()), ("confidence", pa.float64()), ("reason", pa.string()), ("scores", pa.string()),
         ("ranks", pa.string())]
    )  # fmt: skip

    def row(pair: JudgedPair) -> tuple[Any, ...]:
        candidate, judged = pair.candidate, pair.judgement
        judgement = ("unjudged", None, None, None, "") if judged is None else (
            judged.status, judged.grade, judged.p, judged.confidence, encodable(judged.reason)
        )  # fmt: skip
        details = (json.dumps(dict(values), sort_keys=True) for values in (candidate.scores, candidate.ranks))
        return (candidate.query_id, candidate.passage_id, *judgement, *details)

    with _table(path, schema) as table:
        table.add(map(row, pairs))
    return table.rows


def write_beir(
    folder: Path,
    pairs: Iterable[JudgedPair],
    passages: Iterable[tuple[str, str]],
    queries: Iterable[tuple[str, str]],
    with_zeros: bool,
) -> None:
    """Write a folder that BEIR's loaders can read.

    Args:
        folder: folder to write; it is made if it does not exist.
        pairs: pairs of a run.
        passages: ids and texts of all passages.
        queries: ids and texts of all queries, including those without judgements.
        with_zeros: also write pairs that were judged not relevant.
    """
    _write_jsonl(folder / "corpus.jsonl", ({"_id": name, "title": "", "text": text} for name, text in passages))
    _write_jsonl(folder / "queries.jsonl", ({"_id": name, "text": text} for name, text in queries))
    with _text_file(folder / "qrels" / "train.tsv") as file:
        # BEIR's loader expects quotes around ids that hold quotes.
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        table.writerow(["query-id", "corpus-id", "score"])
        table.writerows(_graded(pairs, with_zeros))


def _write_jsonl(path: Path, records: Iterable[dict[str, str]]) -> None:
    with _text_file(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def copy_file(path: Path, copy: Path) -> None:
    """Copy a file to another name."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with published(copy) as temporary:
        shutil.copyfile(path, temporary)


@contextmanager
def _text_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that is published under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator["_Table"]:
    """Open a parquet file that is published under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        table = _Table(file)
        yield table
        table.write()


class _Table:
    """Rows of an open parquet file, written in batches."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self.rows = 0
        self._file, self._waiting = file, list[Sequence[Any]]()

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows."""
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == _ROWS_AT_ONCE:
                self.write()

    def write(self) -> None:
        """Write the rows that are waiting."""
        if self._waiting:
            columns = [list(values) for values in zip(*self._waiting, strict=True)]
            self._file.write_table(pa.table(columns, schema=self._file.schema))
            self.rows += len(self._waiting)
            self._waiting = []
