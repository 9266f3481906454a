from data_pipeline.report.blocks import Figure, Table
from data_pipeline.report.opened import open_dataset
from data_pipeline.report.sections.funnel import funnel_section
from data_pipeline.stages.pipeline import run


def test_steps_come_in_the_order_in_which_rows_are_left_out(config):
    filters = config.filters.model_copy(update={"keep_where": {"short": "token_count < 170"}})
    run(config := config.model_copy(update={"filters": filters}))
    dataset = open_dataset(config)
    counts = dataset.manifest["counts"]
    section = funnel_section(dataset)
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["tokens", "own filters"]
    steps = next(block for block in section.blocks if isinstance(block, Figure)).spec["data"][0]["x"]
    assert steps[0] == counts["paragraphs"]
    assert steps[-1] == counts["kept"]
    assert steps[1] == counts["paragraphs"] - counts["dropped"]["too_few_tokens"]
