"""Command `doctor`: what this machine can run, how fast, and what is not installed."""

import argparse
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Grid, present

_MARKS = {True: "yes", False: "no", None: ""}


def _doctor(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.machine import list_facts

    facts = list_facts(configure(parsed, given))
    document = {fact.name.replace(" ", "_"): {"value": fact.value, "good": fact.good, **fact.details} for fact in facts}
    present({"facts": document}, Grid((), [(_MARKS[fact.good], fact.name, fact.value) for fact in facts]))
    return 0


COMMANDS: Mapping[str, Command] = {
    "doctor": Command("report what this machine can run, and how fast", common_arguments, _doctor, example="elm doctor")
}
