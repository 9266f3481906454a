"""Families of multilingual models: recipe, loading without their own code, and vectors, on random models.

The files are written as the models' makers wrote them; expected vectors are computed here, step by step.
"""

import json
import string
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import randomised
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import gelu, layer_norm
from transformers import (
    GteConfig,
    GteModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from data_pipeline.config import EmbeddingConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.embeddings import encode, load_embedder, load_tokenizer
from data_pipeline.embeddings.recipes.recipe import read_recipe
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ConfigError, ModelError, ShardMismatchError, StaleStageError
from data_pipeline.stages.pipeline import embed, run

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS, WIDTH, LAYERS = 4, 64, 2
SIZES = {
    "vocab_size": 100, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "type_vocab_size": 1, "max_position_embeddings": 130, "pad_token_id": 1,
}  # fmt: skip
TEXTS = ["a cat", "the lighthouse keeper counted the ships that passed before the fog", "x", "water boils at 100"]
NO_LIMIT = 10**30
TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
RANK = 4


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_tokenizer(folder):
    """Letters, in the frame of XLM-RoBERTa's special tokens."""
    letters = string.ascii_lowercase + string.digits
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>"
    ).save_pretrained(folder)


def load(folder, **config):
    return load_embedder(EmbeddingConfig(model_name=str(folder), device="cpu", **config))


