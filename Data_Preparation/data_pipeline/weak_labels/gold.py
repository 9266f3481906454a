"""Gold judgements of a run: the scale of their grades, and the pairs of them that the run knows.

Grades of other collections have scales of their own. In MS MARCO and most of BEIR 1 is relevant; in TREC-COVID and
Robust 1 is partly relevant and 2 highly; in TREC Deep Learning, on its scale of 0 to 3, 1 is related and not relevant.
So the lowest grade that counts as relevant is a setting, `gold_relevant`, and without it follows from the highest grade
of the file: 1 where that is 1 or 2, and 2 where it is 3 or more. Grades of 0 and less (junk, spam) are not relevant.

All measures use the grades on the scale of the labels, so that none of them assumes a scale of its own: 0 not relevant,
1 below `gold_relevant`, 2 relevant, 3 above that or the highest grade there is.
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
"""Highest grade from which a scale has a grade for related passages that are not relevant."""

Known = Callable[[Sequence[str]], Collection[str]]
"""Ids -> those of them that a run knows."""


@dataclass(frozen=True)
class Gold:
    """Judgements of people, with the scale of their grades."""

    source: str
    """File, or `sample`."""
    grades: Grades
    """Query id -> passage id -> grade, as the file has it."""
    relevant: int
    """The lowest grade that counts as relevant; 1 or more."""
    highest: int
    """The highest grade of the file, also of pairs that are not in this run."""
    chosen_by: str
    """Where `relevant` comes from: the setting, or the highest grade."""
    judgements: int
    """Judgements of the file."""
    example: tuple[str, str]
    """Query and passage of the first judgement, for messages."""
    other_queries: int = 0
    """Judgements that were left out: their query is not in this run."""
    other_passages: int = 0
    """Judgements that were left out: their query is in this run, their passage is not."""

    @property
    def pairs(self) -> int:
        """Judgements of queries and passages of this run."""
        return sum(map(len, self.grades.values()))

    @property
    def labels(self) -> Grades:
        """The grades on the scale of the labels, 0 to 3."""
        return {
            query_id: {name: to_label(grade, self.relevant, self.highest) for name, grade in grades.items()}
            for query_id, grades in self.grades.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The scale, for the report of a run."""
        counts = Counter(grade for grades in self.grades.values() for grade in grades.values())
        return {
            "relevant_from": self.relevant,
            "chosen_by": self.chosen_by,
            "grades": {str(grade): counts[grade] for grade in sorted(counts)},
        }


def to_label(grade: int, relevant: int, highest: int) -> int:
    """A gold grade on the scale of the labels: 0 to 3, of which 2 and 3 are relevant.

    Args:
        grade: of the gold judgement.
        relevant: the lowest gold grade that counts as relevant.
        highest: the highest gold grade; it is 3, the best label.
    """
    if grade <= 0:
        return 0
    if grade < relevant:
        return 1
    return RELEVANT if relevant == grade < highest else RELEVANT + 1


def make_gold(source: str, grades: Grades, relevant: int | None) -> Gold:
    """Gold judgements whose scale is set, or found from the highest grade.

    Args:
        source: file, or `sample`.
        grades: as the file has them.
        relevant: the setting `gold_relevant`.
    """
    highest = max((grade for of_query in grades.values() for grade in of_query.values()), default=0)
    chosen_by = "gold_relevant"
    if relevant is None:
        relevant, chosen_by = 2 if highest >= _WIDE_SCALE else 1, f"the highest grade, {highest}"
    pairs = [(query_id, name) for query_id, of_query in grades.items() for name in of_query]
    return Gold(source, grades, relevant, highest, chosen_by, len(pairs), pairs[0] if pairs else ("", ""))


def match_gold(gold: Gold, known_queries: Known, known_passages: Known) -> Gold:
    """The judgements of this run's queries and passages, under their ids there; the others are counted.

    An id that is not known stands for the known id that it spells percent-encoded.

    Args:
        gold: as it was read.
        known_queries: ids -> those that are queries of this run.
        known_passages: ids -> those that are passages of this run.

    Raises:
        SourceError: a pair is there under two spellings of its ids.
    """
    queries = resolve(gold.grades, known_queries)
    passages = resolve((name for query in queries for name in gold.grades[query]), known_passages)
    matched: dict[str, dict[str, int]] = {}
    other_queries = other_passages = 0
    for spelling, grades in gold.grades.items():
        if spelling not in queries:
            other_queries += len(grades)
            continue
        of_query = matched.setdefault(queries[spelling], {})
        for name, grade in grades.items():
            if name not in passages:
                other_passages += 1
            elif passages[name] in of_query:
                raise SourceError(
                    f"{gold.source}: query {queries[spelling]!r} and passage {passages[name]!r} are there twice, under "
                    "two spellings of their ids; remove one of the two lines"
                )
            else:
                of_query[passages[name]] = grade
    return replace(gold, grades=matched, other_queries=other_queries, other_passages=other_passages)


def known_in(mapping: Mapping[str, Any]) -> Known:
    """Membership of a mapping, as `match_gold` asks for it."""
    return lambda ids: [identity for identity in ids if identity in mapping]
