"""Section with the facts of a dataset, each with a word on whether it is good."""

from collections.abc import Mapping
from typing import Any

from data_pipeline.preprocess.decontamination import KINDS
from data_pipeline.report.blocks import Fact, Facts, Section
from data_pipeline.report.opened import OpenedDataset, Sample
from data_pipeline.report.wording import counted, share
from data_pipeline.stages.licenses import UNKNOWN_LICENSE, licenses_of
from data_pipeline.store.manifest import EmbeddedSplit, ParagraphManifest, version_of
from data_pipeline.utils import human_time

_MUCH_DROPPED = 0.5
_FEW_ROWS = 1000
_FEW_TEST_ROWS = 100
_MUCH_TRUNCATED = 0.01
_MUCH_LEAKAGE = 0.01


def glance_section(dataset: OpenedDataset, sample: Sample) -> Section:
    """Describe the dataset at a glance."""
    facts = [*_source_facts(dataset), *_row_facts(dataset), *_quality_facts(dataset), *_vector_facts(dataset, sample)]
    return Section("at-a-glance", "At a glance", [Facts([*facts, *_origin_facts(dataset)])])


def _source_facts(dataset: OpenedDataset) -> list[Fact]:
    manifest = dataset.manifest
    if manifest is None:
        return [Fact("Source", dataset.store.corpus, "check", "made by an older pipeline, without a record of it")]
    licenses = [name for name in licenses_of(manifest) if name != UNKNOWN_LICENSE]
    return [
        Fact("Source", manifest.get("corpus") or dataset.store.corpus),
        Fact("Licence", ", ".join(licenses_of(manifest)))
        if licenses
        else Fact("Licence", "not recorded", "check", "set corpus.license before you share the dataset"),
    ]


def _row_facts(dataset: OpenedDataset) -> list[Fact]:
    facts = [
        Fact("Rows", f"{dataset.count:,}", "check", "few, enough for a try")
        if dataset.count < _FEW_ROWS
        else Fact("Rows", f"{dataset.count:,}", "good")
    ]
    if (manifest := dataset.manifest) is None:
        return facts
    tokens = sum(entry.get("tokens", 0) for entry in manifest["splits"].values())
    facts.append(Fact("Tokens", f"{tokens:,}, {tokens / max(1, dataset.count):,.0f} a row"))
    rows = {split: entry["rows"] for split, entry in manifest["splits"].items()}
    empty = [split for split, count in rows.items() if not count]
    if empty:
        facts.append(
            Fact("Splits", counted(rows), "bad", f"empty: {', '.join(empty)}; the corpus is small for the ratios")
        )
    elif rows.get("test", 0) < _FEW_TEST_ROWS:
        facts.append(Fact("Splits", counted(rows), "check", f"measures on {rows.get('test', 0)} test rows are coarse"))
    else:
        facts.append(Fact("Splits", counted(rows), "good"))
    return facts


def _quality_facts(dataset: OpenedDataset) -> list[Fact]:
    if (manifest := dataset.manifest) is None:
        return []
    counts = manifest["counts"]
    kept = share(counts["kept"], counts["paragraphs"])
    much = counts["kept"] < _MUCH_DROPPED * counts["paragraphs"]
    facts = [
        Fact("Kept", f"{kept} of {counts['paragraphs']:,} paragraphs", "check" if much else "good",
             "more than half was dropped; see the funnel" if much else ""),
        _duplicates(manifest),
        _leakage(manifest),
        _contamination(manifest),
    ]  # fmt: skip
    if personal := counts.get("personal_data"):
        facts.append(Fact("Personal data", counted(personal), "check", "found by the filters"))
    return facts


def _duplicates(manifest: ParagraphManifest) -> Fact:
    dropped = manifest["counts"]["dropped"]
    found = {reason: count for reason, count in dropped.items() if "duplicate" in reason}
    settings = manifest["settings"].get("preprocess", {})
    value = f"{sum(found.values()):,} dropped"
    if not settings.get("exact_dedup", True):
        return Fact("Duplicates", value, "bad", "duplicates were not looked for (preprocess.exact_dedup)")
    if not settings.get("near_dedup", True):
        return Fact("Duplicates", value, "check", "near duplicates were not looked for (preprocess.near_dedup)")
    return Fact("Duplicates", value, "good", "exact and near duplicates were looked for")