def hidden_states(weights, ids, inv_freq, feed_forward, eps):
    """A transformer with rotary positions and norms behind its blocks, a text at a time.

    Args:
        weights: by the names that are used here.
        feed_forward: (weights of a layer, states) -> states.
    """

    def normed(x, name):
        return layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    angles = torch.outer(torch.arange(len(ids)).float(), inv_freq).repeat(1, 2)

    def rotated(x):  # (heads, tokens, width of a head)
        left, right = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-right, left], dim=-1) * angles.sin()

    x = normed(weights["word"][ids] + weights["type"][0], "norm")
    for n in range(LAYERS):
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in linear(x, f"{n}.qkv").chunk(3, dim=-1))
        scores = rotated(q) @ rotated(k).mT / (WIDTH // HEADS) ** 0.5
        attended = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = normed(x + linear(attended, f"{n}.out"), f"{n}.norm1")
        x = normed(x + feed_forward(linear, weights, n, x), f"{n}.norm2")
    return x


def renamed(weights, names):
    """Weights by other names; `#` stands for a layer's number."""
    found = {}
    for name, weight in weights.items():
        for old, new in names.items():
            for n in range(LAYERS):
                if name.startswith(old.replace("#", str(n))):
                    found[new.replace("#", str(n)) + name.removeprefix(old.replace("#", str(n)))] = weight
    return found


def inverse_frequencies(theta):
    return 1.0 / theta ** (torch.arange(0, WIDTH // HEADS, 2).float() / (WIDTH // HEADS))


def assert_same_vectors(embedder, expected):
    expected = np.stack([vector / np.linalg.norm(vector) for vector in expected])
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(encode(embedder, TEXTS), expected, atol=1e-5)
    alone = np.concatenate([encode(embedder, [text]) for text in TEXTS])
    if embedder.runtime.batch_dependent:
        np.testing.assert_allclose(encode(embedder, TEXTS), alone, atol=1e-6)
    else:
        np.testing.assert_array_equal(encode(embedder, TEXTS), alone)


def ids_of(embedder):
    tokens = embedder.tokenize(TEXTS)
    return [torch.tensor(tokens.row(row).astype(np.int64)) for row in range(len(tokens))]


# gte: Snowflake Arctic Embed m v2.0, gte-multilingual-base

GTE_NAMES = {
    "embeddings.word_embeddings.weight": "word", "embeddings.token_type_embeddings.weight": "type",
    "embeddings.LayerNorm": "norm", "encoder.layer.#.attention.qkv_proj": "#.qkv",
    "encoder.layer.#.attention.o_proj": "#.out", "encoder.layer.#.attn_ln": "#.norm1",
    "encoder.layer.#.mlp_ln": "#.norm2", "encoder.layer.#.mlp.up_gate_proj": "#.up_gate",
    "encoder.layer.#.mlp.down_proj": "#.down",
}  # fmt: skip

ALIBABA = SIZES | {
    "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm", "logn_attention_clip1": False,
    "logn_attention_scale": False, "pack_qkv": True, "position_embedding_type": "rope", "torch_dtype": "float32",
}  # fmt: skip
ARCTIC = ALIBABA | {
    "architectures": ["GteModel"], "model_type": "gte", "rope_theta": 160000, "rope_scaling": None,
    "auto_map": {
        "AutoConfig": "configuration_hf_alibaba_nlp_gte.GteConfig",
        "AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel",
    },
    "unpad_inputs": "true", "use_memory_efficient_attention": "true",
}  # fmt: skip
GTE_MULTILINGUAL = ALIBABA | {
    "architectures": ["NewModel"], "model_type": "new", "rope_theta": 20000,
    "rope_scaling": {"type": "ntk", "factor": 8.0},
    "auto_map": {
        "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
        "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
    },
}  # fmt: skip


def alarm(folder, names):
    """Python files that leave a trace where they are run."""
    for name in names:
        trace = str(folder / "was_run")
        (folder / f"{name}.py").write_text(f"import pathlib\npathlib.Path({trace!r}).touch()\nraise RuntimeError\n")


def gte(folder, settings, prefix=""):
    """A model as its makers' code saves it."""
    randomised(GteModel(GteConfig(**SIZES))).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    assert "encoder.layer.0.attention.qkv_proj.weight" in weights  # transformers writes the names it has read
    save_file({prefix + name: weight for name, weight in weights.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    write_json(folder / "config.json", settings)
    alarm(folder, ["configuration_hf_alibaba_nlp_gte", "modeling_hf_alibaba_nlp_gte"])
    return folder, renamed(weights, GTE_NAMES)


def gated(linear, weights, n, x):
    up, gate = (x @ weights[f"{n}.up_gate.weight"].T).chunk(2, dim=-1)
    return linear(gelu(gate) * up, f"{n}.down")


def ntk_frequencies(theta, factor):
    return inverse_frequencies(theta * factor) / factor ** (2 / (WIDTH // HEADS))


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("settings", "prefix", "inv_freq"),
    [
        (ARCTIC, "", inverse_frequencies(160_000)),
        (GTE_MULTILINGUAL, "new.", ntk_frequencies(20_000, 8.0)),
        (ARCTIC | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, "", inverse_frequencies(500)),
    ],
)
def test_gte_gets_the_first_tokens_state_by_transformers_own_code(tmp_path, settings, prefix, inv_freq, trusted):
    folder, weights = gte(tmp_path, settings, prefix)
    embedder = load(folder, trust_remote_code=trusted)
    assert not (folder / "was_run").exists()
    assert embedder.identity.pooling == "cls"
    assert (embedder.runtime.attention, embedder.runtime.batch_dependent) == ("segments", False)
    assert embedder._forward.pruned
    assert embedder.identity.max_length == 130
    expected = [hidden_states(weights, ids, inv_freq, gated, 1e-12)[0] for ids in ids_of(embedder)]
    assert_same_vectors(embedder, expected)
    assert_same_vectors(load(folder, attention="padded"), expected)


def test_other_positions_would_be_noticed(tmp_path):
    folder, weights = gte(tmp_path, GTE_MULTILINGUAL)
    embedder = load(folder)
    wrong = [hidden_states(weights, ids, inverse_frequencies(160_000), gated, 1e-12)[0] for ids in ids_of(embedder)]
    with pytest.raises(AssertionError):
        assert_same_vectors(embedder, wrong)


def test_arctic_asks_queries_as_its_files_say(tmp_path):
    folder, _ = gte(tmp_path, ARCTIC)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}})
    write_json(folder / "modules.json", [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])  # fmt: skip
    write_json(
        folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    )
    embedder = load(folder)
    assert (embedder.query_prompt, embedder.identity.prompt, embedder.identity.pooling) == ("query: ", "", "cls")
    assert embedder.identity.normalized
    np.testing.assert_array_equal(encode(embedder, ["a cat"], query=True), encode(embedder, ["query: a cat"]))


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_type": "rms_norm"},
        {"position_embedding_type": "absolute"},
        {"logn_attention_scale": True},
        {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.5}},
    ],
)
def test_a_gte_that_transformers_cannot_run_is_refused_and_the_flag_is_named(tmp_path, change):
    folder, _ = gte(tmp_path, GTE_MULTILINGUAL | change)
    with pytest.raises(
        ModelError,
        match=r"of the type 'new', which transformers 5\S+ cannot run with these settings: only Python code .*"
        r"\(Alibaba-NLP/new-impl--modeling.NewModel\).*set embedding.trust_remote_code;",
    ):
        load(folder)


