import json

import pytest

from data_pipeline.config.labels import LabelConfig
from data_pipeline.errors import CorruptShardError
from data_pipeline.judge import ScriptedJudge
from data_pipeline.report.blocks import Facts, Figure
from data_pipeline.report.sections.labels import labels_section
from data_pipeline.stages.label import label
from data_pipeline.stages.pipeline import run

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')
pytestmark = pytest.mark.usefixtures("clean_logging")


def grade(query, passage):
    """Words in common, of those that are long."""
    return min(3, 2 * len({word for word in query.lower().split() if len(word) > 4} & set(passage.lower().split())))


@pytest.fixture
def labelled(config):
    run(config)
    values = {
        "work_dir": str(config.data_dir / "weak_labels"),
        "passages": {"data_dir": str(config.data_dir)},
        "queries": {"source": "sample", "max_queries": 6},
        "gold": "sample",
    }
    return config, label(LabelConfig.model_validate(values), judge=ScriptedJudge(grade))


def test_labels_are_those_of_the_run(labelled):
    config, report = labelled
    section = labels_section(config)
    facts = {fact.name: fact for block in section.blocks if isinstance(block, Facts) for fact in block.facts}
    assert facts["Pairs"].value == f"{report.pairs:,} judged of {report.pairs:,}"
    assert facts["Pairs"].verdict == "good"
    kappa = report.figures["agreement_with_gold"]["kappa"]
    assert f"kappa {kappa:.3f}" in facts["Agreement with gold"].value
    assert facts["Calls of the last run"].value.startswith(f"{report.summary.calls:,}, 0 tokens in")
    assert "Cost of the last run" not in facts
    figures = {block.caption: block for block in section.blocks if isinstance(block, Figure)}
    assert figures["Grades"].spec["data"][0]["x"] == list(report.figures["grades"].values())
    assert {"Positives of a query", "Hard negatives by origin"} <= figures.keys()


def test_a_damaged_report_of_a_run_is_an_error(labelled):
    config, report = labelled
    path = report.folder / "report.json"
    path.write_text(json.dumps({"grades": 3}))
    with pytest.raises(CorruptShardError, match=r"report\.json cannot be read.*elm label"):
        labels_section(config)


def test_a_dataset_without_labels_has_no_section(config):
    assert labels_section(config) is None
