"""Section with the weak labels of each run: grades, positives, agreement with gold, calls and cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.config import Config
from data_pipeline.errors import CorruptShardError
from data_pipeline.report.blocks import Block, Fact, Facts, Fold, Section, Verdict
from data_pipeline.report.figures import bars
from data_pipeline.report.wording import counted, readable
from data_pipeline.user_files import visible
from data_pipeline.utils import human_time
from data_pipeline.weak_labels.state import State

FOLDER = "weak_labels"
"""Folder of the runs in a data folder."""
_REPORT = "report.json"
_GOOD_KAPPA, _POOR_KAPPA = 0.6, 0.4


def labels_section(config: Config) -> Section | None:
    """Describe the runs of weak labels in the data folder; None if there are none.

    Raises:
        CorruptShardError: the report of a run is damaged.
    """
    root = config.data_dir / FOLDER
    paths = sorted(visible(root.glob(f"*/{_REPORT}"), root))
    blocks: list[Block] = []
    for path in paths:
        own = _blocks(path)
        blocks += own if len(paths) == 1 else [Fold(f"Run {path.parent.name}", own)]
    return Section("labels", "Weak labels", blocks) if blocks else None


def _blocks(path: Path) -> list[Block]:
    try:
        figures: dict[str, Any] = json.loads(path.read_bytes())
        grades, positives = figures["grades"], figures["queries_by_positives"]
        facts = [Fact("Run", path.parent.name), *_facts(figures), *_calls(path)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptShardError(f"{path} cannot be read: {error!r}. Make it again with: elm label") from error
    blocks: list[Block] = [Facts(facts)]
    for caption, counts, unit in (("Grades", grades, "pairs"), ("Positives of a query", positives, "queries")):
        if counts:
            named = {
                f"grade {name}" if unit == "pairs" else f"{name} positives": count for name, count in counts.items()
            }
            blocks.append(bars(caption, counted(named), named, unit))
    if kinds := figures.get("negatives_by_kind"):
        named = {readable(name): count for name, count in kinds.items()}
        blocks.append(bars("Hard negatives by origin", counted(named), named, "negatives"))
    return blocks


def _facts(figures: Mapping[str, Any]) -> list[Fact]:
    pairs, positives = figures["accounts"]["pairs"], figures["queries_by_positives"]
    queries = sum(positives.values())
    without = positives.get("0", 0)
    facts = [
        Fact("Judge", f"{figures['judge']['model']} ({figures['judge'].get('served_model') or 'unknown'})"[:120]),
        Fact("Pairs", f"{pairs['judged']:,} judged of {pairs['sampled']:,}",
             "check" if pairs["failed"] or pairs["unjudged"] else "good",
             "run elm label again for the others" if pairs["failed"] or pairs["unjudged"] else ""),
        Fact("Queries", f"{queries:,}, {without:,} without a positive", "check" if without else "good"),
        Fact("Hard negatives", f"{figures['negatives']:,}",
             "check" if figures["queries_short_of_negatives"] else "good",
             f"{figures['queries_short_of_negatives']:,} queries have fewer than asked for"
             if figures["queries_short_of_negatives"] else ""),
    ]  # fmt: skip
    return [*facts, *_gold_facts(figures)]


def _gold_facts(figures: Mapping[str, Any]) -> list[Fact]:
    agreement = figures["agreement_with_gold"]
    if not agreement:
        return [Fact("Gold", "none", "check", "without gold judgements nobody knows how good the labels are")]
    values = {name: agreement[name] for name in ("precision", "recall", "kappa") if agreement.get(name) is not None}
    kappa = values.get("kappa")
    verdict: Verdict = (
        "note" if kappa is None else "good" if kappa >= _GOOD_KAPPA else "check" if kappa >= _POOR_KAPPA else "bad"
    )
    text = f"{agreement['pairs']:,} pairs: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    facts = [Fact("Agreement with gold", text, verdict, "" if verdict in {"good", "note"} else "kappa below 0.6")]
    if systems := figures.get("systems"):
        tau = systems.get("kendall_tau")
        value = "not defined" if tau is None else f"{tau:.3f}"
        facts.append(Fact("Systems ranked alike", f"Kendall's tau {value} over {len(systems['systems'])} systems"))
    return facts


def _calls(path: Path) -> list[Fact]:
    """Calls and tokens of the last call of the run, from its state."""
    state = path.parents[1] / "state.sqlite"
    if not state.exists():
        return []
    with State(state, read_only=True) as opened:
        summary = opened.run_record(path.parent.name)["summary"] or {}
    judging = summary.get("judging") or {}
    if not judging.get("calls"):
        return [Fact("Calls", "none in the last run; all answers were known, or the judge needs none")]
    tokens = f"{judging['prompt_tokens']:,} tokens in, {judging['completion_tokens']:,} out"
    facts = [Fact("Calls of the last run", f"{judging['calls']:,}, {tokens}, {human_time(judging['wall_s'])}")]
    if judging.get("cost") is not None:
        facts.append(Fact("Cost of the last run", f"{judging['cost']:,.4g} in the currency of the prices"))
    return facts
