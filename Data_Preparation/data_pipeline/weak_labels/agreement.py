"""Agreement of labels with gold judgements, on the pairs that have both."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from data_pipeline.judge.base import RELEVANT
from data_pipeline.weak_labels.qrels import Grades
from data_pipeline.weak_labels.state import JudgedPair


@dataclass(frozen=True)
class Agreement:
    """Counts of pairs that are relevant by the judge and by gold: both, one of them, or neither."""

    both: int = 0
    judge_only: int = 0
    gold_only: int = 0
    neither: int = 0

    @property
    def pairs(self) -> int:
        """Number of pairs that have a label and a gold judgement."""
        return self.both + self.judge_only + self.gold_only + self.neither

    @property
    def precision(self) -> float:
        """Share of the judge's relevant pairs that are relevant by gold too, 0 to 1; NaN if the judge has none."""
        by_judge = self.both + self.judge_only
        return self.both / by_judge if by_judge else math.nan

    @property
    def recall(self) -> float:
        """Share of gold's relevant pairs that are relevant by the judge too, 0 to 1; NaN if gold has none."""
        by_gold = self.both + self.gold_only
        return self.both / by_gold if by_gold else math.nan

    @property
    def kappa(self) -> float:
        """Agreement beyond chance, -1 to 1 (Cohen, 1960); NaN if chance alone explains all agreement."""
        if not self.pairs:
            return math.nan
        by_judge, by_gold = (self.both + self.judge_only) / self.pairs, (self.both + self.gold_only) / self.pairs
        chance = by_judge * by_gold + (1 - by_judge) * (1 - by_gold)
        observed = (self.both + self.neither) / self.pairs
        return (observed - chance) / (1 - chance) if chance < 1 else math.nan

    def to_json(self) -> dict[str, float | int | None]:
        """Measures for report.json; NaN becomes null, since JSON has no NaN."""
        values = {"precision": self.precision, "recall": self.recall, "kappa": self.kappa}
        return {"pairs": self.pairs} | {
            name: None if math.isnan(value) else round(value, 4) for name, value in values.items()
        }


def agreement(pairs: Iterable[JudgedPair], gold: Grades) -> Agreement:
    """Compare labels with gold judgements; pairs that lack one of them are not counted.

    Args:
        pairs: pairs of a run.
        gold: query id -> passage id -> grade on the scale of the labels, 0 to 3; see `Gold.labels`.
    """
    counts: Counter[tuple[bool, bool]] = Counter()
    for pair in pairs:
        grade = gold.get(pair.candidate.query_id, {}).get(pair.candidate.passage_id)
        if grade is not None and pair.grade is not None:
            counts[pair.grade >= RELEVANT, grade >= RELEVANT] += 1
    return Agreement(counts[True, True], counts[True, False], counts[False, True], counts[False, False])