def test_a_model_that_lacks_weights_is_refused(tmp_path):
    folder, _ = gte(tmp_path, ARCTIC)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.mlp_ln.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 weights of a GteModel, layers.1.post_mlp_layernorm.bias for one"):
        load(folder)


# jina-embeddings-v3

JINA_NAMES = {
    "embeddings.word_embeddings.weight": "word", "embeddings.token_type_embeddings.weight": "type", "emb_ln": "norm",
    "encoder.layers.#.mixer.Wqkv": "#.qkv", "encoder.layers.#.mixer.out_proj": "#.out",
    "encoder.layers.#.norm1": "#.norm1", "encoder.layers.#.norm2": "#.norm2",
    "encoder.layers.#.mlp.fc1": "#.fc1", "encoder.layers.#.mlp.fc2": "#.fc2",
}  # fmt: skip

JINA = SIZES | {
    "architectures": ["XLMRobertaLoRA"], "model_type": "xlm-roberta", "position_embedding_type": "rotary",
    "auto_map": {
        "AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA",
    },
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "layer_norm_eps": 1e-05,
    "emb_pooler": None, "load_trained_adapters": True, "lora_adaptations": TASKS, "lora_alpha": 1, "lora_rank": RANK,
    "lora_dropout_p": 0.0, "lora_main_params_trainable": False, "rotary_emb_base": 20000.0, "use_flash_attn": True,
    "matryoshka_dimensions": [32, 64], "torch_dtype": "bfloat16", "truncate_dim": None,
    "task_instructions": {task: f"{task}: " if "retrieval" in task else "" for task in TASKS},
}  # fmt: skip


