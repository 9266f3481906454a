"""The sweep: every selector of the section `sweep` at every fraction with every seed.

`run_study` runs it with probes in one process, and `workflow/Snakefile` with any model, a process per stage; both read
it here. The stage `sweep` prints its runs.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.errors import ConfigError
from data_pipeline.study.config import StudyConfig, SweepConfig, SweepEntry


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    method: str
    """Name of the selector in the sweep."""
    fraction: str
    """Fraction of the rows, in decimals."""
    seed: str
    """Seed, in decimals."""
    overrides: list[str]
    """Settings of the run, as the stages take them on the command line."""


def sweep_selectors(sweep: SweepConfig) -> dict[str, SweepEntry]:
    """The selectors of a sweep by label, or by name where they have none.

    Raises:
        ConfigError: Two selectors have the same name.
    """
    names = [entry.label or entry.name for entry in sweep.selectors]
    if duplicates := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(
            f"sweep.selectors: two selectors have the same name: {', '.join(duplicates)}. Give one of them a label"
        )
    return dict(zip(names, sweep.selectors, strict=True))


def sweep_runs(sweep: SweepConfig) -> list[SweepRun]:
    """All runs of a sweep.

    Raises:
        ConfigError: Two selectors have the same name.
    """
    return [
        SweepRun(method, f"{fraction:.10g}", str(seed), _overrides(entry, f"{fraction:.10g}", seed))
        for method, entry in sweep_selectors(sweep).items()
        for fraction in sweep.fractions
        for seed in sweep.seeds
    ]


def list_sweep(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """The stage `sweep`: list the runs; nothing is written.

    Returns:
        `runs`: method, fraction, seed and overrides of each.

    Raises:
        ConfigError: Two selectors have the same name.
    """
    del overwrite  # of every stage
    return {"runs": [asdict(run) for run in sweep_runs(config.sweep)]}


def _overrides(entry: SweepEntry, fraction: str, seed: int) -> list[str]:
    parameters = [f"selection.params.{name}={hydra_value(value)}" for name, value in entry.params.items()]
    label = [] if entry.label is None else [f"selection.label={hydra_value(entry.label)}"]
    return [f"selection.name={entry.name}", *parameters, *label, f"subset.frac={fraction}", f"seed={seed}"]


def hydra_value(value: Any) -> str:
    """A YAML value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{hydra_value(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
