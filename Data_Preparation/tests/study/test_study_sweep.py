"""The sweep's workflow: what it would run, in folders with spaces, without running it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.study import load_study
from data_pipeline.study.config import SweepConfig
from data_pipeline.study.sweep import sweep_runs

pytest.importorskip("snakemake", reason="the sweep needs snakemake")
pytest.importorskip("hydra", reason="the study's config needs the extra study")

OverridesParser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser
SNAKEFILE = Path(__file__).parents[2] / "workflow" / "Snakefile"


def dry_run(folder, *more):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores=2"]
    return subprocess.run(
        [*command, f"--snakefile={SNAKEFILE}", *more],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / ".cache"), "PYTHONWARNINGS": "default"},
    )  # fmt: skip


def counts(result):
    assert result.returncode == 0, result.stderr
    lines = (result.stdout + result.stderr).splitlines()
    found = [
        line.split() for line in lines if line.split()[:1] and line.split()[0] in {"select", "train", "eval", "total"}
    ]
    return {line[0]: int(line[1]) for line in found if len(line) == 2 and line[1].isdigit()}


def test_overrides_of_a_run_give_its_settings():
    parameters = {
        "like": "it's {a}, b",
        "steps": [{"selector": "full", "keep": 0.5}],
        "strict": True,
        "spread": None,
    }
    sweep = SweepConfig(
        selectors=({"name": "ccs", "params": {"score": "el2n", "strict": False}, "label": "it's far"},),
        fractions=(0.005, 1),
        seeds=(3,),
    )
    assert [(run.method, run.fraction, run.seed) for run in sweep_runs(sweep)] == [
        ("it's far", "0.005", "3"), ("it's far", "1", "3"),
    ]  # fmt: skip
    config = load_study(sweep_runs(sweep)[0].overrides)
    assert (config.selection.name, config.selection.label) == ("ccs", "it's far")
    assert config.selection.params == {"score": "el2n", "strict": False}
    assert (config.subset.frac, config.seed) == (0.005, 3)
    odd = SweepConfig(selectors=({"name": "random", "params": parameters},), fractions=(1,), seeds=(0,))
    texts = [text for text in sweep_runs(odd)[0].overrides if text.startswith("selection.params")]
    assert compose(texts) == parameters


def compose(overrides):
    """Parameters of the selection, as Hydra reads them."""
    composed = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        composed[override.key_or_group.removeprefix("selection.params.")] = override.value()
    return composed


def test_the_packages_own_sweep(tmp_path):
    found = counts(dry_run(tmp_path))
    # 4 selectors x 3 fractions x 5 seeds; prepare, table, all
    assert found == {"select": 60, "train": 60, "eval": 60, "total": 183}
    assert not (tmp_path / "data").exists()


def test_own_sweep_in_folders_with_spaces(tmp_path):
    folder = tmp_path / "a sweep"
    folder.mkdir()
    (folder / "my study.yaml").write_text(
        "sweep:\n"
        "  selectors: [random, {name: kcenter, params: {metric: cosine}, label: it's far}]\n"
        "  fractions: [0.005, 0.01]\n"
        "  seeds: [1]\n"
    )
    result = dry_run(folder, "--config", "study=my study.yaml", "out=my results", "overrides=train.epochs=2")
    assert counts(result) == {"select": 4, "train": 4, "eval": 4, "total": 15}
    commands = result.stdout + result.stderr
    assert f"'paths.data_dir={folder}/my results'" in commands
    assert "train.epochs=2" in commands
    assert "selection.params.metric=" in commands
    assert "my results/sweep/random/0.005/seed1/train.json" in commands


def test_two_of_one_name(tmp_path):
    (tmp_path / "study.yaml").write_text("sweep: {selectors: [random, random]}\n")
    result = dry_run(tmp_path, "--config", "study=study.yaml")
    assert result.returncode != 0
    assert "two selectors have the same name: random" in result.stdout + result.stderr
