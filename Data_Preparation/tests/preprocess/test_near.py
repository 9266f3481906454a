import random

import pytest

from data_pipeline.preprocess import near_index
from data_pipeline.preprocess.near import _rows_per_band, jaccard, shingles
from data_pipeline.preprocess.near_index import NearIndex, shingle_hashes

WORDS = [f"w{number}" for number in range(2000)]


def test_shingles_are_the_runs_of_five_words_in_lower_case():
    assert shingles("The cat sat on the  mat NOW") == {
        "the cat sat on the", "cat sat on the mat", "sat on the mat now",
    }  # fmt: skip
    assert shingles("a b c d e f a b c d e f") == {
        "a b c d e", "b c d e f", "c d e f a", "d e f a b", "e f a b c", "f a b c d",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a b c d e", "A  b", ""])
def test_a_text_of_five_words_or_fewer_is_one_shingle(text):
    assert shingles(text) == {" ".join(text.lower().split())}


def test_jaccard_is_the_shared_share():
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5
    assert jaccard({"a"}, {"a"}) == 1
    assert jaccard({"a"}, {"b"}) == 0


def similarity(left, right):
    """Jaccard of word 5-grams, counted without sets of the package."""
    left, right = ([tuple(words[i : i + 5]) for i in range(len(words) - 4)] for words in (left.split(), right.split()))
    both = [gram for gram in dict.fromkeys(left) if gram in right]
    return len(both) / len(dict.fromkeys(left + right))


def corpus_with_copies(seed, texts=40, copies=60):
    """Random texts, and copies of them with 0 to 8 words changed."""
    rng = random.Random(seed)
    found = [" ".join(rng.choices(WORDS, k=rng.randint(40, 120))) for _ in range(texts)]
    for _ in range(copies):
        words = rng.choice(found[:texts]).split()
        for _ in range(rng.randint(0, 8)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        found.append(" ".join(words))
    rng.shuffle(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_matches_are_those_of_comparing_every_pair(threshold):
    texts = corpus_with_copies(0)
    index = NearIndex(threshold, texts)
    expected = {
        (a, b) for a in range(len(texts)) for b in range(len(texts)) if similarity(texts[a], texts[b]) >= threshold
    }
    found = {(a, b) for a, b, _ in index.matches(texts)}
    assert len(expected) > 100
    assert found == expected


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_short_repeated_and_unspaced_texts_match_too(threshold):
    texts = ["", " ", "a", "A", "a b", "a b c d e", "a b c d e f", "a b c d e " * 8, "b c d e f", "GPU加速器",
             "GPU加速", "山川河流城市 x", "山川河流城市", "a b c d e f g h i j", "x a b c d e f g h i"]  # fmt: skip
    sets = [shingles(text) for text in texts]
    expected = {(a, b) for a in range(len(texts)) for b in range(len(texts)) if jaccard(sets[a], sets[b]) >= threshold}
    assert {(a, b) for a, b, _ in NearIndex(threshold, texts).matches(texts)} == expected
    assert list(NearIndex(threshold, []).matches(texts)) == list(NearIndex(threshold, texts).matches([])) == []


def test_parts_of_hits_are_of_whole_texts(monkeypatch):
    texts = [*corpus_with_copies(1), *["the same text many times, in all of them"] * 50]
    index = NearIndex(0.5, texts)
    expected = list(index.matches(texts))
    assert len(expected) > 2500
    for size in (1, 100, 1000):
        monkeypatch.setattr(near_index, "_PART_HITS", size)
        assert list(index.matches(texts)) == expected


def test_hashes_are_those_of_the_shingles_of_each_text():
    texts = ["a b c d e f a b c d e", "q", "", "a b c d e"]
    hashes, positions = shingle_hashes(texts)
    assert positions.tolist() == [0] * 7 + [1, 2, 3]
    assert hashes[0] == hashes[6] == hashes[9]
    assert len(set(hashes.tolist())) == 8


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_are_the_longest_that_find_99_percent_at_the_threshold(threshold):
    def recall(rows):
        return 1 - (1 - threshold**rows) ** (128 // rows)

    rows = _rows_per_band(threshold)
    assert rows == 1 or recall(rows) >= 0.99
    assert rows == 16 or recall(rows * 2) < 0.99


def test_shingles_of_characters_by_hand():
    assert shingles("GPU加速器") == {"gpu 加 速 器"}
    assert shingles("山川河流城市") == {"山 川 河 流 城", "川 河 流 城 市"}
