"""Section with the way from records to rows: what was dropped, why, and examples to read."""

from collections import Counter
from collections.abc import Iterable, Mapping

from data_pipeline.report.blocks import Block, Fold, Note, Section, Table, Text, Texts
from data_pipeline.report.figures import bars, funnel
from data_pipeline.report.opened import OpenedDataset
from data_pipeline.report.wording import readable, share
from data_pipeline.store.dropped import count_dropped, read_dropped_examples
from data_pipeline.utils import shortened

_TEXT_CHARS = 2000
_ORDER = (
    "records", "quality", "tokens", "language", "personal data", "own filters", "duplicates", "decontamination",
    "semantic_dedup",
)  # fmt: skip
"""Stages that leave rows out, in the order in which they do."""


def funnel_section(dataset: OpenedDataset) -> Section | None:
    """Describe what became of the paragraphs of the source; None for a dataset without records of it."""
    if (manifest := dataset.manifest) is None:
        return None
    counts = manifest["counts"]
    stages = _stages(count_dropped(dataset.store.folder)) if counts["dropped"] else {}
    left, steps = counts["paragraphs"], {"paragraphs and records": counts["paragraphs"]}
    for stage, dropped in stages.items():
        left -= dropped.total()
        steps[f"left after {readable(stage)}"] = left
    blocks: list[Block] = [
        Note(
            f"{counts['documents']:,} documents gave {counts['paragraphs']:,} paragraphs; {counts['kept']:,} are kept."
        ),
        funnel("From paragraphs to rows", _in_words(steps), steps),
    ]
    if counts["dropped"]:
        reasons = dict(sorted(counts["dropped"].items(), key=lambda item: -item[1]))
        blocks.append(
            bars("Drops by reason", _in_words(reasons), {readable(name): n for name, n in reasons.items()}, "rows")
        )
        blocks.append(_table(stages, counts["paragraphs"]))
        blocks += _examples(dataset, reasons)
    return Section("funnel", "From records to rows", blocks, "Every paragraph is in a split, or dropped with a reason.")


def _stages(counts: Mapping[tuple[str, str], int]) -> dict[str, Counter[str]]:
    """Numbers of dropped rows by stage and reason, in the order of the stages; those of other programs come last."""
    stages: dict[str, Counter[str]] = {}
    for (stage, reason), count in counts.items():
        stages.setdefault(stage, Counter())[reason] = count
    return dict(sorted(stages.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER)))


def _table(stages: dict[str, Counter[str]], paragraphs: int) -> Table:
    rows = [
        (readable(stage), readable(reason), f"{count:,}", share(count, paragraphs))
        for stage, reasons in stages.items()
        for reason, count in reasons.most_common()
    ]
    return Table("Dropped rows", ("step", "reason", "rows", "share"), rows, frozenset({2, 3}))


def _examples(dataset: OpenedDataset, reasons: Iterable[str]) -> list[Block]:
    examples = read_dropped_examples(dataset.store.folder)
    if examples is None:
        return [Note("An older version of this package made the dataset, and kept no examples of dropped texts.")]
    by_reason: dict[str, list[Text]] = {}
    for row in examples.to_pylist():
        of = f"repeats {row['duplicate_of']}" if row["duplicate_of"] else ""
        text = Text(shortened(row["text"] or "", _TEXT_CHARS), row["text_id"], of)
        by_reason.setdefault(row["reason"], []).append(text)
    return [
        Fold(f"Examples: {readable(reason)}", [Texts(f"Dropped as {readable(reason)}", by_reason[reason])])
        for reason in reasons
        if reason in by_reason
    ]


def _in_words(counts: dict[str, int]) -> str:
    return "; ".join(f"{readable(name)}: {count:,}" for name, count in counts.items())
