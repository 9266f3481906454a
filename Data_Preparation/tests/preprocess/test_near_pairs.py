"""Near duplicates among staged rows: pairs by brute force, whichever parts the work is cut into."""

import numpy as np
import pyarrow as pa
import pytest
from preprocess.test_near import WORDS, corpus_with_copies, similarity
from support.unspaced_texts import SCRIPTS, text_of

from data_pipeline.preprocess import near_pairs
from data_pipeline.preprocess.near import bucket_keys
from data_pipeline.preprocess.near_pairs import bucket, bucket_parts, compare, connect, in_row_order, near_repeats, sign
from data_pipeline.preprocess.staging import Staging, staged_file


def repeats_of(texts, threshold, folder, keep=None):
    """Pairs of a row and the earlier one that it repeats."""
    folder.mkdir(exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    with pa.ipc.new_file(folder / "rows", table.schema) as file:
        file.write_table(table, max_chunksize=13)
    staging = Staging([staged_file(folder / "rows")])
    keep = np.ones(len(texts), np.bool_) if keep is None else keep
    pairs = near_repeats(staging, keep, threshold, folder / "near")
    assert not (folder / "near").exists()
    return [tuple(pair) for pair in pairs.tolist()]


def by_brute_force(texts, threshold):
    kept, pairs = [], []
    for key, text in enumerate(texts):
        best = max(((similarity(text, texts[other]), -other) for other in kept), default=(0, 0))
        if best[0] >= threshold:
            pairs.append((key, -best[1]))
        else:
            kept.append(key)
    return pairs


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_rows_are_dropped_that_comparing_with_all_kept_ones_drops(tmp_path, threshold):
    texts = corpus_with_copies(1)
    expected = by_brute_force(texts, threshold)
    assert repeats_of(texts, threshold, tmp_path) == expected
    assert len(expected) > 10


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_parts_and_files_do_not_matter(tmp_path, monkeypatch, seed):
    texts = corpus_with_copies(seed, texts=60, copies=200)
    whole = repeats_of(texts, 0.5, tmp_path)
    assert len(whole) > 50
    monkeypatch.setattr(near_pairs, "_PART_KEYS", 700)
    monkeypatch.setattr(near_pairs, "_PART_MEMBERS", 40)
    monkeypatch.setattr(near_pairs, "_SIGNED_ROWS", 37)
    assert repeats_of(texts, 0.5, tmp_path) == whole
    signed = []
    for start in range(0, len(texts), 70):
        rows = np.arange(start, min(start + 70, len(texts)))
        signed.append(tmp_path / f"signed-{start}")
        sign([(rows[:20], [texts[row] for row in rows[:20]]), (rows[20:], [texts[row] for row in rows[20:]])], 0.5,
             signed[-1])  # fmt: skip
    parts = bucket_parts(signed)
    assert parts > 5
    bucketed = [tmp_path / "buckets" / str(part) for part in range(parts)]
    for part in reversed(range(parts)):
        bucket(signed, part, parts, bucketed[part])
    parts = connect(bucketed, len(texts), tmp_path / "connected")
    assert parts > 3
    connected = [tmp_path / "connected" / path.name for path in bucketed]
    found = [compare(connected, part, 0.5, texts.__getitem__) for part in reversed(range(parts))]
    assert sum(len(pairs) > 0 for pairs in found) > 1
    assert [tuple(pair) for pair in in_row_order(found).tolist()] == whole


def test_rows_that_are_left_out_are_not_compared(tmp_path):
    text = " ".join(WORDS[:40])
    assert repeats_of([text, text, text], 0.8, tmp_path, np.array([False, True, True])) == [(2, 1)]


def test_a_threshold_of_one_finds_the_same_shingles_only(tmp_path):
    assert repeats_of(["a b c d e f g", "a b c d e f h", "A b C d e f g"], 1.0, tmp_path) == [(2, 0)]


def test_the_threshold_itself_counts_as_near(tmp_path):
    # 12 shingles each, 8 of them shared: 8 / 16.
    left, right = " ".join(WORDS[:16]), " ".join(WORDS[4:20])
    assert similarity(left, right) == 0.5
    assert repeats_of([left, right], 0.5, tmp_path) == [(1, 0)]
    assert repeats_of([left, right], 0.51, tmp_path) == []


def test_a_near_copy_of_a_dropped_text_names_a_kept_one_or_stays(tmp_path):
    texts = [" ".join(WORDS[start : start + 100]) for start in (0, 8, 16)]
    # 96 shingles; 8 words on: 88 / 104 = 0.85; 16 words on: 80 / 112 = 0.71.
    assert repeats_of(texts, 0.8, tmp_path) == [(1, 0)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_copies_are_found_in_scripts_without_spaces_too(tmp_path, script):
    texts = [text_of(script, 120, seed) for seed in range(10)]
    copies = [text[:50] + "\u4e00" + text[51:] for text in texts]
    together = [text for pair in zip(texts, copies, strict=True) for text in pair]
    assert repeats_of(together, 0.8, tmp_path) == [(row + 1, row) for row in range(0, 20, 2)]


def test_no_rows_and_one_row(tmp_path):
    assert repeats_of(["only one"], 0.8, tmp_path) == []
    assert bucket_keys([], 0.8).shape == (0, 32)
    assert len(np.unique(bucket_keys(["a b c d e f", "a b c d e f"], 0.8))) == 32