def jina(folder, settings=JINA):
    """A model as its makers' code saves it: every matrix with the adapters of all tasks.

    Returns:
        The folder, and (task) -> weights for `hidden_states`; None for no task.
    """
    randomised(JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**SIZES))).save_pretrained(folder)
    plain = load_file(folder / "model.safetensors")
    assert "encoder.layers.0.mixer.Wqkv.weight" in plain
    stored, change = {}, {}
    for name, weight in plain.items():
        if weight.dim() == 1:
            stored["roberta." + name] = weight
            continue
        layer = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight."
        rows, columns = weight.shape
        table = "embeddings" in name
        low = torch.randn(len(TASKS), *((rows, RANK) if table else (RANK, columns))) * 0.3
        high = torch.randn(len(TASKS), *((RANK, columns) if table else (rows, RANK))) * 0.3
        stored |= {layer + "original": weight, layer + "0.lora_A": low, layer + "0.lora_B": high}
        change[name] = (low @ high if table else high @ low) / RANK
    save_file({name: weight.contiguous() for name, weight in stored.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    write_json(folder / "config.json", settings)

    def weights_of(task):
        if task is None:
            return renamed(plain, JINA_NAMES)
        n = TASKS.index(task)
        return renamed({k: w + change[k][n] if k in change else w for k, w in plain.items()}, JINA_NAMES)

    return folder, weights_of


def plain_feed_forward(linear, weights, n, x):
    return linear(gelu(linear(x, f"{n}.fc1")), f"{n}.fc2")


def jina_vectors(weights, embedder, prompt=""):
    tokens = embedder.tokenize([prompt + text for text in TEXTS])
    rows = [torch.tensor(tokens.row(row).astype(np.int64)) for row in range(len(tokens))]
    return [hidden_states(weights, ids, inverse_frequencies(20_000), plain_feed_forward, 1e-5).mean(0) for ids in rows]


def test_jina_gets_the_mean_with_the_adapter_for_text_matching(tmp_path):
    folder, weights_of = jina(tmp_path)
    embedder = load(folder)
    identity = embedder.identity
    assert identity.pooling == "mean"
    assert identity.task == "text-matching"
    assert (identity.prompt, embedder.query_prompt) == ("", "")
    assert identity.max_length == 128  # two positions are XLM-RoBERTa's own
    assert (embedder.runtime.attention, embedder.runtime.batch_dependent) == ("segments", False)
    expected = jina_vectors(weights_of("text-matching"), embedder)
    assert_same_vectors(embedder, expected)
    assert_same_vectors(load(folder, attention="padded"), expected)
    # Another copy of the model has the adapter too.
    tokens = embedder.tokenize(TEXTS)
    np.testing.assert_allclose(embedder.forward(tokens, "float32"), embedder.forward(tokens), atol=1e-5)


def test_every_task_of_jina_has_vectors_and_an_identity_of_its_own(tmp_path):
    folder, weights_of = jina(tmp_path)
    identities = set()
    for task, prompt in (("retrieval.passage", "retrieval.passage: "), ("separation", ""), (None, "")):
        embedder = load(folder, task=task or "base")
        identities.add(embedder.identity)
        assert (embedder.identity.prompt, embedder.query_prompt) == (prompt, prompt)
        assert_same_vectors(embedder, jina_vectors(weights_of(task), embedder, prompt))
    assert len(identities) == 3
    assert len({identity.revision for identity in identities}) == 1
    assert {identity.task for identity in identities} == {"retrieval.passage", "separation", "base"}


def test_an_adapter_that_is_not_there_is_named(tmp_path):
    folder, _ = jina(tmp_path)
    with pytest.raises(ConfigError, match=r"embedding.task clustering: .* has the adapters retrieval.query, .*or base"):
        load(folder, task="clustering")
    (tmp_path / "gte").mkdir()
    other, _ = gte(tmp_path / "gte", ARCTIC)
    with pytest.raises(ConfigError, match=r"embedding.task separation: .* has the adapters \(none\)"):
        load(other, task="separation")


def test_jina_without_adapters_in_its_weights_is_refused(tmp_path):
    folder, _ = jina(tmp_path)
    randomised(JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**SIZES))).save_pretrained(folder)
    write_json(folder / "config.json", JINA)
    with pytest.raises(ModelError, match="names the adapter 'text-matching', but its weights hold none"):
        load(folder)
    load(folder, task="base")
    write_json(folder / "config.json", JINA | {"position_embedding_type": "absolute"})
    with pytest.raises(ModelError, match="lacks .* weights of a XLMRobertaModel"):
        load(folder)


def test_a_model_of_transformers_that_has_no_place_for_its_adapters_is_refused(tmp_path):
    settings = XLMRobertaConfig(**SIZES, lora_adaptations=TASKS)
    randomised(XLMRobertaModel(settings)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(
        ModelError, match=r"names the adapter 'text-matching', but .* XLMRobertaModel has no place for it"
    ):
        load(tmp_path)
    assert load(tmp_path, task="base").identity.pooling == "mean"


@pytest.mark.parametrize("family", ["xlm-roberta", "jina_embeddings_v3"])
def test_jina_s_recipe_needs_no_other_files(tmp_path, family):
    settings = {"model_type": family, "max_position_embeddings": 8194, "lora_adaptations": TASKS}
    write_json(tmp_path / "config.json", settings)
    recipe = read_recipe(tmp_path, 8194, "auto")
    assert (recipe.pooling, recipe.task, recipe.max_length, recipe.min_dim) == ("mean", "text-matching", 8192, 32)


def peft_adapter(folder, model, name, **settings):
    """An adapter in the format of PEFT, of every matrix, as the conversion of jina-embeddings-v3 has them.

    Returns:
        What it adds, by module.
    """
    stored, change = {}, {}
    for path, module in model.named_modules():
        prefix = f"base_model.model.{path}"
        if isinstance(module, torch.nn.Linear):
            low, high = torch.randn(RANK, module.in_features) * 0.3, torch.randn(module.out_features, RANK) * 0.3
            stored |= {f"{prefix}.lora_A.weight": low, f"{prefix}.lora_B.weight": high}
            change[path] = high @ low / RANK
        elif isinstance(module, torch.nn.Embedding):
            low, high = torch.randn(RANK, module.num_embeddings) * 0.3, torch.randn(WIDTH, RANK) * 0.3
            stored |= {f"{prefix}.lora_embedding_A": low, f"{prefix}.lora_embedding_B": high}
            change[path] = (high @ low).T / RANK
    write_json(folder / name / "adapter_config.json", {"peft_type": "LORA", "r": RANK, "lora_alpha": 1} | settings)
    save_file({key: weight.contiguous() for key, weight in stored.items()}, folder / name / "adapter_model.safetensors")
    return change


@pytest.fixture
def converted(tmp_path):
    """jina-embeddings-v3-hf: the base, and an adapter for each task in a folder of its own."""
    model = randomised(JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**SIZES)))
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    changes = {name: peft_adapter(tmp_path, model, name) for name in ("retrieval_query", "text_matching")}
    return tmp_path, model, changes


