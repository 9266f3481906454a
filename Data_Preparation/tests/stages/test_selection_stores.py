"""Measures and selections of our own stores: kept once, refused when stale, never half there."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from support import forks

from data_pipeline.cli import main
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import (
    ConfigError,
    CorruptShardError,
    JudgeError,
    SelectionError,
    ShardMismatchError,
    StaleStageError,
    StoreError,
)
from data_pipeline.selection import Budget, StrataConfig
from data_pipeline.stages.measure import measure
from data_pipeline.stages.pipeline import run
from data_pipeline.stages.select import select_from
from data_pipeline.stages.verify import verify

pytestmark = pytest.mark.usefixtures("clean_logging")


@pytest.fixture
def stored(config):
    run(config)
    return config


@pytest.fixture
def tiny_causal(tmp_path):
    """Number -> folder of a random language model."""
    pytest.importorskip("transformers")
    from support.tiny_text_models import causal

    return lambda number: causal(tmp_path / f"model-{number}", attention_bias=bool(number), rms_norm_eps=1e-6 + number)


def test_a_subset_is_opened_by_name_in_its_order(stored):
    found = select_from(stored, "kcenter", Budget(fraction=0.2), seed=42)
    whole = ELMDataset(config=stored)
    part = ELMDataset(config=stored, subset="kcenter_p20_seed42")
    assert found.path == stored.selections_dir / "kcenter_p20_seed42" / "train.parquet"
    assert part.metadata["text_id"].to_list() == found.selection.ids
    rows = found.selection.rows
    assert len(part) == len(rows) == round(0.2 * len(whole))
    np.testing.assert_array_equal(part.to_numpy(), whole.to_numpy()[rows])
    assert [part[place]["text"] for place in (0, 1)] == [whole[int(row)]["text"] for row in rows[:2]]
    short = ELMDataset(config=stored, subset="kcenter_p20_seed42", where="token_count > 20")
    assert 0 < len(short) <= len(part)
    assert found.about["rows"] == len(rows)
    assert {"kcenter_radius", "mmd2", "length_drift", "overlap_with_random"} <= set(found.about)


def test_the_same_selection_is_the_same_bytes_and_another_has_another_name(stored):
    first = select_from(stored, "herding", Budget(rows=10), seed=1)
    before = first.path.read_bytes()
    again = select_from(stored, "herding", Budget(rows=10), seed=1)
    assert again.path.read_bytes() == before
    names = {select_from(stored, "herding", Budget(rows=10), seed=seed).path for seed in (1, 2)}
    assert len(names) == 2


def test_a_selection_of_other_paragraphs_is_refused(stored, monkeypatch):
    select_from(stored, "random", Budget(rows=5))
    settings = stored.model_dump()
    settings["split"]["seed"] = 7
    other = type(stored).model_validate(settings)
    run(other, overwrite=True)
    with pytest.raises(
        ShardMismatchError, match="other paragraphs of train. Make it again with: elm select --overwrite"
    ):
        ELMDataset(config=other, subset="random_n5_seed0")
    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.stages.select.select", lambda *_, **__: pytest.fail("rows were selected in vain"))
        with pytest.raises(StaleStageError, match="--overwrite"):
            select_from(other, "random", Budget(rows=5))
    select_from(other, "random", Budget(rows=5), overwrite=True)
    assert len(ELMDataset(config=other, subset="random_n5_seed0")) == 5


def test_what_is_not_there_or_altered_is_named(stored):
    with pytest.raises(StoreError, match="unknown selection 'best' of train; expected one of none"):
        ELMDataset(config=stored, subset="best")
    for name in ("../x", "a/b", ""):
        with pytest.raises(StoreError, match="not the name of a selection"):
            ELMDataset(config=stored, subset=name)
    found = select_from(stored, "random", Budget(rows=5))
    pl.read_parquet(found.path).reverse().write_parquet(found.path)
    with pytest.raises(CorruptShardError, match="checksum mismatch with manifest.json"):
        ELMDataset(config=stored, subset="random_n5_seed0")
    found.path.write_bytes(b"nothing")
    with pytest.raises(CorruptShardError, match="cannot be read"):
        ELMDataset(config=stored, subset="random_n5_seed0")


def test_what_is_damaged_is_replaced_when_that_is_asked_for(stored, tiny_causal):
    found = select_from(stored, "random", Budget(rows=5))
    measure(stored, "wordpiece_ratio", {"model": tiny_causal(0)})
    whole = {path: path.read_bytes() for path in stored.data_dir.rglob("manifest.json")}
    for path in (found.path.parent / "manifest.json", stored.scores_dir / "wordpiece_ratio" / "manifest.json"):
        path.write_text("{")
    with pytest.raises(CorruptShardError, match="--overwrite"):
        select_from(stored, "random", Budget(rows=5))
    with pytest.raises(CorruptShardError, match="--overwrite"):
        measure(stored, "wordpiece_ratio", {"model": tiny_causal(0)})
    measure(stored, "wordpiece_ratio", {"model": tiny_causal(0)}, overwrite=True)
    select_from(stored, "random", Budget(rows=5), overwrite=True)
    assert {path: path.read_bytes() for path in stored.data_dir.rglob("manifest.json")} == whole


def test_measures_are_score_columns_and_computed_once(stored):
    pytest.importorskip("textstat", reason='needs the extra "selection"')
    first = measure(stored, "text_metrics")["train"]
    assert not first.skipped
    dataset = ELMDataset(config=stored)
    assert set(first.columns) <= set(dataset.metadata.columns)
    assert dataset.metadata["avg_word_len"].min() > 1
    assert measure(stored, "text_metrics")["train"].skipped
    good, bad = verify(stored, "hash", 8)
    assert not bad
    assert any("scores of text_metrics" in line for line in good)


def test_a_selector_has_its_measure_computed_where_no_choice_is_needed(stored):
    pytest.importorskip("textstat", reason='needs the extra "selection"')
    found = select_from(stored, "text_metric", Budget(rows=4), parameters={"score": "mtld", "direction": "highest"})
    best = ELMDataset(config=stored).metadata.sort("mtld", descending=True)["text_id"].to_list()[:4]
    assert sorted(found.selection.ids) == sorted(best)
    with pytest.raises(SelectionError, match=r"no column 'perplexity' yet. Make it with: elm measure perplexity --set"):
        select_from(stored, "perplexity", Budget(rows=5))
    with pytest.raises(SelectionError, match="no column 'niceness', and no measure of that name"):
        select_from(stored, "text_metric", Budget(rows=5), parameters={"score": "niceness"})


def test_two_models_numbers_lie_side_by_side_and_none_wipes_the_other(stored, tiny_causal):
    measure(stored, "perplexity", {"model": str(tiny_causal(0))}, called="small")
    kept = (stored.scores_dir / "small" / "train.parquet").read_bytes()
    with pytest.raises(StaleStageError, match="made_with.model was"):
        measure(stored, "perplexity", {"model": str(tiny_causal(1))}, called="small")
    measure(stored, "perplexity", {"model": str(tiny_causal(1))}, called="other")
    assert (stored.scores_dir / "small" / "train.parquet").read_bytes() == kept
    columns = ELMDataset(config=stored).metadata
    assert (columns["small"] != columns["other"]).any()
    found = select_from(stored, "perplexity", Budget(rows=6), parameters={"score": "small"})
    assert found.selection.sees == {"score:small"}
    measure(stored, "perplexity", {"model": str(tiny_causal(1))}, called="small", overwrite=True)
    with pytest.raises(StaleStageError, match="changed"):  # the selection was made from the other numbers
        select_from(stored, "perplexity", Budget(rows=6), parameters={"score": "small"})


def test_a_killed_measure_goes_on_with_the_part_it_was_at(stored, tiny_causal, monkeypatch):
    from data_pipeline.metrics import registry as measure_table
    from data_pipeline.stages import measure as measuring

    monkeypatch.setattr(measuring, "_PART_ROWS", 60)
    asked, compute = [], measure_table.wordpiece_ratio

    def failing(texts, *arguments):
        asked.append(len(texts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return compute(texts, *arguments)

    monkeypatch.setattr(measure_table, "wordpiece_ratio", failing)
    settings = {"model": tiny_causal(0)}
    with pytest.raises(KeyboardInterrupt):
        measure(stored, "wordpiece_ratio", settings)
    assert not (stored.scores_dir / "wordpiece_ratio" / "manifest.json").exists()
    rows = measure(stored, "wordpiece_ratio", settings)["train"].rows
    assert sum(asked) - asked[2] == rows
    assert sorted(path.name for path in (stored.scores_dir / "wordpiece_ratio").iterdir()) == [
        "manifest.json", "train.parquet",
    ]  # fmt: skip


def test_names_that_are_taken_or_no_names_are_refused(stored):
    pytest.importorskip("textstat", reason='needs the extra "selection"')
    with pytest.raises(ConfigError, match="unknown measure 'beauty'; expected one of .*perplexity"):
        measure(stored, "beauty")
    with pytest.raises(ConfigError, match="'../x' names a folder"):
        measure(stored, "text_metrics", called="../x")
    measure(stored, "text_metrics")
    with pytest.raises(ConfigError, match="a column mtld exists already"):
        measure(stored, "wordpiece_ratio", {"model": "x"}, called="mtld")


def test_labels_are_seen_only_where_the_name_says_so(stored):
    dataset = ELMDataset(config=stored)
    plain = select_from(stored, "random", Budget(rows=5), label="document_id")
    assert "label_drift" in plain.about
    assert plain.selection.subset == "random_n5_seed0"
    strata = select_from(stored, "random", Budget(rows=5), label="document_id", strata=StrataConfig(by="labels"))
    assert strata.selection.subset.startswith("random-labels_n5_seed0_")
    with pytest.raises(SelectionError, match="name the column that has them"):
        select_from(stored, "random", Budget(rows=5), strata=StrataConfig(by="labels"))
    with pytest.raises(SelectionError, match="no column 'mood' to be the label"):
        select_from(stored, "random", Budget(rows=5), label="mood")
    assert len(dataset) > 5


def test_scores_learnt_from_labels_say_so(stored):
    found = select_from(stored, "el2n", Budget(rows=5), label="subject")
    assert found.selection.sees == {"score:el2n", "labels"}
    assert found.selection.subset == "el2n-labels_n5_seed0"
    dataset = ELMDataset(config=stored)
    assert {"el2n", "grand", "forgetting", "margin", "loss"} <= set(dataset.metadata.columns)
    with pytest.raises(SelectionError, match="name the column that has them"):
        select_from(stored, "cleanlab", Budget(rows=5))
    measure(stored, "self_filter", {"column": "el2n", "threshold": float(dataset.metadata["el2n"].median())})
    learnt = select_from(stored, "self_filter", Budget(rows=5))
    assert learnt.selection.sees == {"score:self_filter", "labels"}
    with pytest.raises(ConfigError, match="no column 'nothing'"):
        measure(stored, "self_filter", {"column": "nothing"}, called="other")


def test_judged_texts_are_kept_when_all_have_an_answer(stored):
    pytest.importorskip("openai", reason='needs the extra "weak-labels"')
    from data_pipeline.testing import misbehaving_server

    with misbehaving_server([(range(3, 6), "garbage")]) as server:
        judge = {"base_url": server.base_url, "model": "tiny-judge", "tries": 1, "breaker_share": 1.0}
        with pytest.raises(JudgeError, match="3 of .* texts have no answer; those that have are kept"):
            measure(stored, "llm_judge", {"judge": judge})
        assert not (stored.scores_dir / "llm_judge").exists()
        asked = len(server.requests)
        measure(stored, "llm_judge", {"judge": judge | {"slots": 3}})
        assert len(server.requests) - asked < 10  # the three, and what finds out what the server can do
    column = ELMDataset(config=stored).metadata["llm_judge"]
    assert column.is_finite().all()
    found = select_from(stored, "llm_judge", Budget(rows=5))
    assert found.selection.sees == {"score:llm_judge"}
    assert not verify(stored, "hash", 8)[1]


def test_gaps_are_kept_only_where_they_are_asked_for(stored):
    pytest.importorskip("openai", reason='needs the extra "weak-labels"')
    from data_pipeline.testing import misbehaving_server

    with misbehaving_server([(range(3, 6), "garbage")]) as server:
        judge = {"base_url": server.base_url, "model": "tiny-judge", "tries": 1, "breaker_share": 1.0}
        measure(stored, "llm_judge", {"judge": judge, "unanswered": "keep"})
    assert ELMDataset(config=stored).metadata["llm_judge"].null_count() == 3
    assert not verify(stored, "hash", 8)[1]
    with pytest.raises(SelectionError, match="3 of .* rows have no answer"):
        select_from(stored, "llm_judge", Budget(rows=5))
    assert len(select_from(stored, "llm_judge", Budget(rows=5), parameters={"unjudged": "last"}).selection.ids) == 5


def test_near_duplicates_of_another_split_are_counted_when_asked_for(stored):
    plain = select_from(stored, "random", Budget(rows=5))
    assert "near_duplicates_of_others" not in plain.about
    found = select_from(stored, "random", Budget(rows=5), against="val")
    assert found.selection.ids == plain.selection.ids
    vectors, others = (ELMDataset(split=split, config=stored).to_numpy() for split in ("train", "val"))
    near = (vectors @ others.T).max(axis=1) >= 0.95
    selected = int(near[found.selection.rows].sum())
    assert found.about["near_duplicates_of_others"] == {"selected": selected, "all": int(near.sum())}
    itself = select_from(stored, "random", Budget(rows=5), against="train")
    assert itself.about["near_duplicates_of_others"]["selected"] == 5


def test_altered_selections_are_faults(stored):
    found = select_from(stored, "random", Budget(rows=5))
    good, bad = verify(stored, "hash", 8)
    assert "train: selection random_n5_seed0: 5 rows of these paragraphs" in good
    assert not bad
    pl.read_parquet(found.path).head(4).write_parquet(found.path)
    assert any("checksum mismatch with manifest.json" in line for line in verify(stored, "hash", 8)[1])


KILLED = """
import os, signal, sys
from pathlib import Path
from support.forks import die_at_step, import_what_is_imported_by
from data_pipeline.config import Config
from data_pipeline.selection import Budget
from data_pipeline.stages.measure import measure
from data_pipeline.stages.select import select_from
from data_pipeline.stages import measure as measuring

