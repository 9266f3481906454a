"""What is computed again when a dataset changes: nothing but new texts, and how fast that is known.

WikiText-2 with MiniLM is embedded once; then with another seed of the split, with paragraphs of 80 tokens instead of
100, and at 128 dimensions. Rows computed are those that the model was given for the dataset; the few that prove a
folder to be right are not among them. The rows are those of a run from nothing.

Append: WikiText-2 without its last 1 % of articles, made with the vectors of the whole, to which those are appended.
CPU-seconds of processes of their own; start-up is that of one which imports the package and loads the model and its
tokenizer. The rows must be those of the whole, and their vectors the same to the last bit.

Parts and kills: see `incremental_parts.py` and `incremental_kills.py`.

Lookup: two shards of 1,000,000 paragraphs made of WikiText-2's, of which half are the same; SHA-256 of all texts, the
index of one shard, and the search for the other, without caches, in a process of its own.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, Figures, in_fresh_process, peak_memory_mb, shared_data
from models import wikitext_lines

_ROWS = 1_000_000


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = "quick" if quick else "full"
    job = in_fresh_process(Path(__file__), "job", size)
    parts = in_fresh_process(Path(__file__).with_name("incremental_parts.py"), size)
    kills = in_fresh_process(Path(__file__).with_name("incremental_kills.py"), size)
    with tempfile.TemporaryDirectory() as folder:
        in_fresh_process(Path(__file__), "write", size, folder)
        lookup = in_fresh_process(Path(__file__), "lookup", size, folder)
    return {
        "rows": Figure(job["rows"], "rows", "", "of the first run"),
        "first_run_s": Figure(job["first_s"], "s"),
        "append_cost_share": Figure(
            (job["append_cpu_s"] - job["start_cpu_s"]) / job["first_cpu_s"],
            "",
            "<= 0.02",
            f"{job['append_rows']} rows; {job['append_cpu_s']:.1f} CPU-s, of which start-up {job['start_cpu_s']:.1f}; "
            f"the whole run {job['first_cpu_s']:.0f}",
        ),
        "append_s": Figure(job["append_s"], "s"),
        "open_100_parts_ratio": Figure(
            parts["open_ratio"], "", "<= 1.5", f"{parts['open_ms']:.1f} ms, one part {parts['open_one_ms']:.1f} ms"
        ),
        "read_100_parts_ratio": Figure(
            parts["read_ratio"], "", "<= 1.1", f"{parts['rows']:,} rows, in batches and in random order; first epoch"
        ),
        "read_again_100_parts_ratio": Figure(parts["read_again_ratio"], "", "<= 1.1", "later epochs"),
        "random_kills": Figure(kills["kills"], "kills", "200", "append, replace, compact, gc and rollback"),
        "kills_gone_wrong": Figure(kills["wrong"], "kills", "0"),
        "reseed_rows_computed": Figure(job["reseed"], "rows", "0"),
        "reseed_s": Figure(job["reseed_s"], "s"),
        "refilter_rows_computed": Figure(job["refilter"], "rows", f"{job['refilter_new']} new ones"),
        "refilter_rows_reused": Figure(job["refilter_reused"], "rows"),
        "mrl_rows_computed": Figure(job["mrl"], "rows", "0", "384 to 128 dimensions"),
        "mrl_max_difference": Figure(job["mrl_difference"], "", "<= 1e-6", "to vectors computed at 128 dimensions"),
        "lookup_rows_per_s": Figure(lookup["rows"] / lookup["seconds"], "rows/s", ">= 200,000", "digests included"),
        "lookup_peak_mb": Figure(lookup["peak_mb"], "MB", "<= 1,000", f"{lookup['rows']:,} rows in {lookup['rows']:,}"),
    }


def _job(quick: bool) -> dict[str, Any]:
    from data_pipeline import ELMDataset, load_preset, run
    from data_pipeline.stages.pipeline import embed
    from data_pipeline.types import SPLITS

    def texts_of(config: Any) -> dict[str, list[str]]:
        datasets = {split: ELMDataset(split=split, load_embeddings=False, config=config) for split in SPLITS}
        return {split: dataset.rows.columns.texts(np.arange(len(dataset))) for split, dataset in datasets.items()}

    def computed(report: Any) -> int:
        return sum(result.tally.texts for result in report.embeddings.values())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "corpus"
        source.mkdir()
        for split in ("test",) if quick else ("train", "valid", "test"):
            (source / f"wiki.{split}.tokens").symlink_to(shared_data("wikitext-2") / f"wiki.{split}.tokens")

        def config(data: str, **changes: Any) -> Any:
            own = {"corpus.source": "wikitext", "corpus.path": str(source), "preprocess.min_tokens": 100}
            paths = {"data_dir": str(folder / data), "logs_dir": str(folder / "logs")}
            return load_preset("offline", own | paths | changes)

        started, cpu = time.monotonic(), time.process_time()
        report = run(config("data"))
        first_s, rows = time.monotonic() - started, sum(result.rows for result in report.embeddings.values())
        first_cpu_s = time.process_time() - cpu
        appended = _measure_append(folder, config, quick)
        before = {text for texts in texts_of(config("data")).values() for text in texts}
        started = time.monotonic()
        reseeded = computed(run(config("data", **{"split.seed": 7}), overwrite=True))
        reseed_s = time.monotonic() - started
        wider = {"split.seed": 7, "preprocess.min_tokens": 80}
        refiltered = run(config("data", **wider), overwrite=True)
        found = texts_of(config("data", **wider))
        run(config("whole", **wider), skip_embeddings=True)
        if found != texts_of(config("whole", **wider)):
            raise SystemExit("the rows are not those of a run from nothing")
        new = sum(text not in before for texts in found.values() for text in texts)
        cut = {**wider, "embedding.dim": 128}
        short = computed(embed(config("data", **cut), SPLITS, overwrite=True))
        exact = {**cut, "embedding.reuse": False, "embedding.variant": "exact"}
        embed(config("data", **exact), ["test"])
        reused, fresh = (ELMDataset(split="test", config=config("data", **way)) for way in (cut, exact))
        difference = np.abs(reused.to_numpy() - fresh.to_numpy()).max()
    return {
        **appended, "first_cpu_s": first_cpu_s,
        "rows": rows, "first_s": first_s, "reseed": reseeded, "reseed_s": reseed_s,
        "refilter": computed(refiltered), "refilter_new": new,
        "refilter_reused": sum(result.tally.reused for result in refiltered.embeddings.values()),
        "mrl": short, "mrl_difference": float(difference),
    }  # fmt: skip


def _measure_append(folder: Path, config: Any, quick: bool) -> dict[str, Any]:
    """Append the last 1 % of the articles to a dataset of the others, in a process of its own."""
    from data_pipeline import ELMDataset, run
    from data_pipeline.download.wikitext import articles
    from data_pipeline.types import SPLITS

    files = sorted((folder / "corpus").iterdir())
    total = sum(sum(1 for title, _ in articles(path.read_text().splitlines()) if title) for path in files)
    last = "wiki.train.tokens" if not quick else files[-1].name
    lines = (folder / "corpus" / last).read_text().splitlines(keepends=True)
    found = list(articles(line.rstrip("\n") for line in lines))
    cut = len(lines) - sum(1 + len(body) for _, body in found[-max(1, total // 100) :])
    for name in ("most", "more"):
        (folder / name).mkdir()
    for path in files:
        (folder / "most" / path.name).symlink_to(path)
    (folder / "most" / last).unlink()
    (folder / "most" / last).write_text("".join(lines[:cut]))
    (folder / "more" / last).write_text("".join(lines[cut:]))
    reuse = {"corpus.path": str(folder / "most"), "embedding.reuse_from": [str(folder / "data")]}
    run(config("grown", **reuse))
    flags = {"data_dir": str(folder / "grown"), "logs_dir": str(folder / "logs"), "corpus.source": "wikitext",
             "corpus.path": str(folder / "more"), "preprocess.min_tokens": 100}  # fmt: skip
    size = "quick" if quick else "full"
    start = in_fresh_process(Path(__file__), "start", size, json.dumps(flags))
    found = in_fresh_process(Path(__file__), "append", size, json.dumps(flags))
    new, compared = 0, 0
    for split in SPLITS:
        whole, grown = (ELMDataset(split=split, config=config(data)) for data in ("data", "grown"))
        contents = []
        for dataset in (whole, grown):
            table, vectors = dataset.rows.table(["text_id", "text"]).to_pylist(), dataset.to_numpy()
            pairs = zip(table, vectors, strict=True)
            contents.append({(row["text_id"], row["text"], vector.tobytes()) for row, vector in pairs})
        if contents[0] != contents[1]:
            raise SystemExit(f"the rows or vectors of {split} are not those of the whole run")
        compared += len(whole)
    new = sum(found["rows"].values())
    return {
        "append_rows": new, "append_cpu_s": found["cpu_s"], "append_s": found["seconds"],
        "start_cpu_s": start["cpu_s"], "compared": compared,
    }  # fmt: skip


def _start(flags: dict[str, Any]) -> dict[str, Any]:
    from data_pipeline import load_preset
    from data_pipeline.embeddings import load_embedder, load_tokenizer
    from data_pipeline.stages import pipeline

    config = load_preset("offline", flags)
    load_tokenizer(config.embedding)
    load_embedder(config.embedding)
    return {"cpu_s": time.process_time(), "of": pipeline.__name__}


def _append(flags: dict[str, Any]) -> dict[str, Any]:
    from data_pipeline import load_preset
    from data_pipeline.stages.pipeline import append_documents

    started = time.monotonic()
    growth, _ = append_documents(load_preset("offline", flags))
    rows = {split: counts["added"] for split, counts in growth.rows.items()}
    return {"cpu_s": time.process_time(), "seconds": time.monotonic() - started, "rows": rows}


def _write(quick: bool, folder: Path) -> dict[str, Any]:
    """Write two shards of paragraphs, of which half are the same."""
    import pyarrow as pa

    from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema

    lines, rows = wikitext_lines("train"), _ROWS // (100 if quick else 1)
    schema = paragraph_schema({})
    for shard, first in enumerate((0, rows // 2)):
        (folder / str(shard)).mkdir()
        writer = ParagraphWriter(folder / str(shard), "train", schema, 2 * rows)
        for start in range(first, first + rows, 8192):
            numbers = range(start, min(start + 8192, first + rows))
            columns: dict[str, list[Any]] = {name: [""] * len(numbers) for name in schema.names}
            columns |= {name: [0] * len(numbers) for name in ("token_count", "char_count")}
            columns["text_id"] = [str(number) for number in numbers]
            columns["text"] = [f"{number} {lines[number % len(lines)]}" for number in numbers]
            writer.write(pa.table(columns, schema))
        entry = writer.close()[0]
        (folder / f"{shard}.json").write_text(json.dumps(entry.to_json()))
    return {"rows": rows}


def _lookup(folder: Path) -> dict[str, Any]:
    from data_pipeline.store.manifest import ShardEntry
    from data_pipeline.store.paragraphs import ParagraphShard
    from data_pipeline.store.text_digests import text_digests
    from data_pipeline.store.text_index import TextIndex

    entries = [ShardEntry(**json.loads((folder / f"{shard}.json").read_text())) for shard in (0, 1)]
    known, wanted = (
        ParagraphShard(**entry.to_json(), path=folder / str(shard) / entry.file) for shard, entry in enumerate(entries)
    )
    started = time.monotonic()
    index = TextIndex([known.rows], lambda _: text_digests(known), folder)
    sources, rows = index.find(text_digests(wanted))
    seconds, half = time.monotonic() - started, known.rows // 2
    if (sources[:half] != 0).any() or (sources[half:] != -1).any() or (rows[:half] != half + np.arange(half)).any():
        raise SystemExit("the lookup found other rows than those that are the same")
    return {"rows": known.rows, "seconds": seconds, "peak_mb": peak_memory_mb()}


if __name__ == "__main__":
    what, quick = sys.argv[1], sys.argv[2] == "quick"
    if what == "job":
        print(json.dumps(_job(quick)))
    elif what in ("start", "append"):
        print(json.dumps((_start if what == "start" else _append)(json.loads(sys.argv[3]))))
    else:
        print(json.dumps(_write(quick, Path(sys.argv[3])) if what == "write" else _lookup(Path(sys.argv[3]))))