def states_of(model, embedder, prompt=""):
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([embedder.tokenizer.encode(prompt + text).ids])).last_hidden_state[0].mean(0)
            for text in TEXTS
        ]


@pytest.mark.parametrize("task", [None, "text-matching", "retrieval.query", "base"])
def test_the_conversion_of_jina_needs_no_peft(converted, task):
    folder, model, changes = converted
    embedder = load(folder, task=task)
    name = {None: "text_matching", "base": None}.get(task, (task or "").replace("-", "_").replace(".", "_"))
    assert embedder.identity.task == (name or "base")
    if name:
        for path, change in changes[name].items():
            model.get_submodule(path).weight.data += change
    prompt = "Represent the query for retrieving evidence documents: " if name == "retrieval_query" else ""
    assert embedder.identity.prompt == prompt
    assert_same_vectors(embedder, states_of(model, embedder, prompt))


def test_an_adapter_s_weights_are_part_of_the_identity(converted):
    folder, model, _ = converted
    before = load(folder).identity
    peft_adapter(folder, model, "text_matching")
    assert load(folder).identity.revision != before.revision


def made_by(embedder):
    """Stands in for a file of an embedder's vectors."""
    return SimpleNamespace(metadata=embedder.identity.to_metadata(), path=Path("embeddings/train.safetensors"))


@pytest.mark.parametrize("task", [None, "retrieval.query", "base"])
@pytest.mark.parametrize("written", ["by its makers", "as the conversion"])
def test_the_model_of_a_file_is_loaded_with_the_adapter_it_was_made_with(tmp_path, request, task, written):
    folder = jina(tmp_path)[0] if written == "by its makers" else request.getfixturevalue("converted")[0]
    embedder = load(folder, task=task)
    again = load_maker(made_by(embedder))
    assert again.identity == embedder.identity
    np.testing.assert_array_equal(encode(again, TEXTS), encode(embedder, TEXTS))


