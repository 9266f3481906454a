"""The plan of a run before the work: what it reads and writes, how long it takes, and where it would break first.

Rates of preprocessing are measured on a sample of the corpus on this machine, or those of the benchmark `scale`; a rate
of embedding is measured, given, or derived from a GPU's peak and the share of it that good engines reach.
"""

import math
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import Config
from data_pipeline.download import open_corpus
from data_pipeline.download.corpus import UNIT_BYTES, OnBadRecord, Unit
from data_pipeline.embeddings import load_tokenizer
from data_pipeline.embeddings.measured_rate import measure_tokens_per_s
from data_pipeline.errors import ConfigError
from data_pipeline.preprocess import TokenCounter, load_fast_library
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS
from data_pipeline.preprocess.row_filters import load_filters
from data_pipeline.preprocess.units import UnitSource, stage_unit
from data_pipeline.stages.embed_workers import block_rows
from data_pipeline.store import Coding
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes
from data_pipeline.utils import human_bytes

_SAMPLED_BYTES, _SAMPLED_DOCUMENTS = 4_000_000, 2_000
"""Of files, and of sources that do not count bytes."""
_MFU = 0.4
"""Share of a GPU's peak that embedding reaches: published rates are 28 to 63 %."""
_PEAK_TFLOPS = {"T4": 65, "A10G": 70, "L4": 121, "A10": 125, "A100": 312, "L40S": 362, "H100": 989, "H200": 989,
                "B200": 2250}  # fmt: skip
"""Peak of dense matrix products in float16 or bfloat16 by the makers' data sheets, in TFLOP/s."""

# CPU time of a row of 60 words on one core, measured by the benchmark `scale`, in seconds.
_READ_S, _NEAR_S, _WRITE_S, _LEAKAGE_S = 50e-6, 85e-6, 8e-6, 45e-6
_ALONE_S = 7e-6
"""Time of a row in the steps that one worker takes alone."""
_MEMORY_BYTES = 28
"""Memory for a row in those steps."""
_PARQUET_SHARE, _ROW_BYTES = 0.45, 150
"""Bytes of a paragraph file for each byte of text, and of what is kept beside each row."""
_NEAR_BYTES = 384
"""Disk for a row while near duplicates are looked for."""


@dataclass(frozen=True)
class Rows:
    """Rows that are to be made."""

    count: int
    tokens: float
    """Tokens of a row."""
    text_bytes: float
    """Bytes of the text of a row."""
    units: int
    """Units that are read; 0 if that is not known."""
    read_s: float = _READ_S
    """CPU time to read a row."""
    about: str = ""
    """Where the numbers come from."""


@dataclass(frozen=True)
class Devices:
    """Devices that embed."""

    count: int
    name: str
    tokens_per_s: float
    """Rate of one device."""
    about: str
    """Where the rate comes from."""
    price: float | None = None
    """Price of one device for an hour."""
    halves: bool = True
    """Whether they compute in half precision, as GPUs do."""


def devices_of(text: str, config: Config, rate: float | None, parameters: float | None, price: float | None) -> Devices:
    """Read `64xH100`, and find the rate of one of them.

    Args:
        text: number and name of the devices.
        config: names the model.
        rate: tokens per second of one device; None to derive it.
        parameters: number of parameters of the model; None for that in its name.
        price: price of one device for an hour.

    Raises:
        ConfigError: the text cannot be read, or the rate cannot be derived.
    """
    match = re.fullmatch(r"(?:(\d+)x)?([\w-]+)", text.strip())
    if match is None or match[1] == "0":
        raise ConfigError(f"--devices: found {text!r}, expected a number and a name, such as 64xH100")
    count, name = int(match[1] or 1), match[2]
    if rate is not None:
        return Devices(count, name, rate, "as given", price)
    peak = next((value for known, value in _PEAK_TFLOPS.items() if known.lower() == name.lower()), None)
    if peak is None:
        raise ConfigError(
            f"--devices: the peak of {name!r} is not known, only that of {', '.join(_PEAK_TFLOPS)}. Give the tokens a "
            "second of one device: --rate N (elm doctor measures it)"
        )
    size = parameters or _parameters_of(config.embedding.model_name)
    tokens_per_s = peak * 1e12 * _MFU / (2 * size)
    return Devices(count, name, tokens_per_s, f"{_MFU:.0%} of {peak} TFLOP/s at {size:.3g} parameters", price)


