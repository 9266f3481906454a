"""Fakes of the services that this package calls, for tests of your own code."""

from data_pipeline.testing.judging import simulated_answer, simulated_grade
from data_pipeline.testing.quirks import Quirk
from data_pipeline.testing.server import Fault, JudgeServer, Request, misbehaving_server

__all__ = ["Fault", "JudgeServer", "Quirk", "Request", "misbehaving_server", "simulated_answer", "simulated_grade"]