def test_vectors_of_another_adapter_are_other_work(config, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    jina(folder)
    embedding = EmbeddingConfig(model_name=str(folder), device="cpu", task="separation", max_length=16)
    config = config.model_copy(update={"embedding": embedding})
    run(config)
    assert ELMDataset(config=config).rows.first_shard.metadata["task"] == "separation"
    changed = config.model_copy(update={"embedding": embedding.model_copy(update={"task": "base"})})
    with pytest.raises(StaleStageError, match="task was 'separation', now 'base'"):
        embed(changed, ["train"])
    dataset = ELMDataset(config=config)
    assert dataset.spot_check(8)
    assert dataset.embedder.identity.task == "separation"


def test_a_file_that_names_no_adapter_is_not_of_a_model_that_uses_one(converted):
    shard = made_by(load(converted[0]))
    del shard.metadata["task"]
    with pytest.raises(ShardMismatchError, match="were made with task '', the model .* now has 'text_matching'"):
        load_maker(shard)


def test_a_model_that_gets_no_adapter_has_no_task_even_where_none_was_asked_for(tmp_path):
    folder, _ = gte(tmp_path, ARCTIC)
    asked, unasked = load(folder, task="base").identity, load(folder).identity
    assert asked == unasked
    assert asked.task == ""
    assert "task" not in asked.to_metadata()
    assert load_maker(made_by(load(folder))).identity == asked


def test_the_base_of_the_conversion_is_named_where_its_adapters_were_not_fetched(converted):
    folder, _, _ = converted
    for path in folder.glob("*/*"):
        path.unlink()
    embedder = load(folder, task="base")
    assert embedder.identity.task == "base"
    assert load_maker(made_by(embedder)).identity == embedder.identity


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use_dora": True}, "is not a plain LoRA adapter: .*, use_dora"),
        ({"peft_type": "IA3"}, "is not a plain LoRA adapter: peft_type 'IA3'"),
        ({"bias": "all"}, "is not a plain LoRA adapter: .*bias 'all'"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(converted, settings, problem):
    folder, model, _ = converted
    peft_adapter(folder, model, "text_matching", **settings)
    with pytest.raises(ModelError, match=problem):
        load(folder)


def test_an_adapter_of_another_model_is_refused(converted):
    folder, _, _ = converted
    path = folder / "text_matching" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace("layers.1.", "layers.7."): weight for name, weight in weights.items()}, path)
    with pytest.raises(ModelError, match=r"has 30 weights, of which 18 belong to layers of the JinaEmbeddingsV3Model"):
        load(folder)


def test_the_conversion_of_jina_without_its_adapters_is_refused(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "jina_embeddings_v3"})
    with pytest.raises(ConfigError, match=r"embedding.task text-matching: .* has the adapters \(none\).*or base"):
        read_recipe(tmp_path, NO_LIMIT, "auto")
    assert read_recipe(tmp_path, NO_LIMIT, "auto", "base").task is None


# mmBERT


def test_the_mean_of_modernbert_is_of_its_own_tokens(tmp_path):
    sizes = {name: value for name, value in SIZES.items() if name != "type_vocab_size"}
    settings = ModernBertConfig(**sizes, local_attention=16, global_attn_every_n_layers=2)
    model = randomised(ModernBertModel(settings))
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    embedder = load(tmp_path)
    assert (embedder.identity.pooling, embedder.identity.task) == ("mean", "")
    expected = states_of(model, embedder)
    for one in (embedder, load(tmp_path, attention="padded")):
        assert_same_vectors(one, expected)
    assert embedder.runtime.attention == "segments"


# Code that comes with a model

REMOTE = """
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

Path({trace!r}).write_text("run")


class TinyConfig(PretrainedConfig):
    model_type = "tiny-remote"

    def __init__(self, hidden_size=8, lora_adaptations=None, **others):
        self.hidden_size, self.lora_adaptations = hidden_size, lora_adaptations
        super().__init__(**others)


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(100, config.hidden_size)
        self.tasks = nn.Embedding(3, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, adapter_mask=None):
        hidden = self.words(input_ids)
        if adapter_mask is not None:
            assert adapter_mask.shape == input_ids.shape[:1]
            hidden = hidden * self.tasks(adapter_mask.long())[:, None]
        return BaseModelOutput(last_hidden_state=hidden)
"""


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A model that only the code beside it can run, and the file that this code writes to."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    folder, trace = tmp_path / "tiny-remote", tmp_path / "trace"
    folder.mkdir()
    (folder / "modeling_tiny.py").write_text(REMOTE.format(trace=str(trace)))
    code = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    torch.manual_seed(0)
    weights = {"words.weight": torch.randn(100, 8), "tasks.weight": torch.randn(3, 8)}
    save_file(weights, folder / "model.safetensors")
    write_tokenizer(folder)
    write_json(folder / "config.json", {"model_type": "tiny-remote", "auto_map": code, "hidden_size": 8})
    return folder, trace, weights


def test_code_of_a_model_that_fails_is_an_error_of_the_model(remote):
    folder, _, _ = remote
    path = folder / "modeling_tiny.py"
    path.write_text(
        path.read_text().replace("super().__init__(config)\n        self.words", "config.gone\n        self.words")
    )
    with pytest.raises(ModelError, match="cannot load the model in .*has no attribute 'gone'"):
        load(folder, pooling="mean", trust_remote_code=True)


