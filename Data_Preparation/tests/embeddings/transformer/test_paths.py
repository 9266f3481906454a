"""How a model's fast path is chosen, checked and set up, on models of a few thousand weights."""

import logging
import shutil
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support.linear_stand_ins import RefusingOperators, StandInOperators, pack_with, packs_here
from support.small_models import SIZES, bert, pooled_by, randomised, texts_of
from tokenizers import processors
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoTokenizer,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.activations import ACT2FN

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Cost, encode, load_embedder, load_tokenizer
from data_pipeline.embeddings.probes import PROBES
from data_pipeline.embeddings.tokens import from_rows
from data_pipeline.embeddings.transformer import embedder as transformer
from data_pipeline.embeddings.transformer import linear, loading, paths
from data_pipeline.embeddings.transformer.activations import (
    DeterministicSiLU,
    DeterministicTanhGELU,
    use_deterministic_activations,
)
from data_pipeline.embeddings.transformer.attention import KERNELS, by_segment
from data_pipeline.embeddings.transformer.embedder import wait_for
from data_pipeline.embeddings.transformer.float8 import to_float8
from data_pipeline.embeddings.transformer.forward import Padded, pad
from data_pipeline.embeddings.transformer.last_layer import layers_of
from data_pipeline.embeddings.transformer.linear import PackedLinear, pack_linear_layers
from data_pipeline.embeddings.transformer.paths import Setup, choose_path, default_batch_tokens
from data_pipeline.embeddings.transformer.probe import cosine_loss, make_probes
from data_pipeline.errors import ConfigError, DeviceHungError, MissingExtraError, ModelError, OutOfMemoryError

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def qwen3():
    return randomised(Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16)))


def setup_of(pooling="last_token", dtype="float32", **config):
    return Setup(EmbeddingConfig(model_name="any", **config), pooled_by(pooling), CPU, dtype, pad_id=0)


def run(forward, texts):
    with torch.inference_mode():
        return forward(texts).numpy()


def probes_of(model, setup):
    return make_probes(texts_of(40, 20, 3), lambda texts: run(setup.padded(model), texts))


def choose(model, pooling="last_token", dtype="float32", **config):
    setup = setup_of(pooling, dtype, **config)
    return choose_path(model, setup, probes_of(model, setup))


# Kernels that are wrong in one way each.


def sees_other_texts(query, key, value, segments, rule):
    if segments.single:
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        return scaled_dot_product_attention(q, k, v, scale=rule.scale, enable_gqa=True)[0].transpose(0, 1)
    return by_segment(query, key, value, replace(segments, texts=1, lengths=(len(key),)), rule)


def gives_nan(query, key, value, segments, rule):
    return by_segment(query, key, value, segments, rule) * torch.nan


def gives_infinities(query, key, value, segments, rule):
    return by_segment(query, key, value, segments, rule) * torch.inf


def fails(query, key, value, segments, rule):
    raise RuntimeError("no kernel image\nis available")


WRONG = pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (sees_other_texts, r"three texts together differ from each text alone by 1 - cosine 0\.\d+"),
        (gives_nan, "three texts together differ from each text alone by 1 - cosine nan"),
        (gives_infinities, "three texts together differ from each text alone by 1 - cosine nan"),
        (fails, "RuntimeError: no kernel image;"),
    ],
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_auto_packs_on_a_cpu(layers, dtype):
    model = qwen3()
    texts = texts_of(30, 7, 7, 1)
    expected = run(setup_of().padded(model), texts)
    path = choose(model.to(getattr(torch, dtype)), dtype=dtype)
    runtime = path.runtime
    assert (runtime.attention, runtime.padded, runtime.row_multiple) == ("segments", False, 16)
    assert (runtime.in_flight, runtime.tunable_threads) == (1, True)
    assert (runtime.batch_tokens, runtime.trial_flops) == (4096, 2e11)
    assert path.forward.pruned
    packed = [isinstance(module, PackedLinear) for module in model.modules()]
    assert any(packed) is (layers == "packed")
    # The bits of torch's own products are not trusted to be the same in every pack.
    assert runtime.batch_dependent or layers == "packed"
    found = run(path.forward, texts)
    if dtype == "float32":
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert cosine_loss(found, expected) <= {"float32": 1e-6, "bfloat16": 3e-3}[dtype]


