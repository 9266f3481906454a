import numpy as np
import pytest
from support.builders import made
from support.growing import settings, write

from data_pipeline.report.blocks import Facts
from data_pipeline.report.common_rows import match_rows, read_vectors
from data_pipeline.report.comparison import comparison_sections, largest_gap
from data_pipeline.report.opened import draw_sample, open_dataset
from data_pipeline.stages.pipeline import run


def facts_of(sections, name):
    section = next(section for section in sections if section.id == name)
    return {fact.name: fact for block in section.blocks if isinstance(block, Facts) for fact in block.facts}


def compared(one, other):
    datasets = open_dataset(one), open_dataset(other)
    samples = draw_sample(datasets[0]), draw_sample(datasets[1])
    return comparison_sections(datasets, samples, ("a", "b"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return made(tmp_path_factory.mktemp("one"))


def test_a_dataset_agrees_with_itself(config):
    sections = compared(config, config)
    rows = open_dataset(config).count
    assert facts_of(sections, "rows")["Rows in common"].value == f"{rows:,}: 100.0% of a, 100.0% of b"
    assert facts_of(sections, "neighbors")["Agreement"].value.startswith("100.0% of the 10 ")


def test_fewer_dimensions_agree_less(config, tmp_path):
    other = made(tmp_path, dim=16)
    sections = compared(config, other)
    agreement = float(facts_of(sections, "neighbors")["Agreement"].value.partition("%")[0])
    assert 5 < agreement < 95


def test_rows_are_matched_by_id_and_text(tmp_path):
    before = [("a", [0]), ("b", [1]), ("c", [2]), ("d", [3])]
    after = [("a", [0]), ("b", [4]), ("d", [3]), ("e", [5])]
    configs = []
    for name, documents in (("before", before), ("after", after)):
        write(tmp_path / f"{name}.jsonl", documents)
        config = settings(tmp_path / name, [tmp_path / f"{name}.jsonl"], **{"preprocess.exact_dedup": True})
        run(config)
        configs.append(config)
    one, other = map(open_dataset, configs)
    common = match_rows(one, other)
    rows = [
        {(row["document_id"], row["text"]) for row in draw_sample(dataset).frame.to_dicts()} for dataset in (one, other)
    ]
    assert len(common.pairs) == len(rows[0] & rows[1]) == 2
    assert sum(common.only) + common.changed * 2 == 4  # an id has a hash of the text, or is that of the document
    np.testing.assert_array_equal(
        read_vectors(one, common.pairs["split"], common.pairs["index"]),
        read_vectors(other, common.pairs["split_b"], common.pairs["index_b"]),
    )


def test_another_seed_moves_rows_to_other_splits(config, tmp_path):
    other = made(tmp_path)
    moved = other.model_copy(update={"split": other.split.model_copy(update={"seed": 7})})
    run(moved, overwrite=True)
    facts = facts_of(compared(config, moved), "rows")
    assert facts["In another split"].verdict == "check"
    assert int(facts["In another split"].value.replace(",", "")) > 10
    assert facts["Only in a"].value == facts["Only in b"].value == "0"


def test_largest_gap_by_hand():
    assert largest_gap(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4])) == 0
    assert largest_gap(np.array([1, 2]), np.array([3, 4])) == 1
    assert largest_gap(np.array([1, 2, 3, 4]), np.array([3, 4, 5, 6])) == 0.5
    assert largest_gap(np.array([]), np.array([1])) == 0
