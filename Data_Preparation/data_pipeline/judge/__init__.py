"""Judges that grade passages for queries, or texts for a question."""

from data_pipeline.judge.base import (
    RELEVANT,
    STATUSES,
    CallFailed,
    CallFailedError,
    Judge,
    Judgeable,
    JudgeIdentity,
    Judgement,
    Status,
    judgement_key,
)
from data_pipeline.judge.load import JUDGES, load_judge
from data_pipeline.judge.scripted import ScriptedJudge
from data_pipeline.judge.similarity import SimilarityJudge, Thresholds, calibrate

__all__ = [
    "JUDGES",
    "RELEVANT",
    "STATUSES",
    "CallFailed",
    "CallFailedError",
    "Judge",
    "JudgeIdentity",
    "Judgeable",
    "Judgement",
    "ScriptedJudge",
    "SimilarityJudge",
    "Status",
    "Thresholds",
    "calibrate",
    "judgement_key",
    "load_judge",
]