def _leakage(manifest: ParagraphManifest) -> Fact:
    leakage: Mapping[str, Any] = manifest.get("leakage") or {}
    article, near = leakage.get("article_in_train"), leakage.get("near_duplicate_in_train")
    if article is None or near is None:
        return Fact("Leakage", "not measured", "check", "train or test is empty, or the dataset is of an older version")
    value = f"{near:.1%} of the test rows have a near duplicate in train, {article:.1%} their document"
    if near > _MUCH_LEAKAGE or article > _MUCH_LEAKAGE:
        return Fact("Leakage", value, "bad", "test results will look better than they are; see below")
    return Fact("Leakage", value, "check" if near or article else "good")


def _contamination(manifest: ParagraphManifest) -> Fact:
    settings = manifest["settings"].get("decontamination")
    dropped = manifest["counts"]["dropped"]
    found = sum(count for reason, count in dropped.items() if reason.startswith(KINDS))
    if not settings:
        return Fact("Contamination", "not looked for", "check", "name evaluation sets: --decontaminate PATH")
    return Fact("Contamination", f"{found:,} rows that repeat evaluation items were dropped", "good")


def _vector_facts(dataset: OpenedDataset, sample: Sample) -> list[Fact]:
    if not dataset.has_vectors or dataset.embeddings is None:
        return [Fact("Vectors", "none", "check", "make them with elm embed")]
    entries = [dataset.embeddings["splits"][split] for split in dataset.rows]
    settings = entries[0]["settings"]
    revision = str(settings.get("revision", ""))
    dtype = str(settings.get("precision") or settings.get("dtype") or "")
    return [
        Fact("Model", str(settings["model"]), "good" if revision else "check",
             f"revision {revision[:40]}" if revision else "its revision is not pinned (embedding.revision)"),
        Fact("Pooling", str(settings.get("pooling", ""))),
        Fact("Dimensions", f"{entries[0]['dim']:,}, stored as {dtype}"),
        _truncation(entries),
        Fact("Finite", f"{sample.non_finite:,} vectors are not finite", "bad", "run elm verify")
        if sample.non_finite
        else Fact("Finite", "all vectors that were read", "good"),
    ]  # fmt: skip


def _truncation(entries: list[EmbeddedSplit]) -> Fact:
    cut, rows = sum(entry["truncated"] for entry in entries), sum(entry["rows"] for entry in entries)
    value = f"{cut:,} texts ({share(cut, rows)}) are longer than the model reads"
    if not cut:
        return Fact("Truncation", "no text is longer than the model reads", "good")
    advice = "their ends are not in the vectors; cut long texts (preprocess.unit: chunk)"
    return Fact("Truncation", value, "bad" if cut > _MUCH_TRUNCATED * rows else "check", advice)


def _origin_facts(dataset: OpenedDataset) -> list[Fact]:
    facts = []
    if run := dataset.run:
        seconds = {"paragraphs": run.get("preprocess_s") or 0, "embeddings": run.get("embedding_s") or 0}
        rates = [entry["tokens_per_s"] for entry in run["embeddings"].values() if entry.get("tokens_per_s")]
        text = ", ".join(f"{name} {human_time(value)}" for name, value in seconds.items() if value)
        rate = f", {max(rates):,.0f} tokens/s" if rates else ""
        facts.append(Fact("Time of the last run", (text or "all was finished before") + rate))
        counts = [entry.get("recomputed") or {} for entry in run["embeddings"].values()]
        if repaired := sum(sum(count.values()) for count in counts):
            facts.append(Fact("Repaired vectors", f"{repaired:,}", "check", "computed again in a wider dtype"))
    if (manifest := dataset.manifest) is not None:
        facts.append(Fact("Fingerprint", manifest["fingerprint"][:16]))
        facts.append(Fact("Version", f"{version_of(manifest)}"))
    return facts