measuring._PART_ROWS = 50
config = Config.model_validate_json(sys.argv[1])

def once(data_dir):
    here = config.model_copy(update={"data_dir": Path(data_dir)})
    measure(here, "wordpiece_ratio", {"model": sys.argv[4]})
    select_from(here, "wordpiece_ratio", Budget(rows=6))

def go(data_dir, step=0):
    if (child := os.fork()) == 0:
        die_at_step(step, "replace", "fsync", "unlink", "mkdir")
        once(data_dir)
        os._exit(0)
    return os.waitpid(child, 0)[1]

import_what_is_imported_by(lambda: once(sys.argv[5]))
assert go(sys.argv[2]) == 0
step = 1
while go(sys.argv[3], step) == signal.SIGKILL:
    step += 1
print(step)
"""


@pytest.mark.posix
def test_killed_at_every_step_it_ends_in_the_same_bytes(stored, tiny_causal, tmp_path):
    whole, part, imports = (tmp_path / name for name in ("whole", "killed", "imports"))
    for folder in (whole, part, imports):
        shutil.copytree(stored.data_dir, folder)
    arguments = [stored.model_dump_json(), str(whole), str(part), tiny_causal(0), str(imports)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, env=forks.ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 12

    def files(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for name in ("scores", "selections")
            for path in (folder / name).rglob("*")
            if path.is_file() and ".cache" not in path.parts and not path.name.endswith(".lock")
        }

    assert files(part) == files(whole)


def test_the_commands(stored, tmp_path, capsys):
    pytest.importorskip("textstat", reason='needs the extra "selection"')
    folder = ["--output-dir", str(stored.data_dir)]
    assert main(["select", "--name", "kmeans", "--frac", "0.1", "--seed", "7", "--set", "clusters=4", *folder]) == 0
    said = capsys.readouterr().out
    name = next(line.split()[1] for line in said.splitlines() if line.strip().startswith("subset"))
    assert name.startswith("kmeans_p10_seed7_")
    assert f"subset={name!r}" in said
    assert len(ELMDataset(config=stored, subset=name)) > 0
    assert main(["measure", "text_metrics", "--splits", "train", "val", *folder]) == 0
    assert "mtld" in capsys.readouterr().out
    assert main(["selectors"]) == 0
    said = capsys.readouterr().out
    assert "kcenter: k-center" in said
    assert "start_token" in said
    for arguments, message in (
        (["select", "--name", "best", "--rows", "1"], "unknown selector 'best'"),
        (["select", "--name", "random", "--rows", "100000"], "the budget is 100,000 rows"),
        (["select", "--name", "kcenter", "--rows", "1", "--set", "metric"], "--set takes key=value, found 'metric'"),
        (["select", "--name", "kcenter", "--rows", "1", "--set", "metric=red"], "parameters of kcenter"),
        (["measure", "beauty"], "unknown measure 'beauty'"),
    ):
        assert main([*arguments, *folder]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_manifests_say_what_was_looked_at(stored):
    found = select_from(stored, "kcenter", Budget(rows=4), seed=9)
    manifest = json.loads((found.path.parent / "manifest.json").read_text())["splits"]["train"]
    assert manifest["settings"] == {
        "selector": "kcenter", "parameters": {}, "budget": "n4", "seed": 9, "sees": ["embeddings"],
    }  # fmt: skip
    assert manifest["about"]["rows"] == 4
    table = pl.read_parquet(found.path)
    assert table.columns == ["text_id", "value"]
    assert sorted(os.listdir(found.path.parent)) == ["manifest.json", "train.parquet"]
