"""Does a subset of SST-2 train as good a classifier as random rows do?

67,349 rows (phrases and sentences) to choose from, 872 dev sentences to measure on, which no selector and no training
sees. Every selector ranks once for each seed; 1, 5, 10 and 20 % of the rows are prefixes of that ranking. A linear
probe over frozen MiniLM vectors is trained on each, with the same settings for all, and measured once. Random rows go
through the same, as do random rows as long as those of k-center: dev sentences are twice as long as training rows, so
that a selector can gain by length alone. Selectors that look at the labels of all rows are marked `+labels`: they know
more than a budget of labels would buy.

Beside the figures this writes `results/selection_study.md`, `.csv`, `.png` and `.svg`. What is finished is kept in
$ELM_BENCH_DIR/selection_study, or else in data/study of the checkout, and not done again.

`python selection_study.py finetune 0.01 0.1` fine-tunes MiniLM instead, for fewer selectors, at those fractions; it
writes `results/selection_study_finetuned.*`.

Quick: 4,000 rows, two seeds, two selectors.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import CHECKOUT, RESULTS, Figure, Figures, shared_data

from data_pipeline.study import StudyConfig, choose, evaluate, prepare, run_study, study_table, train
from data_pipeline.study.config import (
    DataConfig,
    PathsConfig,
    SelectionConfig,
    StudyModelConfig,
    StudyTrainingConfig,
    SubsetConfig,
    SweepConfig,
    SweepEntry,
)
from data_pipeline.study.figure import write_figure
from data_pipeline.study.table import Row, write_table

_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_NAME = "selection_study"
_FRACTIONS, _SEEDS = (0.01, 0.05, 0.1, 0.2), (42, 43, 44, 45, 46)
_BUDGET = "p10"

_SELECTORS = (
    SweepEntry(name="random"),
    SweepEntry(name="kcenter"),
    SweepEntry(name="kcenter", params={"drop_isolated": 0.1}, label="kcenter, 10 % isolated dropped"),
    SweepEntry(name="length_matched_random", params={"like": "kcenter"}, label="random, as long as kcenter"),
    SweepEntry(name="kmeans"),
    SweepEntry(name="herding"),
    SweepEntry(name="facility_location"),
    SweepEntry(name="semantic_lexical"),
    SweepEntry(name="stratified"),
    SweepEntry(name="dedup"),
    SweepEntry(name="text_metric"),
    SweepEntry(name="wordpiece_ratio"),
    SweepEntry(name="cleanlab", label="cleanlab +labels"),
    SweepEntry(name="el2n", label="el2n +labels"),
    SweepEntry(name="el2n", params={"direction": "middle"}, label="el2n, the middle +labels"),
    SweepEntry(name="grand", label="grand +labels"),
    SweepEntry(name="forgetting", label="forgetting +labels"),
    SweepEntry(name="ccs", params={"score": "el2n", "strict": False}, label="ccs of el2n +labels"),
    SweepEntry(
        name="hybrid_sequential",
        params={"steps": [{"selector": "dedup", "keep": 0.7}, {"selector": "facility_location"}]},
        label="dedup, then facility_location",
    ),
)  # fmt: skip
_FINETUNED = ("random", "kcenter", "facility_location", "kmeans", "herding")


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    if quick:
        with tempfile.TemporaryDirectory(dir=os.environ.get("ELM_BENCH_DIR")) as name:
            config = _config(Path(name), _first_rows(Path(name), 4000), StudyModelConfig(kind="probe"))
            return _probed(config, _SELECTORS[:2], (0.05, 0.1), (42, 43))
    figures = _probed(
        _config(_folder(), shared_data("sst2"), StudyModelConfig(kind="probe")), _SELECTORS, _FRACTIONS, _SEEDS
    )
    for path in (_folder() / "probed").iterdir():
        shutil.copy(path, RESULTS / f"{_NAME}{path.suffix}")
    return figures


def _probed(
    config: StudyConfig, selectors: Sequence[SweepEntry], fractions: Sequence[float], seeds: Sequence[int]
) -> Figures:
    wall, cpu = time.perf_counter(), time.process_time()
    sweep = SweepConfig(selectors=tuple(selectors), fractions=tuple(fractions), seeds=tuple(seeds))
    rows = study_table(run_study(config.model_copy(update={"sweep": sweep})))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _write(rows, config.data_dir / "probed")
    return {
        **_figures(rows),
        "runs": Figure(sum(row.runs for row in rows), "", "", f"{len(seeds)} seeds"),
        "wall_s": Figure(wall, "s", "", "all of it, but for what was finished before"),
        "cpu_s": Figure(cpu, "CPU-s"),
    }


def _figures(rows: Sequence[Row]) -> Figures:
    """Accuracy of random rows and of all rows, and what each selector gains at 10 %."""
    found = {}
    for row in rows:
        error = "" if row.accuracy_se is None else f"± {100 * row.accuracy_se:.2f} standard error, {row.runs} seeds"
        if row.method in {"random", "all rows"}:
            found[f"{row.method} {row.budget}".replace(" ", "_")] = Figure(100 * row.accuracy, "%", "", error)
        elif row.budget == _BUDGET and row.minus_random is not None:
            error = "" if row.minus_random_se is None else f"± {100 * row.minus_random_se:.2f} standard error"
            found[f"{row.method} minus random"] = Figure(100 * row.minus_random, "points", "", f"at 10 %, {error}")
    return found


def _config(folder: Path, data: Path, model: StudyModelConfig) -> StudyConfig:
    return StudyConfig(
        paths=PathsConfig(data_dir=folder),
        data=DataConfig(train=data / "train.tsv", dev=data / "dev.tsv"),
        measures={"wordpiece_ratio": {"model": _minilm()}},
        model=model,
    )


def _minilm() -> str:
    from data_pipeline.config import EmbeddingConfig
    from data_pipeline.embeddings.model_files import find_model

    return str(find_model(EmbeddingConfig(model_name=_MINILM, weights="package")).folder)


def _first_rows(folder: Path, rows: int) -> Path:
    for name in ("train", "dev"):
        lines = (shared_data("sst2") / f"{name}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.tsv").write_text("".join(lines[: rows + 1]), encoding="utf-8")
    return folder


def _folder() -> Path:
    chosen = os.environ.get("ELM_BENCH_DIR")
    return Path(chosen) / _NAME if chosen else CHECKOUT / "data" / "study"


def _write(rows: Sequence[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(rows, folder)
    write_figure(rows, folder)


def finetune(fractions: Sequence[float]) -> None:
    """MiniLM with all its weights, on a smaller grid; on two cores half a minute a run at 1 %, minutes at 10 %."""
    model = StudyModelConfig(name=_MINILM, weights="package")
    base = _config(_folder(), shared_data("sst2"), model)
    base = base.model_copy(update={"training": StudyTrainingConfig(keep_model=False)})
    prepare(base)
    records = []
    for fraction in fractions:
        for seed in _SEEDS:
            for name in _FINETUNED:
                chosen = {
                    "selection": SelectionConfig(name=name), "subset": SubsetConfig(frac=fraction), "seed": seed,
                }  # fmt: skip
                config = base.model_copy(update=chosen)
                choose(config)
                train(config)
                records.append(evaluate(config))
                print(f"{name} {fraction:g} seed {seed}: {records[-1]['accuracy']:.4f}", flush=True)
    rows = study_table(records)
    folder = _folder() / "finetuned"
    _write(rows, folder)
    for path in folder.iterdir():
        if path.suffix != ".json":
            shutil.copy(path, RESULTS / f"{_NAME}_finetuned{path.suffix}")
    print((folder / "table.md").read_text())


if __name__ == "__main__":
    if sys.argv[1:2] != ["finetune"] or not sys.argv[2:]:
        raise SystemExit(
            "run_benchmarks.py selection_study measures probes; here: selection_study.py finetune 0.01 ..."
        )
    finetune([float(fraction) for fraction in sys.argv[2:]])
