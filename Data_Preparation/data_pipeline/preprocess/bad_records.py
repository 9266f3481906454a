"""Records that are no documents: they are dropped with a reason, and too many of them stop the run."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_pipeline.download.corpus import Read
from data_pipeline.errors import SourceError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.types import BadRecord, Document
from data_pipeline.user_files import OnBytes

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_EARLY = 1000  # bad records after which their share is looked at while the corpus is being read


@dataclass
class RecordCounts:
    """Numbers of usable and bad records of a corpus or a part of it."""

    documents: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    """Descriptions of the first bad records."""

    def add(self, other: "RecordCounts") -> None:
        """Add the counts of a later part."""
        self.documents += other.documents
        self.bad += other.bad
        self.examples = (self.examples + other.examples)[:_EXAMPLES]

    def check(self, max_share: float | None) -> None:
        """Check the share of bad records.

        Raises:
            SourceError: it is more than `max_share`.
        """
        records = self.bad + self.documents
        if max_share is None or self.bad <= max_share * records:
            return
        lines = "".join(f"\n  - {example}" for example in self.examples)
        raise SourceError(
            f"{self.bad:,} of the first {records:,} records cannot be used ({self.bad / records:.1%}; "
            f"corpus.max_bad_share allows {max_share:.1%}). Correct them or the names of the fields, or raise "
            f"corpus.max_bad_share:{lines}"
        )

    def log(self) -> None:
        """Log a warning if there are bad records."""
        if self.bad:
            logger.warning("%d of the records cannot be used; dropped.parquet lists them", self.bad)


def usable_documents(
    read: Read, max_share: float | None, dropped: DropLedger, counts: RecordCounts, on_bytes: OnBytes
) -> Iterator[Document]:
    """Iterate over documents; bad records go into the ledger.

    Args:
        read: reads the documents.
        max_share: see `Corpus.max_bad_share`; it is checked while many bad records are read, and not at the end.
        dropped: ledger.
        counts: counts that records are added to.
        on_bytes: called with the number of bytes of each read.

    Raises:
        SourceError: far more than `max_share` of the records are bad, or none may be and one is.
    """

    def drop(record: BadRecord) -> None:
        dropped.add_bad_record(record)
        if len(counts.examples) < _EXAMPLES:
            counts.examples.append(record.message)
            logger.warning("dropped: %s", record.message)
        counts.bad += 1
        if counts.bad >= _EARLY:
            counts.check(max_share)

    for document in read(on_bytes, None if max_share is None else drop):
        counts.documents += 1
        yield document
