"""What the benchmarks share: figures, machines, results, fresh processes."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHECKOUT = HERE.parents[1]
SHARED = Path(os.environ.get("ELM_SHARED_DATA", CHECKOUT.parent / "shared" / "data"))
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "polars",
    "pyarrow",
    "numpy",
    "gigatoken",
    "sentence-transformers",
    "model2vec",
    "openvino",
    "datasets",
    "litdata",
    "mosaicml-streaming",
    "pylance",
    "h5py",
    "datatrove",
    "orjson",
    "bm25s",
    "PyStemmer",
    "numba",
    "ir-measures",
)


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    value: float
    unit: str
    goal: str = ""
    """What it should be, where somebody asked for something."""
    note: str = ""


Figures = Mapping[str, Figure]
Benchmark = Callable[[bool], Figures]


def shared_data(name: str) -> Path:
    """A folder of the real data beside the checkout; ends the run where it is missing."""
    folder = SHARED / name
    if not folder.is_dir():
        raise SystemExit(f"this benchmark needs {folder}; set ELM_SHARED_DATA to the folder with {name}/")
    return folder


def in_fresh_process(script: Path, *arguments: str, **variables: str) -> Any:
    """Run a benchmark's own file as a process of its own, with further environment variables.

    The process prints one JSON value last.
    """
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **variables}
    result = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode:
        raise SystemExit(f"{script.name} {' '.join(arguments)} failed:\n{result.stdout}\n{result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


@contextmanager
def in_server_process(serve: Callable[[Connection], None]) -> Iterator[str]:
    """Run a server in a process of its own, which does not share the interpreter with its client; gives its address.

    Args:
        serve: sends the address through the pipe, and ends when something comes back.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("end")
        process.join(10)


def peak_memory_mb() -> float:
    """Most memory that this process has had in RAM, in MB (10^6 bytes)."""
    own: Any = psutil.Process().memory_info()
    if hasattr(own, "peak_wset"):  # Windows
        return float(own.peak_wset / 1e6)
    # On Linux ru_maxrss would begin at the peak of the process that started this one.
    if (peak_kib := _status_kib("VmHWM")) is not None:
        return peak_kib * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1000  # bytes there, kilobytes elsewhere


def anonymous_mb() -> float:
    """Memory of this process that is not mapped from files, in MB; all it has in RAM where the system is not Linux."""
    own_kib = _status_kib("RssAnon")
    return float(psutil.Process().memory_info().rss / 1e6) if own_kib is None else own_kib * 1024 / 1e6


def _status_kib(name: str) -> int | None:
    """Value of a line of the status of this process, in KiB; None where the system is not Linux."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where links are not possible or not allowed (Windows, other disks)."""
    try:
        target.symlink_to(source.resolve())
    except (OSError, NotImplementedError):
        shutil.copy(source, target)


def print_table(name: str, figures: Figures) -> None:
    """One line a figure."""
    print(f"\n{name}")
    for label, figure in figures.items():
        goal = f"  goal {figure.goal}" if figure.goal else ""
        print(f"  {label:<36} {figure.value:>14,.6g} {figure.unit:<18}{goal}  {figure.note}".rstrip())


def write_result(name: str, figures: Figures, path: Path | None) -> None:
    """Write `results/NAME.json`."""
    result = {
        "name": name,
        "command": f"python Data_Preparation/benchmarks/run_benchmarks.py {name}",
        "machine": _machine(),
        "versions": {package: _version(package) for package in _PACKAGES} | {"python": platform.python_version()},
        "figures": {
            label: {**asdict(figure), "value": float(f"{figure.value:.6g}")} for label, figure in figures.items()
        },
    }
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def write_readme() -> None:
    """Write this folder's README from the results."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `python Data_Preparation/benchmarks/run_benchmarks.py all` from `results/*.json`; do not edit.",
        "What each one measures, and how, stands at the top of its file. They read the real data of",
        "the folder `$ELM_SHARED_DATA` (WikiText-2, SST-2, Cranfield and the Qwen3 tokenizer).",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        lines += ["", f"## {result['name']}", "", f"`{result['command']}` on {result['machine']}", ""]
        lines += ["| figure | value | unit | goal | |", "|---|---|---|---|---|"]
        for label, figure in result["figures"].items():
            lines.append(
                f"| `{label}` | {figure['value']:,.6g} | {figure['unit']} | {figure['goal']} | {figure['note']} |"
            )
    (HERE / "README.md").write_text("\n".join(lines) + "\n")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores of {model} ({_instructions()}), {memory:.0f} GiB, {_gpu()}"


def _instructions() -> str:
    """Instruction set of the CPU that torch uses, and whether it multiplies bfloat16."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    has_bfloat16: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return f"{capability} with bfloat16" if has_bfloat16() else str(capability)


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU used"


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"
