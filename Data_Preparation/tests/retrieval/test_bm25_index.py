import json
import math
import pickletools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from support.forks import ENVIRONMENT

from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.errors import ConfigError, CorruptShardError, MissingExtraError, StoreError
from data_pipeline.retrieval import bm25 as module
from data_pipeline.retrieval.bm25 import open_bm25
from data_pipeline.retrieval.passages import passages_of_lists
from data_pipeline.retrieval.ranked_list import top_k
from data_pipeline.retrieval.tokenizer import Bm25Tokenizer, words

pytest.importorskip("bm25s", reason="needs the extra weak-labels")
pytest.importorskip("Stemmer", reason="needs the extra weak-labels")

TEXTS = [
    "the wing of the aircraft", "a wing, a wing and one more wing", "", "heat flow in aircraft engines",
    "engine heat", "the of and", "flow over a wing in heat",
]  # fmt: skip


def passages(texts=TEXTS):
    return passages_of_lists([f"p{row}" for row in range(len(texts))], texts)


def search(texts, query, folder, k=100, **settings):
    return next(open_bm25(passages(texts), folder, CandidateConfig(**settings)).search([query], k))


def brute_force(texts, query, k1, b, tokens):
    documents = [tokens(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    found = {}
    for row, document in enumerate(documents):
        counts, score = Counter(document), 0.0
        for token in tokens(query):
            df = sum(token in other for other in documents)
            if counts[token]:
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += idf * counts[token] / (counts[token] + k1 * (1 - b + b * len(document) / mean))
        if score > 0:
            found[row] = score
    return found


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0, 0), (2, 1)])
@pytest.mark.parametrize("query", ["wings in heat", "wing wing flow", "aircraft", "Engine engines"])
def test_scores_are_those_of_the_formula(tmp_path, k1, b, query):
    found = search(TEXTS, query, tmp_path / "bm25", k1=k1, b=b)
    expected = brute_force(TEXTS, query, k1, b, Bm25Tokenizer().tokens)
    assert sorted(found.rows.tolist()) == sorted(expected)
    np.testing.assert_allclose(found.scores, [expected[row] for row in found.rows.tolist()], rtol=1e-5)
    assert sorted(found.scores, reverse=True) == found.scores.tolist()


def test_more_passages_than_there_are_may_be_asked_for(tmp_path):
    assert len(search(TEXTS, "wing", tmp_path / "bm25", k=1000).rows) == 3
    assert search(["a wing"], "wing", tmp_path / "bm25", k=200).rows.tolist() == [0]
    with pytest.raises(ValueError, match="k must be 1 or more"):
        search(TEXTS, "wing", tmp_path / "bm25", k=0)


@pytest.mark.parametrize("query", ["zebra", "the of", "", "!?", "\u0301"])
def test_a_query_without_a_known_token_finds_nothing(tmp_path, query):
    assert search(TEXTS, query, tmp_path / "bm25").rows.tolist() == []


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "the"], ["!?", ""]])
def test_passages_without_any_token_are_never_found(tmp_path, texts):
    assert search(texts, "the wing", tmp_path / "bm25").rows.tolist() == []
    assert search(texts, "the wing", tmp_path / "bm25").rows.tolist() == []


def test_equal_scores_come_in_passage_order_also_at_the_cut(tmp_path):
    texts = ["heat", "wing one", "wing two", "wing two", "wing wing", "wing six", "cold"] * 30
    whole = search(texts, "wing", tmp_path / "bm25", k=1000)
    assert [(-score, row) for row, score in zip(whole.rows, whole.scores, strict=True)] == sorted(
        (-score, row) for row, score in zip(whole.rows, whole.scores, strict=True)
    )
    for k in (1, 29, 30, 31, 50, 149):
        assert search(texts, "wing", tmp_path / "bm25", k=k).rows.tolist() == whole.rows[:k].tolist()


