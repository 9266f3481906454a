import hashlib
from collections import Counter

import numpy as np
import pytest

from data_pipeline.config import SplitConfig
from data_pipeline.errors import SourceError
from data_pipeline.preprocess.split import split_by_document, split_by_shuffle, split_by_source, split_of_document
from data_pipeline.types import SPLITS

IDS = [f"document-{number}" for number in range(10_000)]


def sizes(places):
    return np.bincount(places, minlength=3).tolist()


def test_the_split_of_a_document_is_its_place_in_a_keyed_hash():
    config = SplitConfig(train_ratio=0.6, val_ratio=0.3, test_ratio=0.1, seed=5)
    for document_id in [*IDS[:200], "", "é", "a:b"]:
        digest = hashlib.blake2b(b"5:" + document_id.encode(), digest_size=8).hexdigest()
        place = int(digest, 16) / 16**16
        expected = "train" if place < 0.6 else "val" if place < 0.9 else "test"
        assert split_of_document(document_id, config) == expected


def test_added_documents_move_none():
    config = SplitConfig()
    before = dict(zip(IDS[:500], split_by_document(IDS[:500], config).tolist(), strict=True))
    after = dict(zip(IDS[::-1], split_by_document(IDS[::-1], config).tolist(), strict=True))
    assert {document_id: after[document_id] for document_id in before} == before


def test_every_paragraph_of_a_document_goes_with_it():
    rows = ["a", "b", "a", "c", "b", "a"] * 5
    places = split_by_document(rows, SplitConfig(train_ratio=0.4, val_ratio=0.3, test_ratio=0.3)).tolist()
    assert all(len({place for row, place in zip(rows, places, strict=True) if row == name}) == 1 for name in "abc")


@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01)])
def test_the_ratios_hold_about_over_many_documents(ratios):
    config = SplitConfig(train_ratio=ratios[0], val_ratio=ratios[1], test_ratio=ratios[2])
    shares = np.array(sizes(split_by_document(IDS, config))) / len(IDS)
    # Four standard deviations of a share of 10,000.
    assert np.all(np.abs(shares - ratios) < 4 * np.sqrt(np.array(ratios) * (1 - np.array(ratios)) / len(IDS)))


def test_another_seed_gives_another_division():
    first, second = (split_by_document(IDS, SplitConfig(seed=seed)) for seed in (1, 2))
    assert 0.25 < np.mean(first != second) < 0.45  # 1 - (0.8² + 0.1² + 0.1²) = 0.34


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [((1, 0, 0), [10_000, 0, 0]), ((0, 1, 0), [0, 10_000, 0]), ((0, 0, 1), [0, 0, 10_000])],
)
def test_a_ratio_of_one_takes_everything(ratios, expected):
    config = SplitConfig(train_ratio=ratios[0], val_ratio=ratios[1], test_ratio=ratios[2])
    assert sizes(split_by_document(IDS, config)) == expected
    assert sizes(split_by_shuffle(10_000, config)) == expected


@pytest.mark.parametrize(
    ("rows", "expected"), [(100, [80, 10, 10]), (101, [80, 10, 11]), (9, [7, 0, 2]), (1, [0, 0, 1]), (0, [0, 0, 0])]
)
def test_a_shuffle_has_exact_sizes_the_rest_goes_to_test(rows, expected):
    assert sizes(split_by_shuffle(rows, SplitConfig())) == expected


def test_a_shuffle_follows_its_seed():
    first = split_by_shuffle(1000, SplitConfig(seed=1))
    assert first.tolist() == split_by_shuffle(1000, SplitConfig(seed=1)).tolist()
    assert first.tolist() != split_by_shuffle(1000, SplitConfig(seed=2)).tolist()
    assert first[:800].tolist() != [0] * 800


def test_ratios_that_floats_cannot_hold_lose_no_row_to_rounding():
    # 0.7 * 10 is 7.000000000000001 or 6.999999999999999, according to how it is written.
    assert sizes(split_by_shuffle(10, SplitConfig(train_ratio=0.7, val_ratio=0.2, test_ratio=0.1))) == [7, 2, 1]
    assert sizes(split_by_shuffle(100, SplitConfig(train_ratio=0.57, val_ratio=0.29, test_ratio=0.14))) == [57, 29, 14]


def test_the_official_split_is_the_source_s():
    places = split_by_source(["val", "train", "test", "train"], list("abcd"))
    assert [SPLITS[place] for place in places] == ["val", "train", "test", "train"]
    assert Counter(places.tolist()) == {0: 2, 1: 1, 2: 1}


def test_the_official_split_of_a_source_without_one_is_an_error_with_the_ways_out():
    with pytest.raises(SourceError, match=r"has no split for the document 'b'.*Set split\.method to document"):
        split_by_source(["train", ""], ["a", "b"])
