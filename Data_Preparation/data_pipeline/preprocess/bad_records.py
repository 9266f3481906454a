"""Records that are no documents: they are dropped with a reason, and too many of them stop the run."""

import logging
from collections.abc import Iterator

from data_pipeline.download import Corpus
from data_pipeline.errors import SourceError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.types import BadRecord, Document

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_EARLY = 1000  # bad records after which their share is looked at while the corpus is being read


def usable_documents(corpus: Corpus, dropped: DropLedger) -> Iterator[Document]:
    """Iterate over the documents of a corpus; bad records go into the ledger.

    Raises:
        SourceError: more than `corpus.max_bad_share` of the records are bad, or none may be and one is.
    """
    max_share = corpus.max_bad_share
    if max_share is None:
        yield from corpus.documents()
        return
    documents, before = 0, dropped.bad_records
    examples: list[str] = []

    def drop(record: BadRecord) -> None:
        dropped.add_bad_record(record)
        if len(examples) < _EXAMPLES:
            examples.append(record.message)
            logger.warning("dropped: %s", record.message)
        if dropped.bad_records - before >= _EARLY:
            _check_share(dropped.bad_records - before, documents, max_share, examples)

    for document in corpus.documents(drop):
        documents += 1
        yield document
    bad = dropped.bad_records - before
    _check_share(bad, documents, max_share, examples)
    if bad:
        logger.warning("%d of the records cannot be used; dropped.parquet lists them", bad)


def _check_share(bad: int, documents: int, max_share: float, examples: list[str]) -> None:
    records = bad + documents
    if bad <= max_share * records:
        return
    lines = "".join(f"\n  - {example}" for example in examples)
    raise SourceError(
        f"{bad:,} of the first {records:,} records cannot be used ({bad / records:.1%}; corpus.max_bad_share allows "
        f"{max_share:.1%}). Correct them or the names of the fields, or raise corpus.max_bad_share:{lines}"
    )
