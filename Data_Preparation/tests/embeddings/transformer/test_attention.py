"""Attention over packed texts against attention worked out one query at a time, and whole models against themselves."""

import inspect
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support.small_models import pooled_by
from transformers import (
    BertConfig,
    BertModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from data_pipeline.embeddings.tokens import from_rows
from data_pipeline.embeddings.transformer import attention
from data_pipeline.embeddings.transformer.attention import (
    KERNELS,
    PACKED,
    Rule,
    Segments,
    packed_attention,
    unavailable_reason,
)
from data_pipeline.embeddings.transformer.forward import Packed
from data_pipeline.embeddings.transformer.last_layer import layers_of, prune_last_layer
from data_pipeline.embeddings.transformer.pooling import Pooling

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
NO_WINDOW = (-1, -1)


def brute_force(query, key, value, sees, scale):
    """Softmax over the keys that `sees(query, key)`, one query and head at a time, in float64; (T, H, E) tensors."""
    found = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    for i in range(len(query)):
        seen = [j for j in range(len(key)) if sees(i, j)]
        for head in range(query.shape[1]):
            k, v = (x[seen, head // group].double() for x in (key, value))
            found[i, head] = torch.softmax(k @ query[i, head].double() * scale, dim=0) @ v
    return found


def fake_varlen(query, key, value, starts, ends, most_queries, most_keys, *, scale, window, grouped):
    """What the kernels for GPUs promise: each text alone, its last query at its last key."""
    assert query.shape[1] == key.shape[1] or grouped
    assert starts.dtype == ends.dtype == torch.int32
    assert (starts[0], starts[-1]) == (0, len(query))
    assert ends[0] == 0
    assert ends[-1] <= len(key)
    assert most_queries >= starts.diff().max()
    assert most_keys >= ends.diff().max()
    left, right = window
    found = torch.full(query.shape, torch.nan, dtype=torch.float64)
    for a, b, c, d in zip(*(x.tolist() for x in (starts[:-1], starts[1:], ends[:-1], ends[1:])), strict=True):
        shift = (d - c) - (b - a)

        def sees(i, j, shift=shift):
            distance = i + shift - j
            return (left < 0 or distance <= left) and (right < 0 or -distance <= right)

        found[a:b] = brute_force(query[a:b], key[c:d], value[c:d], sees, scale)
    return found.to(query.dtype)


@pytest.fixture(params=["segments", "varlen", "flash_attention_2"])
def kernel(request, monkeypatch):
    """Each kernel; those for GPUs with a stand-in for what they call."""
    if request.param == "varlen":
        module = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no varlen_attn")
        promised = inspect.signature(module.varlen_attn)
        if "num_splits" not in promised.parameters:
            pytest.skip("varlen_attn took other arguments before torch 2.12")

        def varlen_attn(*args, **kwargs):
            given = promised.bind(*args, **kwargs)
            given.apply_defaults()
            called = given.arguments
            # Sums must not be split, or vectors depend on the other texts.
            assert called["num_splits"] == 1
            return fake_varlen(
                *(called[name] for name in ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")),
                scale=called["scale"], window=called["window_size"], grouped=called["enable_gqa"],
            )  # fmt: skip

        monkeypatch.setattr(attention, "_varlen_attn", lambda: varlen_attn)
    if request.param == "flash_attention_2":

        def flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
            causal=False, window_size=NO_WINDOW, softcap=0.0, alibi_slopes=None, deterministic=False,
            return_attn_probs=False, block_table=None,
        ):  # fmt: skip
            window = (window_size[0], 0) if causal else window_size
            return fake_varlen(
                q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
                scale=softmax_scale, window=window, grouped=True,
            )  # fmt: skip

        module = ModuleType("flash_attn")
        module.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, "flash_attn", module)
    return KERNELS[request.param]


def segments_of(lengths, kernel, filler=0, single=False):
    parts = [*lengths, filler] if filler else list(lengths)
    starts = torch.tensor([0, *np.cumsum(parts)], dtype=torch.int32)
    return Segments(len(lengths), tuple(parts), max(parts), starts, kernel, single)


def random_qkv(queries, keys, heads, key_heads, width=16):
    """Shapes (1, H, T, E), as models hand them over: views of (1, T, H, E)."""
    torch.manual_seed(queries + keys)
    query = torch.randn(1, queries, heads, width).transpose(1, 2)
    return query, *(torch.randn(1, keys, key_heads, width).transpose(1, 2) for _ in range(2))


def attend(module_is_causal, query, key, value, segments, **more):
    found, weights = packed_attention(
        SimpleNamespace(is_causal=module_is_causal), query, key, value, None, segments=segments, **more
    )
    assert weights is None
    return found[0]


# Lengths with equal neighbours, equal ones apart, one token, and more than the window.
LENGTHS = [9, 7, 7, 7, 4, 3, 3, 1, 7, 1, 1]


def text_of(lengths):
    return [text for text, length in enumerate(lengths) for _ in range(length)]


@pytest.mark.parametrize("window", [None, 1, 3, 7, 9, 100])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_a_token_sees_its_own_text_and_window_only(kernel, causal, window, heads, key_heads):
    text, total = text_of(LENGTHS), sum(LENGTHS)
    query, key, value = random_qkv(total, total, heads, key_heads)

    def sees(i, j):
        reach = total if window is None else window - 1
        return text[i] == text[j] and -(0 if causal else reach) <= i - j <= reach

    expected = brute_force(*(x[0].transpose(0, 1) for x in (query, key, value)), sees, 0.3)
    found = attend(causal, query, key, value, segments_of(LENGTHS, kernel), scaling=0.3, sliding_window=window)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("filler", [0, 5])
def test_a_texts_single_query_sees_all_of_its_text(kernel, causal, heads, key_heads, filler):
    text, total = text_of(LENGTHS), sum(LENGTHS)
    query, key, value = random_qkv(len(LENGTHS), total + filler, heads, key_heads)
    keys = [x[0, :, :total].transpose(0, 1) for x in (key, value)]
    expected = brute_force(query[0].transpose(0, 1), *keys, lambda i, j: text[j] == i, 0.3)
    segments = segments_of(LENGTHS, kernel, filler, single=True)
    # A window has nothing to say here: layers that have one are not pruned.
    found = attend(causal, query, key, value, segments, scaling=0.3, sliding_window=None)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_surplus_queries_get_zeros(kernel):
    total = sum(LENGTHS)
    query, key, value = random_qkv(len(LENGTHS) + 5, total, 4, 2)
    segments = segments_of(LENGTHS, kernel, single=True)
    with_surplus = attend(True, query, key, value, segments, scaling=0.3)
    without = attend(True, query[:, :, : len(LENGTHS)], key, value, segments, scaling=0.3)
    assert with_surplus.shape == (len(LENGTHS) + 5, 4, 16)
    assert not with_surplus[len(LENGTHS) :].any()
    np.testing.assert_allclose(with_surplus[: len(LENGTHS)], without, atol=1e-6)


@pytest.mark.parametrize("filler", [1, 3, 12])  # as long as the texts before it, longer, and longer than any
def test_filler_changes_no_text_and_is_finite(kernel, filler):
    total = sum(LENGTHS)
    query, key, value = random_qkv(total + filler, total + filler, 4, 2)
    filled = attend(True, query, key, value, segments_of(LENGTHS, kernel, filler), scaling=0.3)
    query, key, value = (x[:, :, :total] for x in (query, key, value))
    bare = attend(True, query, key, value, segments_of(LENGTHS, kernel), scaling=0.3)
    np.testing.assert_allclose(filled[:total], bare, atol=1e-6)
    assert torch.isfinite(filled).all()


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_model_says_of_causality_wins_over_its_module(kernel, asked):
    query, key, value = random_qkv(9, 9, 2, 2)
    segments = segments_of([9], kernel)
    by_call = attend(not asked, query, key, value, segments, scaling=0.3, is_causal=asked)
    by_module = attend(asked, query, key, value, segments, scaling=0.3)
    assert torch.equal(by_call, by_module)
    other = attend(not asked, query, key, value, segments, scaling=0.3)
    assert (by_call - other).abs().max() > 0.01


def test_without_a_scale_it_is_one_over_the_root_of_the_width():
    query, key, value = random_qkv(9, 9, 2, 2, width=16)
    segments = segments_of([5, 4], KERNELS["segments"])
    unsaid, said = (attend(True, query, key, value, segments, scaling=scale) for scale in (None, 0.25))
    assert torch.equal(unsaid, said)


@pytest.mark.parametrize("what", ["softcap", "s_aux", "position_bias"])
def test_what_is_not_computed_is_refused(what):
    query, key, value = random_qkv(3, 3, 1, 1)
    segments = segments_of([3], KERNELS["segments"])
    with pytest.raises(ValueError, match=f"packed attention supports no {what}"):
        attend(True, query, key, value, segments, **{what: 1.0})
    attend(True, query, key, value, segments, **{what: None}, dropout=0.0)


def test_a_mask_and_a_call_without_segments_are_refused():
    query, key, value = random_qkv(3, 3, 1, 1)
    segments = segments_of([3], KERNELS["segments"])
    module = SimpleNamespace(is_causal=True)
    with pytest.raises(ValueError, match="supports no mask, and needs segments"):
        packed_attention(module, query, key, value, torch.ones(1, 1, 3, 3), segments=segments)
    with pytest.raises(ValueError, match="supports no mask, and needs segments"):
        packed_attention(module, query, key, value, None)


def test_transformers_knows_it_by_name():
    assert ALL_ATTENTION_FUNCTIONS[PACKED] is packed_attention


def test_runs_are_neighbours_of_equal_length():
    kernel = KERNELS["segments"]
    assert segments_of([5, 3, 3, 5, 1], kernel).runs == [(0, 1, 5), (5, 2, 3), (11, 1, 5), (16, 1, 1)]
    assert segments_of([4], kernel).runs == [(0, 1, 4)]
    # Filler is one more text, but asks nothing where queries are one a text.
    assert segments_of([5, 3], kernel, filler=3).runs == [(0, 1, 5), (5, 2, 3)]
    assert segments_of([5, 3], kernel, filler=3, single=True).runs == [(0, 1, 5), (5, 1, 3)]


def test_sides_are_the_keys_before_and_behind():
    assert Rule(causal=True, window=None, scale=None).sides == (-1, 0)
    assert Rule(causal=False, window=None, scale=None).sides == NO_WINDOW
    assert Rule(causal=True, window=4, scale=None).sides == (3, 0)
    assert Rule(causal=False, window=4, scale=None).sides == (3, 3)


@pytest.fixture
def ampere(monkeypatch):
    """A GPU that runs every kernel, and everything is installed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(attention, "_varlen_attn", lambda: None)
    return torch.device("cuda")


@pytest.mark.parametrize("name", ["flash_attention_2", "varlen"])
def test_what_keeps_a_kernel_from_running_is_said(name, ampere, monkeypatch):
    assert unavailable_reason(name, ampere, "float16") is None
    assert unavailable_reason(name, ampere, "bfloat16") is None
    assert unavailable_reason(name, CPU, "float16") == "the device is cpu, not a CUDA GPU"
    assert unavailable_reason(name, torch.device("mps"), "float16") == "the device is mps, not a CUDA GPU"
    assert unavailable_reason(name, ampere, "float32") == "the dtype is float32, it needs float16 or bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert unavailable_reason(name, ampere, "float16") == "the GPU is older than Ampere"


def test_segments_run_anywhere():
    for name in ("cpu", "mps", "cuda"):
        assert unavailable_reason("segments", torch.device(name), "float32") is None


def test_flash_attn_that_is_not_installed_is_named(ampere, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "flash-attn is not installed" in unavailable_reason("flash_attention_2", ampere, "float16")
    assert unavailable_reason("varlen", ampere, "float16") is None


@pytest.fixture
def forgetful():
    """What was found out about torch's function is forgotten before and after."""
    attention._varlen_attn.cache_clear()
    yield
    attention._varlen_attn.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_an_older_varlen_attn_is_refused(monkeypatch):
    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        pytest.fail("it was called")

    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = older
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    reason = unavailable_reason("varlen", torch.device("cuda"), "bfloat16")
    assert reason == f"varlen_attn of torch {torch.__version__} has no enable_gqa, num_splits, scale, window_size"


@pytest.mark.usefixtures("forgetful")
def test_a_torch_without_varlen_attn_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert "torch.nn.attention.varlen" in unavailable_reason("varlen", torch.device("cuda"), "bfloat16")


SIZES = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}

# Windows are shorter than the texts.
MODELS = {
    "qwen3": lambda: Qwen3Model(Qwen3Config(**GROUPED, head_dim=16)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**GROUPED)),
    "qwen2-window": lambda: Qwen2Model(
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "mistral": lambda: MistralModel(MistralConfig(**GROUPED, head_dim=16, sliding_window=None)),
    "mistral-window": lambda: MistralModel(MistralConfig(**GROUPED, head_dim=16, sliding_window=5)),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES)),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(
            **SIZES, local_attention=6, global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2,
        )
    ),
}  # fmt: skip
CAUSAL = {"qwen3", "qwen2", "qwen2-window", "mistral", "mistral-window"}
PRUNED = {
    ("qwen3", "last_token"), ("qwen2", "last_token"), ("mistral", "last_token"),
    ("bert", "cls"), ("bert", "last_token"), ("xlm-roberta", "cls"), ("xlm-roberta", "last_token"),
}  # fmt: skip