def test_vectors_do_not_depend_on_their_pack_where_onednn_says_so():
    if not packs_here(torch.float32):
        pytest.skip(f"this machine packs no float32 layers: {linear.unavailable_reason(torch.float32)}")
    assert not choose(qwen3()).runtime.batch_dependent


def test_positions_that_begin_behind_the_paddings_are_found():
    model = randomised(XLMRobertaModel(XLMRobertaConfig(**SIZES, max_position_embeddings=64, pad_token_id=1)))
    setup, texts = replace(setup_of("mean"), pad_id=1), texts_of(30, 7, 7, 1)
    expected = run(setup.padded(model), texts)
    path = choose_path(model, setup, probes_of(model, setup))
    assert path.runtime.attention == "segments"
    np.testing.assert_allclose(run(path.forward, texts), expected, atol=1e-5)


def test_padded_can_be_asked_for_and_agrees():
    texts = texts_of(30, 7, 7, 1)
    for make, pooling in ((qwen3, "last_token"), (qwen3, "mean"), (bert, "mean"), (bert, "cls")):
        packed, padded = choose(make(), pooling), choose(make(), pooling, attention="padded")
        assert isinstance(padded.forward, Padded)
        assert (padded.runtime.attention, padded.runtime.padded, padded.runtime.batch_dependent) == (
            "padded",
            True,
            True,
        )
        np.testing.assert_allclose(run(packed.forward, texts), run(padded.forward, texts), atol=1e-5)


@pytest.mark.parametrize("name", ["flash_attention_2", "varlen"])
def test_a_kernel_for_gpus_asked_for_on_a_cpu_is_refused(name):
    with pytest.raises(
        ConfigError, match=rf"attention {name} is not possible: the device is cpu, not a CUDA GPU\. Use auto\."
    ):
        choose(qwen3(), attention=name)


def test_compiling_is_for_packed_texts_on_gpus():
    with pytest.raises(ConfigError, match="embedding.compile is for packed texts, and this model's are padded"):
        choose(qwen3(), attention="padded", compile=True)
    with pytest.raises(ConfigError, match=r"embedding.compile needs .*flash_attention_2 or varlen"):
        choose(qwen3(), compile=True)


@WRONG
def test_with_auto_a_wrong_kernel_is_replaced_by_padding_and_said(kernel, reason, monkeypatch, caplog):
    texts = texts_of(30, 7, 7, 1)
    expected = run(choose(qwen3(), attention="padded").forward, texts)
    monkeypatch.setitem(KERNELS, "segments", kernel)
    model = qwen3()
    with caplog.at_level(logging.WARNING):
        path = choose(model)
    assert (path.runtime.attention, path.runtime.padded) == ("padded", True)
    np.testing.assert_allclose(run(path.forward, texts), expected, atol=1e-5)
    (record,) = caplog.records
    rejected = record.message.removeprefix("Texts are padded instead of packed, because paths were rejected: ")
    assert rejected.startswith("segments with a pruned last layer: ")
    assert "; segments: " in record.message
    # Transformers' own attention is back, and the whole last layer.
    assert model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(layers_of(model)[-1])


@WRONG
def test_a_wrong_kernel_that_was_asked_for_is_an_error(kernel, reason, monkeypatch):
    monkeypatch.setitem(KERNELS, "segments", kernel)
    with pytest.raises(ModelError, match=rf"attention segments is not correct for this model: .*{reason}.*Use auto\."):
        choose(qwen3(), attention="segments")


def test_only_the_pruned_layer_is_given_up_where_only_that_is_wrong(monkeypatch, caplog):
    def wrong_for_single_queries(query, key, value, segments, rule):
        found = by_segment(query, key, value, segments, rule)
        return found * 0.5 if segments.single else found

    monkeypatch.setitem(KERNELS, "segments", wrong_for_single_queries)
    path = choose(qwen3())
    assert (path.runtime.attention, path.forward.pruned) == ("segments", False)
    assert caplog.records == []


