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
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.retrieval.ids import to_trec
from data_pipeline.utils import encodable, publish
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
    with _TextFile(path) as file:
        for pair in pairs:
            judgement = pair.judgement
            if judgement is None or judgement.grade is None or (judgement.grade == 0 and not with_zeros):
                continue
            ids = [to_trec(name) for name in (pair.candidate.query_id, pair.candidate.passage_id)]
            file.write(f"{ids[0]}\t0\t{ids[1]}\t{judgement.grade}\n")
            count += 1
    return count


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
        self._triples = _TextFile(folder / "triples.jsonl")
        self._training = _Table(folder / "training.parquet", pa.schema([(name, pa.large_string()) for name in names]))
        self._margins = _Table(folder / "margins.parquet", _MARGINS)

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._lines = files.enter_context(self._triples)
            files.enter_context(self._training)
            files.enter_context(self._margins)
            self._files = files.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def add(self, query: Mined) -> None:
        """Write the next query, in order."""
        if query.positives:
            self._lines.write(json.dumps(triple(query), ensure_ascii=False) + "\n")
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

    with _Table(path, schema) as table:
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
    with _TextFile(folder / "corpus.jsonl") as file:
        for passage_id, text in passages:
            file.write(json.dumps({"_id": passage_id, "title": "", "text": text}, ensure_ascii=False) + "\n")
    with _TextFile(folder / "queries.jsonl") as file:
        for query_id, text in queries:
            file.write(json.dumps({"_id": query_id, "text": text}, ensure_ascii=False) + "\n")
    with _TextFile(folder / "qrels" / "train.tsv") as file:
        # BEIR's loader expects quotes around ids that hold quotes.
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
        table.writerow(["query-id", "corpus-id", "score"])
        for pair in pairs:
            judgement = pair.judgement
            if judgement is not None and judgement.grade is not None and (judgement.grade or with_zeros):
                table.writerow([pair.candidate.query_id, pair.candidate.passage_id, judgement.grade])


def copy_file(path: Path, copy: Path) -> None:
    """Copy a file to another name."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = copy.with_name(f".{copy.name}.tmp")
    shutil.copyfile(path, temporary)
    publish(temporary, copy)


class _TextFile:
    """A text file that is published under its name when it is complete."""

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


class _Table:
    """A parquet file that is published under its name when it is complete."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        self._path, self._temporary, self._schema = path, path.with_name(f".{path.name}.tmp"), schema
        self._waiting: list[Sequence[Any]] = []

    def __enter__(self) -> Self:
        self._file = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        return self

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows."""
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == _ROWS_AT_ONCE:
                self._write()

    def _write(self) -> None:
        if self._waiting:
            columns = [list(values) for values in zip(*self._waiting, strict=True)]
            self._file.write_table(pa.table(dict(zip(self._schema.names, columns, strict=True)), schema=self._schema))
            self.rows += len(self._waiting)
            self._waiting = []

    def __exit__(self, kind: object, *_: object) -> None:
        is_complete = False
        try:
            if kind is None:
                self._write()
                is_complete = True
        finally:
            self._file.close()
            if not is_complete:
                self._temporary.unlink()
        if is_complete:
            publish(self._temporary, self._path)
