"""Weak labels beside gold judgements, on the pairs that have both."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_pipeline.weak_labels.judge.base import RELEVANT
from data_pipeline.weak_labels.state import JudgedPair


@dataclass(frozen=True)
class Agreement:
    """Counts of pairs: judged relevant or not, and truly so or not."""

    both: int = 0
    judge_only: int = 0
    gold_only: int = 0
    neither: int = 0

    @property
    def pairs(self) -> int:
        """That have a label and a gold judgement."""
        return self.both + self.judge_only + self.gold_only + self.neither

    @property
    def precision(self) -> float:
        """Share of the judge's positives that gold has too; NaN where there are none."""
        found = self.both + self.judge_only
        return self.both / found if found else math.nan

    @property
    def recall(self) -> float:
        """Share of gold's positives that the judge has too; NaN where there are none."""
        there = self.both + self.gold_only
        return self.both / there if there else math.nan

    @property
    def kappa(self) -> float:
        """Agreement beyond chance (Cohen, 1960); NaN where chance alone agrees on everything."""
        if not self.pairs:
            return math.nan
        found, there = (self.both + self.judge_only) / self.pairs, (self.both + self.gold_only) / self.pairs
        chance = found * there + (1 - found) * (1 - there)
        seen = (self.both + self.neither) / self.pairs
        return (seen - chance) / (1 - chance) if chance < 1 else math.nan

    def to_json(self) -> dict[str, float | int | None]:
        """NaN, which JSON does not have, as null."""
        values = {"precision": self.precision, "recall": self.recall, "kappa": self.kappa}
        return {"pairs": self.pairs} | {
            name: None if math.isnan(value) else round(value, 4) for name, value in values.items()
        }


def agreement(pairs: Iterable[JudgedPair], gold: Mapping[str, Mapping[str, int]]) -> Agreement:
    """Compare labels with gold; pairs that only one side has judged do not count.

    Args:
        pairs: of a run.
        gold: query id -> passage id -> grade, of which 2 and 3 are relevant.
    """
    counts = {(judged, true): 0 for judged in (True, False) for true in (True, False)}
    for pair in pairs:
        grade = gold.get(pair.candidate.query_id, {}).get(pair.candidate.passage_id)
        if grade is not None and pair.judgement is not None and pair.judgement.grade is not None:
            counts[pair.judgement.grade >= RELEVANT, grade >= RELEVANT] += 1
    return Agreement(counts[True, True], counts[True, False], counts[False, True], counts[False, False])