def test_the_first_token_of_a_causal_model_is_not_pruned():
    texts = texts_of(30, 7, 7, 1)
    expected = run(setup_of("cls").padded(qwen3()), texts)
    path = choose(qwen3(), "cls")
    assert (path.runtime.attention, path.forward.pruned) == ("segments", False)
    np.testing.assert_allclose(run(path.forward, texts), expected, atol=1e-5)


def test_without_any_right_path_there_is_no_model(monkeypatch):
    class Wrong(Padded):
        def __call__(self, texts):
            return super().__call__(texts).roll(1, dims=0)

    model, setup = qwen3(), setup_of()
    probes = probes_of(model, setup)
    monkeypatch.setattr(paths, "Padded", Wrong)
    monkeypatch.setitem(KERNELS, "segments", fails)
    with pytest.raises(ModelError, match="no way of computing several texts together gives this model's own vectors"):
        choose_path(model, setup, probes)
    with pytest.raises(ModelError, match="no way of computing several texts together"):
        choose_path(model, setup_of(attention="padded"), probes)


def test_a_model_that_takes_no_other_attention_is_padded(monkeypatch, caplog):
    model = bert()
    own = type(model).set_attn_implementation

    def refuse(self, name):
        if name.startswith("elm"):
            raise ValueError("this model has its own attention")
        own(self, name)

    monkeypatch.setattr(type(model), "set_attn_implementation", refuse)
    assert choose(model, "mean").runtime.attention == "padded"
    assert "paths were rejected: segments: this model has its own attention" in caplog.text


def test_a_model_that_gives_no_finite_vector_is_refused():
    model = bert()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="the model itself gives no finite vector for any probe text in float32"):
        choose(model, "mean")


def test_the_final_norm_stays_in_float32(layers):
    model = qwen3().to(torch.bfloat16)
    texts = texts_of(30, 7, 1)

    def rounded(vectors):
        return torch.from_numpy(vectors).bfloat16().float().numpy()

    plain = run(setup_of().padded(model), texts)
    np.testing.assert_array_equal(plain, rounded(plain))
    found = run(choose(model, dtype="bfloat16").forward, texts)
    # Almost no number of a vector is one of bfloat16.
    assert (found == rounded(found)).mean() < 0.1
    np.testing.assert_allclose(found, plain, rtol=2e-2, atol=2e-2)


def test_other_attention_than_sdpa_is_left_as_it_was():
    model = bert()
    model.set_attn_implementation("eager")
    choose(model, "mean", attention="padded")
    assert model.config._attn_implementation == "eager"


def test_the_cost_of_a_model_by_hand():
    # Two layers of queries, keys, values and outputs (4, 2, 2 and 4 heads of 16) and three products of 64 x 96.
    weights = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)
    # Scores and sums: 2 operations each, a token times a token, 64 wide, 2 layers; half of it where causal.
    assert choose(qwen3()).runtime.cost == Cost(linear=2.0 * weights, quadratic=0.5 * 2 * 2 * 64 * 2)
    weights = 2 * (4 * 64 * 64 + 2 * 64 * 96)
    for attention in ("auto", "padded"):
        found = choose(bert(), "mean", attention=attention).runtime.cost
        assert found == Cost(linear=2.0 * weights, quadratic=2 * 2 * 64 * 2)


def test_a_pack_is_as_large_as_suits_the_device(monkeypatch):
    assert default_batch_tokens(CPU) == 4096
    assert default_batch_tokens(torch.device("mps")) == 16_384
    for memory, tokens in ((24e9, 16_384), (80e9, 32_768)):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _, memory=memory: SimpleNamespace(total_memory=memory)
        )
        assert default_batch_tokens(torch.device("cuda")) == tokens


# The check itself


def test_the_largest_loss_of_cosine_by_hand():
    expected = np.array([[1, 0], [3, 4], [0, 2]], dtype=np.float32)
    assert cosine_loss(expected * 7, expected) == pytest.approx(0, abs=1e-12)
    found = np.array([[1, 1], [4, 3], [0, 1]], dtype=np.float32)
    # Cosines are 1/sqrt(2), 24/25 and 1.
    assert cosine_loss(found, expected) == pytest.approx(1 - 0.5**0.5)
    assert cosine_loss(-expected, expected) == pytest.approx(2)


