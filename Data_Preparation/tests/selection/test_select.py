"""What holds for every selector, and how a selection is checked and named."""

import numpy as np
import pytest
import torch

from data_pipeline.config import Section
from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.selection import (
    SELECTORS,
    Budget,
    Features,
    Ranking,
    Selector,
    SelectorConfig,
    StrataConfig,
    registry,
    select,
)

ROWS = 60
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 30, ROWS)
FEATURES = Features(
    ids=[f"row {row}" for row in range(ROWS)],
    embeddings=RNG.normal(size=(ROWS, 8)).astype(np.float32),
    texts=[" ".join(["word"] * int(length)) for length in LENGTHS],
    labels=(RNG.random(ROWS) < 0.7).astype(np.int64),
    token_counts=LENGTHS,
    scores={name: RNG.random(ROWS) for name in (
        "perplexity", "predictive_entropy", "wordpiece_ratio", "consistency", "mtld", "el2n", "grand", "forgetting",
        "label_quality", "llm_judge", "self_filter", "type_token_ratio",
    )} | {"label_issue": (RNG.random(ROWS) < 0.1).astype(float)},
    subsets={"before": RNG.permutation(ROWS)[:40]},
    seen={"score:el2n": frozenset({"labels"})},
)  # fmt: skip
PARAMETERS = {
    "ccs": {"score": "el2n"},
    "stratified": {"columns": ["mtld", "perplexity"], "bins": 3},
    "text_metric": {"score": "mtld"},
    "length_matched_random": {"like": "before"},
    "hybrid_sequential": {"steps": [{"selector": "dedup", "keep": 0.9}, {"selector": "kcenter"}]},
    "hybrid_fusion": {"parts": [{"selector": "kcenter", "weight": 0.3}, {"selector": "el2n"}]},
}


def parameters(name):
    fields = SELECTORS[name].config.model_fields
    return {key: value for key, value in PARAMETERS.get(name, {}).items() if key in fields}


@pytest.mark.parametrize("name", list(SELECTORS))
def test_every_selector_gives_exactly_the_asked_number_and_prefixes(name):
    whole = select(name, FEATURES, Budget(rows=30), seed=3, parameters=parameters(name))
    assert len(set(whole.rows.tolist())) == len(whole.ids) == 30
    assert whole.ids == [FEATURES.ids[row] for row in whole.rows]
    for rows in (1, 7, 29):
        part = select(name, FEATURES, Budget(rows=rows), seed=3, parameters=parameters(name))
        assert part.rows.tolist() == whole.rows[:rows].tolist()
    tokens = select(name, FEATURES, Budget(tokens=200), seed=3, parameters=parameters(name))
    assert LENGTHS[tokens.rows].sum() <= 200
    assert tokens.rows.tolist() == whole.rows[: len(tokens.rows)].tolist() or len(tokens.rows) > 30


@pytest.mark.parametrize("name", list(SELECTORS))
def test_no_selector_sees_what_its_record_does_not_name(name):
    found = select(name, FEATURES, Budget(rows=5), parameters=parameters(name))
    needs = SELECTORS[name].config.model_validate(parameters(name)).needs
    assert needs <= found.sees
    for need in needs:
        with pytest.raises(SelectionError, match=f"missing feature '{need}'"):
            select(name, FEATURES.only(needs - {need}), Budget(rows=5), parameters=parameters(name))
    assert ("labels" in found.sees) == ("-labels_" in found.subset)


def test_labels_behind_a_score_are_not_forgotten():
    found = select("ccs", FEATURES, Budget(rows=5), parameters={"score": "el2n"})
    assert found.sees == {"score:el2n", "labels"}
    assert found.subset.startswith("ccs-labels_n5_seed0_")


def test_names_tell_parameters_apart():
    plain = select("kcenter", FEATURES, Budget(fraction=0.1), seed=42)
    assert plain.subset == "kcenter_p10_seed42"
    spelled = select("kcenter", FEATURES, Budget(fraction=0.1), seed=42, parameters={"metric": "euclidean"})
    assert spelled.subset == plain.subset
    elsewhere = select("kcenter", FEATURES, Budget(fraction=0.1), seed=42, parameters={"device": "cpu:0"})
    assert elsewhere.subset == plain.subset  # where it is computed decides nothing
    names = {
        select("kcenter", FEATURES, budget, seed=seed, parameters=more, strata=strata).subset
        for budget in (Budget(fraction=0.1), Budget(fraction=0.105), Budget(rows=6))
        for seed in (1, 2)
        for more in ({}, {"metric": "cosine"})
        for strata in (None, StrataConfig(by="labels"), StrataConfig(by="mtld"), StrataConfig(by="mtld", bins=2))
    }
    assert len(names) == 3 * 2 * 2 * 4