def _parameters_of(model: str) -> float:
    match = re.search(r"(\d+(?:\.\d+)?)([bBmM])(?![a-z])", model.rpartition("/")[2])
    if match is None:
        raise ConfigError(
            f"the name {model!r} does not say how many parameters the model has. Give them (--parameters 1.1e8), or "
            "the tokens a second of one device (--rate N)"
        )
    return float(match[1]) * (1e9 if match[2] in "bB" else 1e6)


def this_machine(config: Config) -> Devices:
    """Measure the rate of this machine, for which the model is loaded.

    Raises:
        DataPipelineError: the model cannot be loaded.
    """
    import torch  # which measuring imports anyway

    rate = measure_tokens_per_s(config.embedding)
    return Devices(1, "device of this machine", rate, "measured", halves=torch.cuda.is_available())


def sample_rows(config: Config) -> Rows:
    """Read the first documents of a corpus as a run would, and extrapolate by its size.

    Raises:
        SourceError: the corpus cannot be read.
        ConfigError: the size of the corpus is not known.
    """
    corpus = open_corpus(config.corpus)
    units = list(corpus.units())
    sizes = [unit.bytes for unit in units]
    read, sampled, is_cut = [0], [0], [False]

    def first(on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
        """Documents of whole blocks, whose bytes are known."""
        before = 0
        for number, document in enumerate(units[0].read(on_bytes, on_bad)):
            if read[0] > before:  # the next block begins about here
                sampled[0], before = before, read[0]
            if sampled[0] >= _SAMPLED_BYTES or (not read[0] and number == _SAMPLED_DOCUMENTS):
                is_cut[0] = True
                return
            yield document

    def count(number: int) -> None:
        read[0] += number

    tokenizer = load_tokenizer(config.embedding)
    counter = TokenCounter(tokenizer, load_fast_library(tokenizer))
    filters = load_filters(config.filters, corpus.metadata, CHUNK_COLUMNS if config.preprocess.cuts else ())
    source = UnitSource(Unit(first), 0, dict(corpus.metadata), None if corpus.max_bad_share is None else 1.0, False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        counts = stage_unit(source, counter, config.preprocess, filters, False, Path(folder) / "unit", count)
        seconds = time.process_time() - started
        staged = Path(folder) / "unit" / "rows.arrow"
        text_bytes = staged.stat().st_size if staged.exists() else 0
    rows = max(1, counts.read.rows)
    is_whole = not is_cut[0] and len(units) == 1
    if not is_whole and None in sizes:
        raise ConfigError("the size of this source is not known before it is read. Give its rows: elm plan --rows N")
    share = 1.0 if is_whole else min(1.0, (sampled[0] if is_cut[0] else read[0]) / sum(filter(None, sizes)))
    about = "the whole corpus" if is_whole else f"{counts.read.documents:,} documents, {share:.2%} of the corpus"
    tokens = (counts.read.tokens - counts.read.long_tokens) / rows
    return Rows(int(rows / share), tokens, text_bytes / rows, len(units), seconds / rows, about)


@dataclass(frozen=True)
class Work:
    """What a run would read, write and take."""

    rows: Rows
    units: int
    """Units to read, estimated where their number is not known."""
    shards: int
    """Paragraph files to write."""
    tokens: float
    paragraph_bytes: int
    vector_bytes: int
    dim: int
    precision: str
    """Coding of the vectors."""
    work_bytes: int
    """Disk that is needed besides, while the paragraphs are made."""
    workers: int
    preprocessing_s: float
    alone_s: float
    """Part of it in steps that one worker takes alone."""
    devices: Devices | None = None
    embedding_s: float | None = None
    """Time of all devices together; None if their rate is not known."""
    price: float | None = None
    """Price of the devices."""


def estimate_work(config: Config, rows: Rows, dim: int, workers: int, devices: Devices | None) -> Work:
    """Estimate the work of a run.

    Args:
        config: settings of the run.
        rows: rows that are to be made.
        dim: width of a vector.
        workers: number of workers that preprocess, a core each.
        devices: devices that embed; None if their rate is not known.
    """
    coding, near = _coding(config, devices), config.preprocess.near_dedup
    shared = rows.count * (rows.read_s + (_NEAR_S if near else 0) + _WRITE_S + _LEAKAGE_S)
    alone, tokens = rows.count * _ALONE_S, rows.count * rows.tokens
    hours = tokens / devices.tokens_per_s / 3600 if devices is not None else None
    return Work(
        rows=rows,
        units=rows.units or math.ceil(rows.count * rows.text_bytes / UNIT_BYTES),
        shards=math.ceil(rows.count / config.storage.shard_rows),
        tokens=tokens,
        paragraph_bytes=int(rows.count * (rows.text_bytes * _PARQUET_SHARE + _ROW_BYTES)),
        vector_bytes=rows.count * coding.row_bytes(dim),
        dim=dim,
        precision=coding.precision,
        work_bytes=int(rows.count * (rows.text_bytes + (_NEAR_BYTES if near else 0))),
        workers=workers,
        preprocessing_s=shared / workers + alone,
        alone_s=alone,
        devices=devices,
        embedding_s=3600 * hours / devices.count if devices is not None and hours is not None else None,
        price=hours * devices.price if hours is not None and devices is not None and devices.price else None,
    )


def plan_rows(work: Work) -> list[tuple[str, str]]:
    """Describe the work of a run in rows of a table."""
    rows, devices = work.rows, work.devices
    units = ("" if rows.units else "about ") + _counted(work.units, "unit")
    table = [
        ("rows", f"{rows.count:,}, {rows.tokens:,.0f} tokens each" + (f" (from {rows.about})" if rows.about else "")),
        ("tasks", f"{units} to read, {_counted(work.shards, 'shard')} to write"),
        ("all tokens", f"{work.tokens:,.0f}"),
        ("paragraphs", human_bytes(work.paragraph_bytes)),
        ("vectors", f"{human_bytes(work.vector_bytes)} ({work.dim:,} dimensions, {work.precision})"),
        ("work", f"{human_bytes(work.work_bytes)} more while the paragraphs are made"),
        ("preprocessing", f"{describe_seconds(work.preprocessing_s)} by {_counted(work.workers, 'worker')}"
                          + (f", of which {describe_seconds(work.alone_s)} by one alone" if work.workers > 1 else "")),
    ]  # fmt: skip
    if devices is not None and work.embedding_s is not None:
        text = f"{describe_seconds(work.embedding_s)} by {devices.count:,} {devices.name}, "
        text += f"{work.embedding_s * devices.count / 3600:,.1f} hours of one, " if devices.count > 1 else ""
        table.append(("embedding", text + f"at {devices.tokens_per_s:,.0f} tokens/s ({devices.about})"))
        if work.price is not None:
            table.append(("price", f"{work.price:,.2f} at {devices.price:g} for an hour of one device"))
    return table


def limits_of(
    config: Config, rows: Rows, dim: int, free_disk: int, memory: int, devices: Devices | None
) -> list[tuple[float, str]]:
    """Return how often the rows would fit into each limit, and what happens there, the tightest first.

    Args:
        config: settings of the run.
        rows: rows that are to be made.
        dim: width of a vector.
        free_disk: free bytes of the data folder.
        memory: memory of this machine, in bytes.
        devices: devices that embed.
    """
    vector_bytes = _coding(config, devices).row_bytes(dim)
    disk = rows.count * (rows.text_bytes * (1 + _PARQUET_SHARE) + _ROW_BYTES + vector_bytes)
    if config.preprocess.near_dedup:
        disk += rows.count * _NEAR_BYTES
    alone = rows.count * _ALONE_S
    limits = [
        (free_disk / disk, f"disk: {human_bytes(int(disk))} needed at the most, {human_bytes(free_disk)} free"),
        (0.8 * memory / (rows.count * _MEMORY_BYTES),
         f"memory of the worker that decides which rows are kept: {human_bytes(rows.count * _MEMORY_BYTES)}, this "
         f"machine has {human_bytes(memory)}"),
        (86_400 / alone, f"steps that one worker takes alone: {describe_seconds(alone)}, a day is a lot"),
    ]  # fmt: skip
    if devices is not None:
        blocks = math.ceil(rows.count / block_rows(rows.count, devices.count, vector_bytes))
        limits.append((blocks / devices.count, f"blocks of rows: {blocks:,} for {devices.count:,} devices"))
    return sorted(limits)


def _coding(config: Config, devices: Devices | None) -> Coding:
    embedding = config.embedding
    if embedding.precision != "auto":
        return Coding(embedding.precision)
    is_exact = embedding.dtype == "float32" or embedding.model_name == "hashing"
    return Coding("float32" if is_exact or (devices is not None and not devices.halves) else "float16")


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def describe_seconds(seconds: float) -> str:
    """Describe a time in words."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