def test_texts_that_the_plain_path_cannot_compute_are_left_out():
    expected = np.array([[1, 0], [np.nan, 4], [np.inf, 2]], dtype=np.float32)
    found = np.array([[1, 0], [1, 1], [np.nan, 2]], dtype=np.float32)
    assert cosine_loss(found, expected) == 0
    assert np.isnan(cosine_loss(found[::-1], expected[[0, 0, 0]]))


class Table:
    """A path that gives each text the vector of its first id, and may go wrong."""

    def __init__(self, wrong=lambda vectors, texts: vectors):
        self.wrong, self.calls = wrong, []

    def __call__(self, texts):
        firsts = [int(texts.row(row)[0]) for row in range(len(texts))]
        self.calls.append(firsts)
        vectors = torch.tensor([[np.cos(first), np.sin(first)] for first in firsts], dtype=torch.float32)
        return self.wrong(vectors, texts)


def table_probes():
    tokens = from_rows([[1, 1, 1], [2, 2], [3]], [False] * 3)
    return make_probes(tokens, lambda texts: Table()(texts).numpy())


def test_a_path_is_right_when_its_vectors_are_in_any_order():
    path = Table()
    assert table_probes().fault(path, "float32") is None
    assert path.calls == [[1, 2, 3], [3, 1, 2]]


def test_a_path_that_is_wrong_in_another_order_only_is_found_out():
    def wrong(vectors, texts):
        return vectors if texts.ids[0] == 1 else vectors.roll(1, dims=0)

    assert "the same in another order differ from each text alone" in table_probes().fault(Table(wrong), "float32")


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-6), ("float16", 2e-4), ("bfloat16", 3e-3)])
def test_how_much_a_path_may_differ(dtype, allowed):
    def turned(loss):
        angle = np.arccos(1 - loss)
        turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float64)
        return Table(lambda vectors, _: vectors.double() @ turn)

    probes = table_probes()
    assert probes.fault(turned(0.5 * allowed), dtype) is None
    assert f"at most {allowed:g} is allowed" in probes.fault(turned(2 * allowed), dtype)
    assert probes.fault(turned(2 * allowed), dtype, tolerance=3 * allowed) is None
    assert probes.fault(turned(0.5 * allowed), dtype, tolerance=0.1 * allowed) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_without_a_direction_is_a_fault(value):
    def wrong(vectors, texts):
        vectors[-1] = value
        return vectors

    assert "1 - cosine nan" in table_probes().fault(Table(wrong), "bfloat16")


def test_whether_a_vectors_bits_depend_on_other_texts_is_found_out():
    def longer_mates(vectors, texts):
        return vectors + 1e-7 * int(texts.lengths.max())

    def mates_of_its_length(vectors, texts):
        twins = (texts.lengths[:, None] == texts.lengths).sum(axis=1)
        return vectors + 1e-6 * torch.from_numpy(twins)[:, None].float()

    probes = table_probes()
    assert not probes.is_batch_dependent(Table())
    assert probes.is_batch_dependent(Table(longer_mates))
    assert probes.is_batch_dependent(Table(mates_of_its_length))
    # What is not a number is the same every time.
    assert not probes.is_batch_dependent(Table(lambda vectors, _: vectors * np.nan))


# Linear layers by oneDNN. Both ways are tested on every machine, the one it lacks through a stand-in.


class OtherProducts(StandInOperators):
    """Products that are wrong in one of their terms, or less exact than their dtype."""

    def __init__(self, spoil):
        self._spoil = spoil

    def _linear_pointwise(self, x, weight, bias, *_):
        return self._spoil(super()._linear_pointwise, x, weight, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_packed_linear_layer_computes_what_it_replaces(bias, dtype, error, monkeypatch):
    if not packs_here(dtype):
        pack_with(StandInOperators(), monkeypatch)
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias)
    for shape in ((1, 48), (7, 48), (2, 5, 48), (1, 1030, 48)):
        x = torch.randn(shape)
        with torch.inference_mode():
            expected = layer(x)
            found = PackedLinear(nn.Linear(48, 80, bias=bias).to(dtype)).forward(x.to(dtype))
            assert (found.shape, found.dtype) == (expected.shape, dtype)
            assert (found - expected).abs().max() > 0.1  # other weights
            found = PackedLinear(layer.to(dtype))(x.to(dtype))
            layer.float()
        np.testing.assert_allclose(found.float(), expected, rtol=error, atol=3 * error)


