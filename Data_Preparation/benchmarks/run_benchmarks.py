"""Run a benchmark: `run_benchmarks.py NAME [--quick] [--json FILE]`.

Each one measures this package beside a named peer, in one run, on the same input, and checks
that both gave the same answer. Quick: under a minute, same checks, smaller input.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import candidates
import corpus
import decontamination
import embedding_cpu
import embedding_models
import gpu_embedding
import heads
import incremental
import ingest
import loader
import main_job
import memory
import quality
import report
import resume
import scale
import selection
import selection_study
import torch
import user_files
import weak_labels
from harness import Benchmark, print_table, write_readme, write_result

BENCHMARKS: dict[str, Benchmark] = {
    "candidates": candidates.measure,
    "corpus": corpus.measure,
    "decontamination": decontamination.measure,
    "embedding_cpu": embedding_cpu.measure,
    "embedding_gpu": gpu_embedding.measure,
    "heads": heads.measure,
    "incremental": incremental.measure,
    "ingest": ingest.measure,
    "loader": loader.measure,
    "main_job": main_job.measure,
    "memory": memory.measure,
    "models": embedding_models.measure,
    "quality": quality.measure,
    "report": report.measure,
    "resume": resume.measure,
    "scale": scale.measure,
    "selection": selection.measure,
    "selection_study": selection_study.measure,
    "user_files": user_files.measure,
    "weak_labels": weak_labels.measure,
}


def main() -> int:
    """Run what the command line names; exit code 1 where an answer was not equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--quick", action="store_true", help="under a minute: smaller input, same checks")
    parser.add_argument(
        "--json", type=Path, help="where to write the result (default: results/NAME.json, not for --quick)"
    )
    arguments = parser.parse_args()
    names = [name for name in BENCHMARKS if arguments.name in ("all", name)]
    if arguments.name == "all" and not torch.cuda.is_available():
        names.remove("embedding_gpu")
    for name in names:
        figures = BENCHMARKS[name](arguments.quick)
        print_table(name, figures)
        if arguments.json or not arguments.quick:
            write_result(name, figures, arguments.json)
    if not arguments.quick and not arguments.json:
        write_readme()
    return 0


if __name__ == "__main__":
    sys.exit(main())
