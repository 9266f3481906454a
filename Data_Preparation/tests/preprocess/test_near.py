import random

import pytest
from support.unspaced_texts import SCRIPTS, text_of

from data_pipeline.preprocess.near import NearIndex, _rows_per_band, jaccard, shingles

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
    index = NearIndex(threshold, texts.__getitem__)
    for key, text in enumerate(texts):
        index.add(key, text)
    expected = {
        (a, b) for a in range(len(texts)) for b in range(len(texts)) if similarity(texts[a], texts[b]) >= threshold
    }
    found = {(a, b) for a, text in enumerate(texts) for b in index.matches(text)}
    assert len(expected) > 100
    assert found - expected == set()  # never a false one: candidates are compared for real
    assert len(expected - found) <= 0.02 * len(expected)  # MinHash finds 99 % or more


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_deduplication_drops_what_comparing_with_all_kept_ones_drops(threshold):
    texts = corpus_with_copies(1)
    kept, expected = [], []
    for key, text in enumerate(texts):
        best = max(((similarity(text, texts[other]), -other) for other in kept), default=(0, 0))
        if best[0] >= threshold:
            expected.append((key, -best[1]))
        else:
            kept.append(key)
    index = NearIndex(threshold, texts.__getitem__)
    assert list(index.find_and_add(enumerate(texts))) == expected
    assert len(expected) > 10


def test_a_threshold_of_one_finds_the_same_shingles_only():
    texts = ["a b c d e f g", "a b c d e f h", "A b C d e f g"]
    index = NearIndex(1.0, texts.__getitem__)
    assert list(index.find_and_add(enumerate(texts))) == [(2, 0)]


def test_the_threshold_itself_counts_as_near():
    # 12 shingles each, 8 of them shared: 8 / 16.
    left, right = " ".join(WORDS[:16]), " ".join(WORDS[4:20])
    assert similarity(left, right) == 0.5
    for threshold, expected in ((0.5, [(1, 0)]), (0.51, [])):
        index = NearIndex(threshold, [left, right].__getitem__)
        assert list(index.find_and_add(enumerate([left, right]))) == expected


def test_a_near_copy_of_a_dropped_text_names_a_kept_one_or_stays():
    texts = [" ".join(WORDS[start : start + 100]) for start in (0, 8, 16)]
    index = NearIndex(0.8, texts.__getitem__)
    # 96 shingles; 8 words on: 88 / 104 = 0.85; 16 words on: 80 / 112 = 0.71.
    assert list(index.find_and_add(enumerate(texts))) == [(1, 0)]


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_are_the_longest_that_find_99_percent_at_the_threshold(threshold):
    def recall(rows):
        return 1 - (1 - threshold**rows) ** (128 // rows)

    rows = _rows_per_band(threshold)
    assert rows == 1 or recall(rows) >= 0.99
    assert rows == 16 or recall(rows * 2) < 0.99


def test_the_same_texts_give_the_same_pairs_every_time():
    texts = corpus_with_copies(2)
    first, second = (list(NearIndex(0.5, texts.__getitem__).find_and_add(enumerate(texts))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("script", SCRIPTS)
def test_copies_are_found_in_scripts_without_spaces_too(script):
    texts = [text_of(script, 120, seed) for seed in range(10)]
    copies = [text[:50] + "\u4e00" + text[51:] for text in texts]
    together = [text for pair in zip(texts, copies, strict=True) for text in pair]
    found = list(NearIndex(0.8, together.__getitem__).find_and_add(enumerate(together)))
    assert found == [(row + 1, row) for row in range(0, 20, 2)]


def test_shingles_of_characters_by_hand():
    assert shingles("GPU加速器") == {"gpu 加 速 器"}
    assert shingles("山川河流城市") == {"山 川 河 流 城", "川 河 流 城 市"}
