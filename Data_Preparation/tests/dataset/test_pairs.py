import pickle

import polars as pl
import pytest
import torch
from support.builders import JOINED, ROWS, make, same
from torch.utils.data import DataLoader, default_collate

from data_pipeline import ELMCollator, ELMDataset, PairDataset
from data_pipeline.errors import SourceError, StoreError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ELMDataset(make(tmp_path_factory.mktemp("made"), JOINED), columns=["text", "metadata", "embedding", "index"])


@pytest.fixture(scope="module")
def ids(dataset):
    return dataset.metadata["text_id"].to_list()


ANCHORS, POSITIVES, NEGATIVES = [3, 160, 40, 3, 7], [99, 1, 41, 4, 8], [0, 0, 164, 32, 33]


@pytest.fixture(scope="module")
def triples(ids):
    return pl.DataFrame(
        {
            "anchor_id": [ids[row] for row in ANCHORS],
            "positive_id": [ids[row] for row in POSITIVES],
            "negative_id": [ids[row] for row in NEGATIVES],
        }
    )


def test_every_role_is_the_data_set_s_own_row(dataset, triples):
    pairs = dataset.pairs(triples)
    assert isinstance(pairs, PairDataset)
    assert len(pairs) == 5
    batch = pairs.get_batch(range(5))
    assert list(batch) == ["anchor", "positive", "negative"]
    for role, rows in (("anchor", ANCHORS), ("positive", POSITIVES), ("negative", NEGATIVES)):
        same(batch[role], dataset.get_batch(rows))
        for number, row in enumerate(rows):
            same(pairs[number][role], dataset[row])
    same(pairs[-1]["positive"], dataset[8])
    with pytest.raises(IndexError, match="index 5 is out of range: there are 5 rows"):
        pairs[5]


def test_all_roles_are_gathered_at_once(dataset, triples, monkeypatch):
    asked = []
    gather = ELMDataset.gather
    monkeypatch.setattr(ELMDataset, "gather", lambda self, index: asked.append(len(index)) or gather(self, index))
    dataset.pairs(triples).get_batch([0, 1, 4])
    assert asked == [9]


@pytest.mark.parametrize("shuffle", [False, "full", "block"])
def test_pairs_go_through_both_loaders_and_every_collating_function(dataset, triples, shuffle):
    pairs = dataset.pairs(triples)
    batches = list(pairs.get_dataloader(2, shuffle, block_rows=2, window_blocks=1))
    assert sorted(row for batch in batches for row in batch["anchor"]["index"].tolist()) == sorted(ANCHORS)
    for batch in batches:
        places = [
            next(n for n in range(5) if (ANCHORS[n], POSITIVES[n]) == both)
            for both in zip(batch["anchor"]["index"].tolist(), batch["positive"]["index"].tolist(), strict=True)
        ]
        for role, value in pairs.get_batch(places).items():
            same(batch[role], value)
    stock = next(iter(DataLoader(pairs, 5)))
    for found in (stock, default_collate([pairs[n] for n in range(5)]), ELMCollator()([pairs[n] for n in range(5)])):
        for role, value in pairs.get_batch(range(5)).items():
            same(found[role], value)
    apart = ELMCollator(stack=False)(pairs.__getitems__([0, 1]))
    assert [isinstance(apart[role]["embedding"], list) for role in apart] == [True] * 3


def test_going_on_with_pairs_and_refusing_those_of_other_triples(dataset, triples):
    loader = dataset.pairs(triples).get_dataloader(2, "full")
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    iterator.close()
    other = dataset.pairs(triples).get_dataloader(2, "full")
    other.load_state_dict(state)
    assert len(list(other)) == 2
    changed = triples.with_columns(negative_id=pl.col("negative_id").reverse())
    with pytest.raises(ValueError, match="the dataset holds other rows"):
        dataset.pairs(changed).get_dataloader(2, "full").load_state_dict(state)


def test_queries_are_texts_of_their_own_and_each_positive_makes_a_pair(dataset, ids):
    table = pl.DataFrame(
        {
            "query": ["first", "none", "second"],
            "positive_doc_ids": [[ids[3], ids[100]], [], [ids[7]]],
            "hard_negative_doc_ids": [[ids[1], ids[2]], [], [ids[5], ids[6], ids[8]]],
        }
    )
    pairs = dataset.pairs(table)
    batch = pairs.get_batch(range(len(pairs)))
    assert batch["anchor"] == {"text": ["first", "first", "second"]}
    assert batch["positive"]["index"].tolist() == [3, 100, 7]
    assert batch["negative"]["index"].tolist() == [1, 1, 5]
    assert pairs[2]["anchor"] == {"text": "second"}
    two = dataset.pairs(table, negatives=2).get_batch([2, 0])
    assert list(two) == ["anchor", "positive", "negative_1", "negative_2"]
    assert two["negative_2"]["index"].tolist() == [6, 2]
    assert list(dataset.pairs(table, negatives=0).get_batch([0])) == ["anchor", "positive"]
    assert pairs.fingerprint != dataset.pairs(table.with_columns(query=pl.lit("x"))).fingerprint


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_triples_are_read_from_files(dataset, triples, tmp_path, ending):
    path = tmp_path / f"triples.{ending}"
    {"parquet": triples.write_parquet, "csv": triples.write_csv, "jsonl": triples.write_ndjson}[ending](path)
    found, expected = (dataset.pairs(source).get_batch(range(5)) for source in (path, triples))
    for role in expected:
        same(found[role], expected[role])


def test_pairs_of_a_selection_and_in_another_process(dataset, triples):
    turned = dataset.select(range(ROWS - 1, -1, -1))
    found = turned.pairs(triples).get_batch(range(5))
    assert found["positive"]["index"].tolist() == [ROWS - 1 - row for row in POSITIVES]
    assert found["positive"]["text"] == dataset.get_batch(POSITIVES)["text"]
    again = pickle.loads(pickle.dumps(dataset.pairs(triples)))  # noqa: S301
    assert torch.equal(again[1]["negative"]["embedding"], dataset[0]["embedding"])


def test_triples_that_do_not_fit_are_refused_and_say_why(dataset, ids, triples):
    with pytest.raises(StoreError, match="1 of 5 ids are not in this dataset .*the first is 'gone'"):
        dataset.pairs(triples.with_columns(negative_id=pl.Series([*triples["negative_id"][:4], "gone"])))
    with pytest.raises(SourceError, match="must have one of the columns positive_id and positive_doc_ids; it has a"):
        dataset.pairs(pl.DataFrame({"a": [1]}))
    with pytest.raises(SourceError, match="must have one of the columns anchor_id and query"):
        dataset.pairs(triples.drop("anchor_id"))
    with pytest.raises(SourceError, match="has no column negative_id or hard_negative_doc_ids"):
        dataset.pairs(triples.drop("negative_id"), negatives=1)
    with pytest.raises(SourceError, match=rf"the pair with '{ids[99]}' has 1 negatives, expected 2 or more"):
        dataset.pairs(triples, negatives=2)


def test_ids_that_are_numbers_are_looked_up_as_strings_in_every_column(dataset, ids):
    table = pl.DataFrame({"query": ["q"], "positive_id": [ids[0]], "negative_id": [17]})
    with pytest.raises(StoreError, match="1 of 1 ids are not in this dataset .*the first is '?17"):
        dataset.pairs(table)