def nested():
    class Special(nn.Linear):
        pass

    return nn.Sequential(
        nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.ModuleList([nn.Linear(8, 32)])), Special(8, 8), nn.LayerNorm(8)
    )


def test_all_linear_layers_are_replaced_where_they_can_be(layers):
    model = nested()
    assert pack_linear_layers(model) is (layers == "packed")
    kind = "PackedLinear" if layers == "packed" else "Linear"
    assert [type(module).__name__ for module in model.modules()] == [
        "Sequential", kind, "Sequential", "ReLU", "ModuleList", kind, "Special", "LayerNorm",
    ]  # fmt: skip
    # Again: there is nothing left to replace, or it is refused again.
    assert not pack_linear_layers(model)


def test_packing_again_makes_the_same_choice_and_leaves_the_random_numbers_alone(layers):
    state = torch.random.get_rng_state()
    reasons = [linear.unavailable_reason(torch.bfloat16) for _ in range(3)]
    assert len(set(reasons)) == 1
    assert (reasons[0] is None) is (layers == "packed")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_dtype_that_cannot_be_packed_does_not_keep_another_from_it(monkeypatch):
    class NoBfloat16(StandInOperators):
        def _reorder_linear_weight(self, weight, rows):
            own = RefusingOperators() if weight.dtype == torch.bfloat16 else super()
            return own._reorder_linear_weight(weight, rows)

    pack_with(NoBfloat16(), monkeypatch)
    assert linear.unavailable_reason(torch.float32) is None
    assert linear.unavailable_reason(torch.bfloat16) == (
        "RuntimeError: mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx512bw"
    )
    model = nn.Sequential(nn.Linear(48, 80), nn.Linear(48, 80).bfloat16())
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        expected = model[1](x)
        # In float32, which holds the same numbers; what comes out is rounded as it would be.
        assert pack_linear_layers(model)
        assert [layer.dtype for layer in model] == [torch.float32, torch.float32]
        found = model[1](x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)


def test_without_any_packed_layers_bfloat16_keeps_torch_s_own(monkeypatch):
    pack_with(RefusingOperators(), monkeypatch)
    model = nn.Sequential(nn.Linear(8, 8).bfloat16())
    assert not pack_linear_layers(model)
    assert [type(layer).__name__ for layer in model] == ["Linear"]


def test_a_layer_that_cannot_be_packed_keeps_its_own_product(monkeypatch):
    class NoWideLayers(StandInOperators):
        def _reorder_linear_weight(self, weight, rows):
            if len(weight) > 100:
                raise RuntimeError("could not create a memory object")
            return super()._reorder_linear_weight(weight, rows)

    pack_with(NoWideLayers(), monkeypatch)
    model = nn.Sequential(nn.Linear(8, 200), nn.Linear(200, 8))
    x = torch.randn(3, 8)
    expected = model(x)
    assert not pack_linear_layers(model)
    assert [type(layer).__name__ for layer in model] == ["Linear", "PackedLinear"]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda product, x, weight, bias: product(x, weight, None),
        lambda product, x, weight, bias: product(x, weight, bias) * torch.nan,
        lambda product, x, weight, bias: product(x, weight, bias)[:1].expand(len(x), -1),
        lambda product, x, weight, bias: product(x.bfloat16(), weight.bfloat16(), bias.bfloat16()).float(),
    ],
    ids=["no bias", "not a number", "one row for all", "computed in bfloat16"],
)
def test_products_that_are_not_right_are_not_used(spoil, monkeypatch):
    pack_with(OtherProducts(spoil), monkeypatch)
    assert "a packed product is wrong by" in linear.unavailable_reason(torch.float32)
    assert not pack_linear_layers(nested())