def test_best_of_random_scores_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 5, rng.integers(1, 40)).astype(np.float32)
        k = int(rng.integers(1, 45))
        expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
        assert top_k(scores, np.arange(len(scores)), k).rows.tolist() == expected


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["機械学習の基礎を学ぶ", "東京タワーの高さ", "空気力学と翼の設計"], "翼の設計について"),
        (["北京是中国的首都", "空气动力学研究", "机器学习基础"], "空气动力学是什么"),
        (["กรุงเทพเป็นเมืองหลวง", "การบินและอวกาศ", "อาหารไทย"], "การบินคืออะไร"),
        (["ភ្នំពេញជារាជធានី", "ការហោះហើរ", "ម្ហូបខ្មែរ"], "ការហោះហើរ"),
        (["서울은 수도이다", "항공기의 날개", "한국 음식"], "날개가 항공기"),
    ],
)
def test_scripts_without_spaces_find_their_passage(tmp_path, texts, query):
    found = search(texts, query, tmp_path / "bm25")
    assert texts[found.rows[0]] in {
        "空気力学と翼の設計",
        "空气动力学研究",
        "การบินและอวกาศ",
        "ការហោះហើរ",
        "항공기의 날개",
    }


def test_words_by_hand():
    assert words("Don't foo_bar, 3.5 x") == ["don", "t", "foo", "bar", "3", "5", "x"]
    assert words("ﬁne ÉCOLE Straße ｆｕｌｌ") == ["fine", "école", "strasse", "full"]
    assert words("日本語 水 ไทย") == ["日本", "本語", "水", "ไท", "ทย"]
    assert words("Python3で書く") == ["python3", "で書", "書く"]
    assert words("हिन्दी שָׁלוֹם") == ["हिन्दी", *words("שָׁלוֹם")]
    assert len(words("שָׁלוֹם")) == 1
    assert words("co\u00adop\u200bé") == ["coopé"]
    assert words("e\u0301") == words("é")
    assert words(" \t—…") == []


def test_stop_words_and_stems_are_of_the_language():
    assert Bm25Tokenizer().tokens("The engines' wings don't fly") == ["engin", "wing", "don", "fli"]
    assert Bm25Tokenizer("none").tokens("The engines") == ["the", "engines"]
    assert Bm25Tokenizer("english", stop_words=False).tokens("The engines") == ["the", "engin"]
    assert Bm25Tokenizer("german").tokens("die Häuser und das Haus") == ["haus", "haus"]
    assert Bm25Tokenizer("finnish").tokens("taloissa") == ["talo"]
    with pytest.raises(ConfigError, match="no stemmer for the language 'klingon'; expected one of arabic"):
        Bm25Tokenizer("klingon")


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000, "\u0301\u0316" * 200_000, "水" * 300_000, "'" * 300_000 + "é", "a'" * 200_000, "\ufdfa" * 30_000,
        "e\u0316\u0301" * 100_000, "\x00\ud800" * 100_000, "_" * 300_000 + "é", "ก\u0e48\u0e31" * 50_000,
    ],
)  # fmt: skip
def test_hostile_texts_take_no_longer_than_others(text):
    import time

    started = time.process_time()
    found = Bm25Tokenizer().tokens(text)
    assert time.process_time() - started < 5
    assert all(len(token) <= 255 for token in found)


def built(monkeypatch):
    """Counts builds."""
    builds = []
    real = module._build
    monkeypatch.setattr(module, "_build", lambda *args: builds.append(1) or real(*args))
    return builds


