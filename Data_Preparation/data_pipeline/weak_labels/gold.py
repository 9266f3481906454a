"""Gold judgements of a run: the scale of their grades, and the judgements of the run's queries and passages.

Collections grade on different scales. In MS MARCO and most of BEIR 1 is relevant; in TREC-COVID and Robust 1 is partly
relevant and 2 highly relevant; in TREC Deep Learning, with grades 0 to 3, 1 is related but not relevant. So the lowest
grade that counts as relevant is a setting, `gold_relevant`. Its default depends on the highest grade of the file: 1 if
that is 1 or 2, and 2 if it is 3 or more. Grades of 0 and less (junk, spam) are not relevant.

All measures use grades on the scale of the labels, so that none assumes a scale of its own: 0 not relevant, 1 below
`gold_relevant`, 2 relevant, 3 above that or the highest grade of the file.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.errors import SourceError
from data_pipeline.judge.base import RELEVANT
from data_pipeline.retrieval.ids import resolve
from data_pipeline.weak_labels.qrels import Grades

_WIDE_SCALE = 3
"""Highest grade from which a scale is taken to have a grade for related passages that are not relevant."""

SelectExisting = Callable[[Sequence[str]], Collection[str]]
"""Ids -> those of them that a run has."""


@dataclass(frozen=True)
class Gold:
    """Relevance judgements by people, with the scale of their grades."""

    source: str
    """Path of the file, or `sample`."""
    grades: Grades
    """Query id -> passage id -> grade on the scale of the file."""
    relevant: int
    """Lowest grade that counts as relevant; 1 or more."""
    highest: int
    """Highest grade of the file, including pairs that are not in this run."""
    chosen_by: str
    """Origin of `relevant`: the setting, or the highest grade."""
    judgements: int
    """Number of judgements in the file."""
    example: tuple[str, str]
    """Ids of query and passage of the first judgement, for messages."""
    other_queries: int = 0
    """Number of judgements of queries that are not in this run."""
    other_passages: int = 0
    """Number of judgements of passages that are not in this run, for queries that are."""

    @property
    def pairs(self) -> int:
        """Number of judgements of queries and passages of this run."""
        return sum(map(len, self.grades.values()))

    @property
    def labels(self) -> Grades:
        """Grades on the scale of the labels, 0 to 3."""
        return {
            query_id: {name: to_label(grade, self.relevant, self.highest) for name, grade in grades.items()}
            for query_id, grades in self.grades.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Scale of the grades, for the report of a run."""
        counts = Counter(grade for grades in self.grades.values() for grade in grades.values())
        return {
            "relevant_from": self.relevant,
            "chosen_by": self.chosen_by,
            "grades": {str(grade): counts[grade] for grade in sorted(counts)},
        }


def to_label(grade: int, relevant: int, highest: int) -> int:
    """Convert a gold grade to the scale of the labels: 0 to 3, of which 2 and 3 are relevant.

    Args:
        grade: grade of the gold judgement.
        relevant: lowest gold grade that counts as relevant.
        highest: highest gold grade, which becomes 3.
    """
    if grade <= 0:
        return 0
    if grade < relevant:
        return 1
    return RELEVANT if relevant == grade < highest else RELEVANT + 1


def make_gold(source: str, grades: Grades, relevant: int | None) -> Gold:
    """Make gold judgements, whose scale is set or follows from the highest grade.

    Args:
        source: path of the file, or `sample`.
        grades: query id -> passage id -> grade, as in the file.
        relevant: setting `gold_relevant`; None if it is not set.
    """
    highest = max((grade for by_passage in grades.values() for grade in by_passage.values()), default=0)
    chosen_by = "gold_relevant"
    if relevant is None:
        relevant, chosen_by = 2 if highest >= _WIDE_SCALE else 1, f"the highest grade, {highest}"
    pairs = [(query_id, name) for query_id, by_passage in grades.items() for name in by_passage]
    return Gold(source, grades, relevant, highest, chosen_by, len(pairs), pairs[0] if pairs else ("", ""))


def match_gold(gold: Gold, existing_queries: SelectExisting, existing_passages: SelectExisting) -> Gold:
    """Select the judgements of this run's queries and passages, with the run's ids; the others are counted.

    An id that the run lacks is taken for the percent-encoded spelling of one of the run's ids.

    Args:
        gold: judgements as they were read.
        existing_queries: ids -> those that are queries of this run.
        existing_passages: ids -> those that are passages of this run.

    Raises:
        SourceError: the file has a pair twice, under two spellings of its ids.
    """
    queries = resolve(gold.grades, existing_queries)
    passages = resolve((name for query in queries for name in gold.grades[query]), existing_passages)
    matched: dict[str, dict[str, int]] = {}
    other_queries = other_passages = 0
    for spelling, grades in gold.grades.items():
        if spelling not in queries:
            other_queries += len(grades)
            continue
        by_passage = matched.setdefault(queries[spelling], {})
        for name, grade in grades.items():
            if name not in passages:
                other_passages += 1
            elif passages[name] in by_passage:
                raise SourceError(
                    f"{gold.source}: query {queries[spelling]!r} and passage {passages[name]!r} occur twice, under "
                    "two spellings of their ids; remove one of the two lines"
                )
            else:
                by_passage[passages[name]] = grade
    return replace(gold, grades=matched, other_queries=other_queries, other_passages=other_passages)


def known_in(mapping: Mapping[str, Any]) -> SelectExisting:
    """Make the function that selects those ids that a mapping has; see `match_gold`."""
    return lambda ids: [identity for identity in ids if identity in mapping]