def make_model(name):
    """A model whose attention is far from uniform."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def texts_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return from_rows([generator.integers(5, 100, length) for length in lengths], [False] * len(lengths))


def plain_vectors(model, texts, pooling):
    """Transformers' own vectors, one text at a time, of length 1."""
    pool = {"last_token": lambda states: states[-1], "cls": lambda states: states[0], "mean": lambda x: x.mean(0)}
    with torch.inference_mode():
        states = [
            model(input_ids=torch.from_numpy(texts.row(row)).long()[None]).last_hidden_state[0]
            for row in range(len(texts))
        ]
    return torch.nn.functional.normalize(torch.stack([pool[pooling](x) for x in states])).numpy()


def packed(model, name, pooling, pruned=False):
    first_position = model.embeddings.padding_idx + 1 if name == "xlm-roberta" else 0
    model.set_attn_implementation(PACKED)
    return Packed(model, pooled_by(pooling), KERNELS["segments"], CPU, 16, first_position, pruned)


def run(forward, texts):
    with torch.inference_mode():
        return forward(texts).numpy()


def normalised(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", ["last_token", "cls", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_texts_get_the_vectors_of_each_text_alone(name, pooling):
    model, texts = make_model(name), texts_of([*range(20, 0, -1), 6, 6, 6, 1])
    expected = plain_vectors(model, texts, pooling)
    forward = packed(model, name, pooling)
    np.testing.assert_allclose(normalised(run(forward, texts)), expected, atol=1e-5)
    undo = prune_last_layer(model, Pooling((pooling,)))
    if (name, pooling) in PRUNED:
        assert undo is not None
        np.testing.assert_allclose(normalised(run(replace(forward, pruned=True), texts)), expected, atol=1e-5)
        undo()
        # The layer is as it was, and gives all tokens again.
        assert "forward" not in vars(layers_of(model)[-1])
        np.testing.assert_allclose(normalised(run(forward, texts)), expected, atol=1e-5)
    elif name in CAUSAL and pooling == "cls":
        # A first token that sees itself only; whoever prunes this is caught by the probes.
        assert undo is None or name not in {"qwen2-window", "mistral-window"}
    else:
        assert undo is None


def test_a_window_decides_what_a_vector_is():
    texts = texts_of([20, 12])
    for name in ("qwen2", "mistral"):
        with_window, without = (plain_vectors(make_model(n), texts, "last_token") for n in (f"{name}-window", name))
        assert np.abs(with_window - without).max() > 0.01


def test_a_single_text_of_a_single_token():
    for name, pooling in (("qwen3", "last_token"), ("bert", "cls"), ("modernbert", "mean")):
        model, texts = make_model(name), texts_of([1])
        expected = plain_vectors(model, texts, pooling)
        forward = packed(model, name, pooling)
        np.testing.assert_allclose(normalised(run(forward, texts)), expected, atol=1e-5)
        if prune_last_layer(model, Pooling((pooling,))):
            np.testing.assert_allclose(normalised(run(replace(forward, pruned=True), texts)), expected, atol=1e-5)


ROADS = [("qwen3", "last_token", True), ("bert", "cls", True), ("modernbert", "mean", False), ("qwen2", "mean", False)]


def ready(name, pooling, pruned):
    model = make_model(name)
    forward = packed(model, name, pooling, pruned)
    assert (prune_last_layer(model, Pooling((pooling,))) is not None) == pruned
    return forward


@pytest.mark.parametrize(("name", "pooling", "pruned"), ROADS)
def test_another_text_in_the_pack_changes_no_bit(name, pooling, pruned):
    forward = ready(name, pooling, pruned)
    lengths = [12, 12, 9, 7, 7, 7, 2, 1]
    texts, other = texts_of(lengths), texts_of(lengths)
    changed = 3
    other.row(changed)[:] = texts_of([lengths[changed]], seed=1).ids
    before, after = run(forward, texts), run(forward, other)
    same = (before == after).all(axis=1)
    assert same.tolist() == [row != changed for row in range(len(lengths))]
    assert np.abs(before[changed] - after[changed]).max() > 0.01


@pytest.mark.parametrize(("name", "pooling", "pruned"), ROADS)
def test_a_vectors_bits_depend_on_nothing_but_its_text(name, pooling, pruned):
    forward = ready(name, pooling, pruned)
    texts = texts_of([40, 33, 33, 33, *[20] * 7, *range(12, 0, -1), 8, 8, 1, 1])
    count = len(texts)
    generator = np.random.default_rng(1)
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(run(forward, texts))
        for packs in (1, 2, 5, count):
            vectors = np.empty_like(results[0])
            for rows in np.array_split(generator.permutation(count), packs):
                vectors[rows] = run(forward, texts.take(rows))
            results.append(vectors)
    for vectors in results[1:]:
        np.testing.assert_array_equal(vectors, results[0])
    assert len(np.unique(results[0], axis=0)) == count


@pytest.mark.parametrize("multiple", [1, 16, 64])
def test_filling_up_changes_nothing_but_the_last_bits(multiple):
    texts = texts_of([9, 8, 3])
    for name, pooling in (("qwen3", "last_token"), ("bert", "cls"), ("xlm-roberta", "mean")):
        model = make_model(name)
        expected = plain_vectors(model, texts, pooling)
        forward = replace(packed(model, name, pooling), row_multiple=multiple)
        np.testing.assert_allclose(normalised(run(forward, texts)), expected, atol=1e-5)
        if prune_last_layer(model, Pooling((pooling,))):
            np.testing.assert_allclose(normalised(run(replace(forward, pruned=True), texts)), expected, atol=1e-5)


def test_poolings_over_all_tokens_and_unknown_layers_are_not_pruned():
    assert prune_last_layer(make_model("qwen3"), Pooling(("mean",))) is None
    assert prune_last_layer(make_model("modernbert"), Pooling(("cls",))) is None
    assert prune_last_layer(torch.nn.Linear(2, 2), Pooling(("cls",))) is None

    model = make_model("qwen3")
    model.layers[-1].extra_norm = torch.nn.Identity()
    assert prune_last_layer(model, Pooling(("last_token",))) is None
    model = make_model("bert")
    model.encoder.layer[-1].attention.self.is_causal = True
    assert prune_last_layer(model, Pooling(("cls",))) is None


def test_layers_are_found_where_models_keep_them():
    assert [len(layers_of(make_model(name))) for name in ("qwen3", "bert", "modernbert")] == [3, 3, 3]
    assert layers_of(torch.nn.Linear(2, 2)) is None


def test_a_pruned_layer_computes_as_many_rows_as_there_are_texts_filled_up():
    model, rows = make_model("qwen3"), []
    forward = packed(model, "qwen3", "last_token", pruned=True)
    prune_last_layer(model, Pooling(("last_token",)))
    model.layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    run(forward, texts_of([20] * 17))
    assert rows == [32]