@pytest.mark.parametrize("missing", ["_linear_pointwise", "_reorder_linear_weight", "dtype"])
def test_without_the_operators_a_model_is_left_alone(missing, monkeypatch):
    model = nested()
    if missing == "dtype":
        model.double()
    else:
        operators = {"_linear_pointwise": None, "_reorder_linear_weight": None}
        del operators[missing]
        pack_with(SimpleNamespace(**operators), monkeypatch)
    assert not pack_linear_layers(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


# Activations


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [DeterministicSiLU, DeterministicTanhGELU])
def test_an_activation_s_bits_do_not_depend_on_threads_or_rows(activation, dtype, threads):
    x = (torch.randn(1024, 1600, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = activation()(x)
        torch.set_num_threads(threads)
        for rows in (1, 16, 48, 80, 1024):
            assert torch.equal(activation()(x[:rows]), expected[:rows])
    finally:
        torch.set_num_threads(before)


def test_deterministic_activations_are_the_functions_of_their_names():
    x = torch.tensor([-1e4, -100.0, -5.0, -1e-3, 0.0, 1e-3, 2.0, 100.0, 1e4], requires_grad=False)
    exact = x.double()
    torch.testing.assert_close(DeterministicSiLU()(x), (exact * torch.sigmoid(exact)).float(), rtol=1e-6, atol=1e-30)
    tanh = torch.nn.functional.gelu(exact, approximate="tanh").float()
    torch.testing.assert_close(DeterministicTanhGELU()(x), tanh, rtol=1e-5, atol=1e-6)


def test_only_unuse_deterministic_activations_are_replaced():
    model = nn.Sequential(
        nn.SiLU(), nn.GELU(), nn.ReLU(), nn.ModuleDict({"a": nn.GELU(approximate="tanh"), "b": ACT2FN["silu"]}),
        ACT2FN["gelu_pytorch_tanh"], ACT2FN["gelu"],
    )  # fmt: skip
    use_deterministic_activations(model)
    assert [type(module).__name__ for module in model.modules()][1:] == [
        "DeterministicSiLU", "GELU", "ReLU", "ModuleDict", "DeterministicTanhGELU", "DeterministicSiLU",
        "DeterministicTanhGELU", "GELUActivation",
    ]  # fmt: skip


# Texts in rows of their own


def test_padding_by_hand():
    padded, real = pad(from_rows([[5, 6, 7], [8], [9, 10]], [False] * 3), pad_id=99)
    assert padded.tolist() == [[5, 6, 7], [8, 99, 99], [9, 10, 99]]
    assert real.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert padded.dtype == np.int32


def test_padding_is_seen_by_no_text():
    texts = texts_of(9, 4, 1)
    for make, pooling in ((qwen3, "last_token"), (bert, "mean"), (bert, "cls")):
        model = make()
        one, other = (replace(setup_of(pooling), pad_id=pad_id).padded(model) for pad_id in (0, 77))
        np.testing.assert_array_equal(run(one, texts), run(other, texts))
        alone = np.concatenate([run(one, texts.take(np.array([row]))) for row in range(3)])
        np.testing.assert_allclose(run(one, texts), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "causal"), [([True, True], True), ([True, False], False), ([False], False), ([], False)]
)
def test_a_model_is_causal_when_every_layer_is(flags, causal):
    model = nn.Sequential(*[nn.ReLU() for _ in [*flags, None]])
    for layer, flag in zip(model, flags, strict=False):
        layer.is_causal = flag
    assert loading.is_causal(model) is causal


# The whole embedder


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), device="cpu", **config))


TEXTS = ["a cat", "the lighthouse keeper counted the ships", "x", "water boils at 100 degrees"]


def test_the_probes_are_a_long_a_short_and_an_overflowing_text(tiny_bert):
    lengths = load(tiny_bert).tokenize(PROBES).lengths.tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 3 * lengths[1] > 6 * lengths[2] > 0


def test_bfloat16_on_a_cpu_says_what_it_costs(tiny_bert, layers, caplog):
    exact = load(tiny_bert)
    with caplog.at_level(logging.INFO):
        rounded = load(tiny_bert, dtype="bfloat16")
    (said,) = [record for record in caplog.records if "of cosine" in record.message]
    assert said.message.startswith("Loss of bfloat16: at most ")
    assert said.message.endswith(" of cosine on 3 probe texts")
    assert (rounded.identity.dtype, exact.identity.dtype) == ("bfloat16", "float32")
    cosines = (encode(exact, TEXTS) * encode(rounded, TEXTS)).sum(axis=1)
    assert 0.999 <= cosines.min() < 1 - 1e-7
    loss = float(said.args[1])
    together = (encode(exact, PROBES) * encode(rounded, PROBES)).sum(axis=1)
    assert loss == pytest.approx(1 - together.min(), rel=0.01, abs=1e-6)