def test_an_index_is_built_again_when_anything_changed_and_not_otherwise(tmp_path, monkeypatch):
    builds = built(monkeypatch)
    folder = tmp_path / "bm25"
    open_bm25(passages(), folder)
    open_bm25(passages(), folder)
    open_bm25(passages(), folder, CandidateConfig(top_k=3, fusion="rrf", bm25_backend="numpy"))
    assert len(builds) == 1
    changes = [{"k1": 1.0}, {"b": 0.5}, {"language": "porter"}, {"language": "none"}, {"stop_words": False}]
    for number, change in enumerate(changes, start=2):
        open_bm25(passages(), folder, CandidateConfig(**change))
        open_bm25(passages(), folder, CandidateConfig(**change))
        assert len(builds) == number
    open_bm25(passages([*TEXTS[:-1], "another"]), folder, CandidateConfig(**changes[-1]))
    open_bm25(passages_of_lists([f"q{row}" for row in range(len(TEXTS))], TEXTS), folder)
    assert len(builds) == len(changes) + 3
    found = next(open_bm25(passages([*TEXTS[:-1], "zebra"]), folder).search(["zebra"], 5))
    assert found.rows.tolist() == [6]


def test_nothing_on_disk_is_a_pickle(tmp_path):
    folder = tmp_path / "bm25"
    open_bm25(passages(), folder)
    for path in folder.iterdir():
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        else:
            json.loads(path.read_text())
        with pytest.raises(Exception):  # noqa: B017
            list(pickletools.genops(path.read_bytes()))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 3 + [".npy"] * 3


def test_damage_is_mended_or_named(tmp_path, monkeypatch):
    builds = built(monkeypatch)
    folder = tmp_path / "bm25"
    open_bm25(passages(), folder)
    for name in ("data.csc.index.npy", "vocab.index.json", "manifest.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
        assert next(open_bm25(passages(), folder).search(["wing"], 9)).rows.tolist() == [1, 0, 6]
    (folder / "indices.csc.index.npy").unlink()
    open_bm25(passages(), folder)
    assert len(builds) == 5
    path = folder / "params.index.json"
    path.write_text(path.read_text().replace("lucene", "lucenx").replace('"num_docs": 7', '"num_docs": 9'))
    with pytest.raises(CorruptShardError, match="damaged"):
        open_bm25(passages(), folder)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    folder = tmp_path / "bm25"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"and has thesis\.txt"):
        open_bm25(passages(), folder)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_numba_finds_what_numpy_finds(tmp_path):
    pytest.importorskip("numba", reason="needs the package numba")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.5, 30) % 500) for _ in range(300)]
    for query in ("w1 w2 w3", "w7 w400", "w499 w499 w1"):
        one, other = (
            search(texts, query, tmp_path / "bm25", k=20, bm25_backend=backend) for backend in ("numba", "numpy")
        )
        assert one.rows.tolist() == other.rows.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


def test_numba_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    open_bm25(passages(), tmp_path / "bm25")
    with pytest.raises(MissingExtraError, match="pip install numba"):
        open_bm25(passages(), tmp_path / "bm25", CandidateConfig(bm25_backend="numba"))


KILLED = """
import os, signal, sys
from pathlib import Path
from support.forks import die_at_step
from data_pipeline.retrieval.bm25 import open_bm25
from data_pipeline.config.retrieval import CandidateConfig
from data_pipeline.retrieval.passages import passages_of_lists

folder, texts = Path(sys.argv[1]), sys.argv[2].split("|")
new = passages_of_lists([str(row) for row in range(len(texts))], texts)
import bm25s
step = 0
while True:
    step += 1
    if (child := os.fork()) == 0:
        open_bm25(passages_of_lists(["old"], ["an old wing"]), folder)
        die_at_step(step, "replace", "rename", "fsync", "unlink", "rmdir", "mkdir")
        open_bm25(new, folder, CandidateConfig(k1=1.0))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if (child := os.fork()) == 0:
        found = next(open_bm25(new, folder, CandidateConfig(k1=1.0)).search(["wing"], 9))
        left = [path.name for path in folder.parent.iterdir() if path.name not in (folder.name, ".bm25.lock")]
        os._exit(0 if found.rows.tolist() == [1, 0, 6] and not left else 7)
    after = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert after == 0, (step, after)
    if status == 0:
        break
    assert status == -signal.SIGKILL
print(step)
"""


@pytest.mark.posix
def test_a_killed_build_leaves_nothing_wrong(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "index" / "bm25"), "|".join(TEXTS)],
        capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 8