def remote_vectors(embedder, weights, task=None):
    change = 1.0 if task is None else weights["tasks.weight"][task]
    return [(weights["words.weight"][ids] * change).mean(0) for ids in ids_of(embedder)]


def test_code_of_a_model_is_not_run_unless_it_is_allowed(remote):
    folder, trace, weights = remote
    problem = (
        r"of the type 'tiny-remote', which transformers 5\S+ does not know: only Python code that comes with the model "
        r"\(modeling_tiny.TinyModel\).*Read that code, then set embedding.trust_remote_code; or choose another"
    )
    for attempt in (load_tokenizer, load_embedder):
        with pytest.raises(ModelError, match=problem):
            attempt(EmbeddingConfig(model_name=str(folder), pooling="mean"))
    assert not trace.exists()
    embedder = load(folder, pooling="mean", trust_remote_code=True)
    assert trace.read_text() == "run"
    assert_same_vectors(embedder, remote_vectors(embedder, weights))


@pytest.mark.parametrize("task", ["one", "two", "base"])
def test_code_of_a_model_is_told_the_adapter_of_every_text(remote, task, caplog):
    folder, _, weights = remote
    settings = json.loads((folder / "config.json").read_text())
    names = ["zero", "one", "two"]
    write_json(folder / "config.json", settings | {"lora_adaptations": names})
    with pytest.raises(ConfigError, match="embedding.task text-matching: .* has the adapters zero, one, two"):
        load(folder, pooling="mean", trust_remote_code=True)
    embedder = load(folder, pooling="mean", trust_remote_code=True, task=task)
    assert embedder.identity.task == task
    assert embedder.runtime.attention == "padded"
    assert ("the model needs the number of an adapter for every text" in caplog.text) is (task != "base")
    number = names.index(task) if task in names else None
    assert_same_vectors(embedder, remote_vectors(embedder, weights, number))


def test_transformers_own_code_is_run_where_the_type_is_known_and_that_is_said(tmp_path, caplog):
    from transformers import BertConfig, BertModel

    sizes = {name: value for name, value in SIZES.items() if name != "pad_token_id"}
    randomised(BertModel(BertConfig(**sizes))).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", settings | {"auto_map": {"AutoModel": "modeling_own.Own"}})
    alarm(tmp_path, ["modeling_own"])
    embedder = load(tmp_path)
    assert not (tmp_path / "was_run").exists()
    assert "code that comes with" in caplog.text
    assert "is not run, but transformers' own for its type" in caplog.text
    assert type(embedder._model).__module__.startswith("transformers.")


# nomic-embed-text

NOMIC = {
    "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "activation_function": "swiglu", "causal": False,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}, "n_embd": WIDTH,
    "n_head": HEADS, "n_inner": 96, "n_layer": LAYERS, "n_positions": 130, "layer_norm_epsilon": 1e-12,
    "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "vocab_size": 100,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "type_vocab_size": 2,
    "rotary_scaling_factor": None, "parallel_block": False, "use_rms_norm": False, "pad_token_id": 1,
}  # fmt: skip


def nomic(folder, settings):
    """A model in the names of Nomic's own code."""
    from transformers import NomicBertConfig, NomicBertModel

    sizes = SIZES | {"type_vocab_size": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}
    model = randomised(NomicBertModel(NomicBertConfig(**sizes)))
    model.save_pretrained(folder)
    assert "encoder.layers.0.attn.Wqkv.weight" in load_file(folder / "model.safetensors")
    write_tokenizer(folder)
    write_json(folder / "config.json", settings)
    return model


def test_nomic_is_run_by_transformers_own_code(tmp_path):
    model = nomic(tmp_path, NOMIC)
    embedder = load(tmp_path)
    assert (embedder.identity.pooling, embedder.identity.max_length) == ("mean", 130)
    assert_same_vectors(embedder, states_of(model, embedder))


def test_nomic_with_experts_needs_its_own_code(tmp_path):
    nomic(tmp_path, NOMIC | {"moe_every_n_layers": 2, "num_experts": 8})
    with pytest.raises(ModelError, match="of the type 'nomic_bert', which transformers .* cannot run with these"):
        load(tmp_path)