def test_float32_costs_nothing_and_nothing_is_said(tiny_bert, caplog):
    with caplog.at_level(logging.INFO):
        load(tiny_bert)
    assert "of cosine" not in caplog.text


@pytest.mark.parametrize("has_it", [True, False])
def test_a_cpu_without_bfloat16_says_once_that_it_is_slower(tiny_bert, has_it, monkeypatch, caplog):
    monkeypatch.setattr(loading, "_cpu_has_bfloat16", lambda: has_it)
    loading._warn_about_emulated_bfloat16.cache_clear()
    for _ in range(2):
        load(tiny_bert, dtype="bfloat16")
    said = [record.message for record in caplog.records if "has no bfloat16 instructions" in record.message]
    assert len(said) == (0 if has_it else 1)
    if said:
        assert "embedding.dtype bfloat16 works, but is slower here than float32" in said[0]


@pytest.mark.parametrize(
    ("machine", "x86", "onednn", "has_it"),
    [
        ("x86_64", [False, False], True, False),  # AVX-512 without bfloat16: oneDNN packs it, and emulates it
        ("x86_64", [True, False], True, True),
        ("AMD64", [False, True], False, True),
        ("aarch64", [False, False], True, True),
        ("arm64", [False, False], False, False),
        ("riscv64", None, None, False),  # a torch that knows none of the questions
    ],
)
def test_which_cpus_have_bfloat16(machine, x86, onednn, has_it, monkeypatch):
    monkeypatch.setattr(loading.platform, "machine", lambda: machine)
    for place, name in enumerate(("_is_avx512_bf16_supported", "_is_amx_tile_supported")):
        monkeypatch.delattr(torch.cpu, name, raising=False)
        if x86 is not None:
            monkeypatch.setattr(torch.cpu, name, lambda place=place: x86[place], raising=False)
    operators = {} if onednn is None else {"_is_mkldnn_bf16_supported": lambda: onednn}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
    assert loading._cpu_has_bfloat16() is has_it


def test_a_safer_precision_is_another_copy_of_the_model(tiny_bert, layers):
    exact, rounded = load(tiny_bert), load(tiny_bert, dtype="bfloat16")
    texts = exact.tokenize(TEXTS)
    expected = exact.forward(texts)
    assert np.abs(rounded.forward(texts) - expected).max() > 1e-4
    np.testing.assert_allclose(rounded.forward(texts, "float32"), expected, atol=1e-5)
    # Its own precision is what it was.
    assert np.abs(rounded.forward(texts) - expected).max() > 1e-4


def test_a_model_that_fails_says_that_finished_work_is_kept(tiny_bert, monkeypatch):
    embedder = load(tiny_bert)
    monkeypatch.setitem(vars(embedder), "_forward", lambda _: fails(*[None] * 5))
    with pytest.raises(ModelError, match=r"the model failed on cpu: no kernel image(.|\n)*run again to resume"):
        embedder.forward(embedder.tokenize(["a"]))


def test_a_device_whose_memory_is_full_says_so_in_any_words(tiny_bert, monkeypatch):
    embedder = load(tiny_bert)

    def too_much(_):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB)")

    monkeypatch.setitem(vars(embedder), "_forward", too_much)
    with pytest.raises(OutOfMemoryError, match="1 texts of up to 3 tokens do not fit into cpu"):
        embedder.forward(embedder.tokenize(["a"]))


def test_a_token_to_be_pooled_that_is_missing_is_an_error(tiny_bert):
    embedder = load(tiny_bert, pooling="last_token")
    embedder.tokenize(["fine"])
    embedder._encoder.post_processor = processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 2)])
    with pytest.raises(ModelError, match=r"the tokens of 'ab' end in \[41\], expected the end token 3"):
        embedder.tokenize(["ab"])


class OtherCall:
    """A tokenizer whose call adds a token that its file does not."""

    def __init__(self, tokenizer, **settings):
        self._tokenizer = tokenizer
        vars(self).update(settings)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text):
        return {"input_ids": [*self._tokenizer(text)["input_ids"], 1]}


