"""Agreement of labels with gold judgements, on the pairs that have both."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from data_pipeline.judge.base import RELEVANT
from data_pipeline.judge.state import JudgedPair
from data_pipeline.weak_labels.qrels import Grades


@dataclass(frozen=True)
class Agreement:
    """Counts of pairs that the judge and gold call relevant: both, one of them, or neither."""

    both: int = 0
    judge_only: int = 0
    gold_only: int = 0
    neither: int = 0

    @property
    def pairs(self) -> int:
        """Pairs that have a label and a gold judgement."""
        return self.both + self.judge_only + self.gold_only + self.neither

    @property
    def precision(self) -> float:
        """Share of the judge's relevant pairs that gold calls relevant too; NaN if the judge has none."""
        found = self.both + self.judge_only
        return self.both / found if found else math.nan

    @property
    def recall(self) -> float:
        """Share of gold's relevant pairs that the judge calls relevant too; NaN if gold has none."""
        there = self.both + self.gold_only
        return self.both / there if there else math.nan

    @property
    def kappa(self) -> float:
        """Agreement beyond chance (Cohen, 1960); NaN if chance alone explains all of it."""
        if not self.pairs:
            return math.nan
        found, there = (self.both + self.judge_only) / self.pairs, (self.both + self.gold_only) / self.pairs
        chance = found * there + (1 - found) * (1 - there)
        seen = (self.both + self.neither) / self.pairs
        return (seen - chance) / (1 - chance) if chance < 1 else math.nan

    def to_json(self) -> dict[str, float | int | None]:
        """The measures for report.json; NaN, which JSON does not have, is null."""
        values = {"precision": self.precision, "recall": self.recall, "kappa": self.kappa}
        return {"pairs": self.pairs} | {
            name: None if math.isnan(value) else round(value, 4) for name, value in values.items()
        }


def agreement(pairs: Iterable[JudgedPair], gold: Grades) -> Agreement:
    """Compare labels with gold judgements; pairs that lack one of the two do not count.

    Args:
        pairs: pairs of a run.
        gold: query id -> passage id -> grade on the scale of the labels, 0 to 3; see `Gold.labels`.
    """
    counts = {(judged, true): 0 for judged in (True, False) for true in (True, False)}
    for pair in pairs:
        grade = gold.get(pair.candidate.query_id, {}).get(pair.candidate.passage_id)
        if grade is not None and pair.judgement is not None and pair.judgement.grade is not None:
            counts[pair.judgement.grade >= RELEVANT, grade >= RELEVANT] += 1
    return Agreement(counts[True, True], counts[True, False], counts[False, True], counts[False, False])
