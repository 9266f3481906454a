"""Stand-ins for what this package talks to, for tests of your own code."""

from data_pipeline.testing.judging import simulated_answer, simulated_grade
from data_pipeline.testing.server import Fault, JudgeServer, Request, misbehaving_server

__all__ = ["Fault", "JudgeServer", "Request", "misbehaving_server", "simulated_answer", "simulated_grade"]
