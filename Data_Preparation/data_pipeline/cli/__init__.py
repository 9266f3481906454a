"""The command `elm`."""

from data_pipeline.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
