"""Fakes for tests of your own code: an embedder, judges, and the servers that this package calls."""

from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.judge.scripted import ScriptedJudge
from data_pipeline.testing.judging import simulated_answer, simulated_grade
from data_pipeline.testing.quirks import Quirk
from data_pipeline.testing.server import Fault, JudgeServer, Request, misbehaving_server

__all__ = [
    "Fault",
    "HashingEmbedder",
    "JudgeServer",
    "Quirk",
    "Request",
    "ScriptedJudge",
    "misbehaving_server",
    "simulated_answer",
    "simulated_grade",
]