def test_a_tokenizer_file_that_says_something_else_than_transformers_is_refused(tiny_bert, monkeypatch):
    own = AutoTokenizer.from_pretrained(tiny_bert)
    config = EmbeddingConfig(model_name=str(tiny_bert))
    load_tokenizer(config)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: OtherCall(own))
    with pytest.raises(ModelError, match=r"tokenizer.json of .*tiny-bert.* gives \[2, .*, 3\] for 'One short"):
        load_tokenizer(config)
    with pytest.raises(ModelError, match="vectors would be of other tokens than the model expects"):
        load(tiny_bert)


def test_a_slow_tokenizer_is_refused(tiny_bert, monkeypatch):
    own = AutoTokenizer.from_pretrained(tiny_bert)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: OtherCall(own, is_fast=False))
    with pytest.raises(ModelError, match="has no fast tokenizer"):
        load(tiny_bert)


def test_truncation_and_padding_of_a_tokenizer_file_are_forgotten(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer.save_pretrained(tmp_path)
    found = load_tokenizer(EmbeddingConfig(model_name=str(tmp_path)))
    assert [len(found.encode(text).ids) for text in ("abc", "abc def ghi")] == [5, 11]


# Float8


class FakeTorchao(ModuleType):
    """Notes what it is asked to quantise."""

    def __init__(self):
        super().__init__("torchao.quantization")
        self.calls = []

    def quantize_(self, model, config):
        self.calls.append((model, config))

    def Float8DynamicActivationFloat8WeightConfig(self, *, granularity):  # noqa: N802
        return ("float8", granularity)

    def PerRow(self):  # noqa: N802
        return "row by row"


@pytest.fixture
def torchao(monkeypatch):
    fake = FakeTorchao()
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", fake)
    return fake


def test_float8_on_a_cpu_is_refused(tiny_bert, torchao):
    with pytest.raises(ConfigError, match="embedding.fp8 needs a GPU with float8 .*; the device is cpu"):
        load(tiny_bert, fp8=True)
    assert torchao.calls == []


@pytest.mark.parametrize(
    ("capability", "possible"), [((8, 0), False), ((8, 6), False), ((9, 0), True), ((12, 0), True)]
)
def test_float8_needs_a_newer_gpu(capability, possible, torchao, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    model = bert()
    if possible:
        to_float8(model, torch.device("cuda"))
        assert torchao.calls == [(model, ("float8", "row by row"))]
    else:
        with pytest.raises(ConfigError, match="embedding.fp8 needs a GPU with float8"):
            to_float8(model, torch.device("cuda"))
        assert torchao.calls == []


def test_float8_without_torchao_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"embedding.fp8 needs the package 'torchao.quantization'.*\[fp8\]"):
        to_float8(bert(), torch.device("cuda"))


def test_what_float8_costs_is_said_and_it_is_part_of_the_identity(tiny_bert, layers, monkeypatch, caplog):
    def coarse(model, device):
        """Weights of three bits behind the point."""
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.round(layer.weight * 8) / 8)

    monkeypatch.setattr(transformer, "to_float8", coarse)
    with caplog.at_level(logging.INFO):
        embedder = load(tiny_bert, fp8=True)
    assert embedder.identity.dtype == "bfloat16+float8"
    assert embedder.runtime.attention == "segments"
    (said,) = [record for record in caplog.records if "of cosine" in record.message]
    assert said.message.startswith("Loss of float8: at most ")
    assert float(said.args[1]) > 1e-4


# A GPU that hangs


def test_a_device_that_answers_is_waited_for():
    answers = iter([False, False, False, True])
    wait_for(lambda: next(answers), 5, "cuda:0")
    assert next(answers, None) is None
    wait_for(lambda: True, 1e-9, "cuda:0")


def test_a_device_that_does_not_answer_is_given_up_and_the_way_on_is_said():
    with pytest.raises(
        DeviceHungError, match=r"cuda:0 has not answered for 0\.02 s\. Finished work is kept: .*run again to resume"
    ) as error:
        wait_for(lambda: False, 0.02, "cuda:0")
    assert "embedding.device_timeout_s" in str(error.value)
    assert isinstance(error.value, ModelError)
