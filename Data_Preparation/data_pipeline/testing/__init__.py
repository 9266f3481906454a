"""Fakes for tests of your own code: an embedder, judges, and the servers that this package calls."""

from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.judge.scripted import ScriptedJudge
from data_pipeline.testing.embedding_replies import Embed, EmbeddingFault, EmbeddingQuirk, simulated_vectors
from data_pipeline.testing.judging import simulated_answer, simulated_grade
from data_pipeline.testing.quirks import Quirk
from data_pipeline.testing.server import misbehaving_server
from data_pipeline.testing.server_state import EmbeddingRequest, Fault, JudgeServer, Request

__all__ = [
    "Embed",
    "EmbeddingFault",
    "EmbeddingQuirk",
    "EmbeddingRequest",
    "Fault",
    "HashingEmbedder",
    "JudgeServer",
    "Quirk",
    "Request",
    "ScriptedJudge",
    "misbehaving_server",
    "simulated_answer",
    "simulated_grade",
    "simulated_vectors",
]