def test_strata_share_the_budget_by_largest_remainders():
    found = select("random", FEATURES, Budget(rows=20), strata=StrataConfig(by="labels"))
    counts = np.bincount(FEATURES.labels)
    exact = counts * 20 / ROWS
    assert np.abs(np.bincount(FEATURES.labels[found.rows]) - exact).max() < 1
    assert found.sees == {"labels"}
    even = select("random", FEATURES, Budget(rows=20), strata=StrataConfig(by="labels", shares="equal"))
    assert np.bincount(FEATURES.labels[even.rows]).tolist() == [10, 10]
    bins = select("kcenter", FEATURES, Budget(rows=20), strata=StrataConfig(by="mtld", bins=4))
    ranks = np.argsort(np.argsort(FEATURES.scores["mtld"])) * 4 // ROWS
    assert np.bincount(ranks[bins.rows]).tolist() == [5, 5, 5, 5]
    prefix = np.bincount(ranks[bins.rows[:8]], minlength=4)
    assert prefix.tolist() == [2, 2, 2, 2]  # they take turns


def test_every_group_is_ranked_for_itself():
    labels = FEATURES.labels
    found = select("kcenter", FEATURES, Budget(rows=30), seed=5, strata=StrataConfig(by="labels"))
    for value in (0, 1):
        rows = np.flatnonzero(labels == value)
        mine = [row for row in found.rows.tolist() if labels[row] == value]
        again = select("kcenter", FEATURES.rows(rows), Budget(rows=len(mine)), seed=0)
        assert set(mine) <= set(rows.tolist())
        assert len(again.rows) == len(mine)


def test_what_cannot_be_is_named():
    with pytest.raises(ConfigError, match="unknown selector 'best'; expected one of .*kcenter"):
        select("best", FEATURES, Budget(rows=1))
    with pytest.raises(ConfigError, match="parameters of kcenter:\n.*speed"):
        select("kcenter", FEATURES, Budget(rows=1), parameters={"speed": 3})
    with pytest.raises(ConfigError, match="selector kmeans takes a KMeansConfig, found a KCenterConfig"):
        select("kmeans", FEATURES, Budget(rows=1), parameters=SELECTORS["kcenter"].config())
    with pytest.raises(SelectionError, match="the budget is 61 rows, and there are only 60"):
        select("random", FEATURES, Budget(rows=61))
    with pytest.raises(SelectionError, match="duplicate id 'a'"):
        Features(ids=["a", "b", "a"])
    with pytest.raises(SelectionError, match="labels has 2 rows, expected 3"):
        Features(ids=["a", "b", "c"], labels=np.array([0, 1]))
    broken = FEATURES.embeddings.copy()
    broken[17, 2] = np.nan
    for vectors in (broken, torch.from_numpy(broken)):
        with pytest.raises(SelectionError, match=r"row 17 \('row 17'\) is NaN or infinite"):
            select("kcenter", Features(FEATURES.ids, vectors), Budget(rows=3))
    scores = FEATURES.scores["mtld"].copy()
    scores[[4, 5]] = np.nan
    with pytest.raises(SelectionError, match=r"score 'mtld' of row 4 .* and 1 more"):
        select(
            "text_metric", Features(FEATURES.ids, scores={"mtld": scores}), Budget(rows=3), parameters={"score": "mtld"}
        )


def test_a_selector_that_breaks_the_rules_is_found_out(monkeypatch):
    class Nothing(SelectorConfig):
        pass

    for rows in ([0, 0, 1], [0, 1], [0, 1, 99], [-1, 0, 1]):
        broken = Selector(lambda features, count, rng, config, rows=rows: Ranking(np.array(rows)), Nothing)
        monkeypatch.setattr(registry, "SELECTORS", {"broken": broken})
        monkeypatch.setitem(SELECTORS, "broken", broken)
        with pytest.raises(SelectionError, match="This is a bug in the selector"):
            select("broken", FEATURES, Budget(rows=3))


def test_every_selector_says_what_it_is():
    for name, selector in SELECTORS.items():
        assert selector.help.endswith((".", ":", ")")), name
        assert issubclass(selector.config, Section)
        assert all(field.description for field in selector.config.model_fields.values()), name
