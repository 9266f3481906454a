import json

import pytest

from data_pipeline.embeddings.recipes.recipe import read_recipe
from data_pipeline.errors import ModelError

NO_LIMIT = 10**30  # what transformers says for a tokenizer without one


def model(folder, config, pooling=None, modules=("Transformer", "Pooling", "Normalize"), **files):
    """Write the files of a model; `pooling` and `modules` make it a sentence-transformers one."""

    def write(name, content):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    write("config.json", config)
    if pooling is not None:
        kinds = enumerate(modules)
        write("modules.json", [
            {"idx": n, "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
            for n, kind in kinds
        ])  # fmt: skip
        write("1_Pooling/config.json", {"word_embedding_dimension": 8, **pooling})
    for name, content in files.items():
        write(f"{name}.json", content)
    return folder


def flags(**on):
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {f"pooling_mode_{name}": False for name in names} | {f"pooling_mode_{name}": True for name in on}


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        (flags(lasttoken=1), "last_token"),
        (flags(cls_token=1), "cls"),
        (flags(mean_tokens=1), "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last_token"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
    ],
)
def test_pooling_is_what_the_models_own_files_say(tmp_path, said, pooling):
    # A family that pools otherwise, so that the files must have been read.
    family = "bert" if pooling != "mean" else "qwen2"
    assert read_recipe(model(tmp_path, {"model_type": family}, said), NO_LIMIT, "auto").pooling == pooling


@pytest.mark.parametrize(
    ("said", "pooling", "include_prompt"),
    [
        (flags(max_tokens=1), "max", True),
        (flags(mean_tokens=1, cls_token=1, weightedmean_tokens=1), "cls+mean+weighted_mean", True),
        ({"pooling_mode": ["weightedmean", "mean_sqrt_len_tokens"]}, "weighted_mean+mean_sqrt_len", True),
        (flags(), "mean", True),
        (flags(mean_tokens=1) | {"include_prompt": False}, "mean", False),
    ],
)
def test_poolings_may_be_combined_and_leave_the_prompt_out(tmp_path, said, pooling, include_prompt):
    recipe = read_recipe(model(tmp_path, {"model_type": "qwen2"}, said), NO_LIMIT, "auto")
    assert (recipe.pooling, recipe.include_prompt) == (pooling, include_prompt)


def test_an_unknown_pooling_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has the pooling 'median'; expected one or several of cls, max, mean"):
        read_recipe(model(tmp_path, {"model_type": "bert"}, {"pooling_mode": "median"}), NO_LIMIT, "auto")


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("qwen3", "last_token"), ("qwen2", "last_token"), ("mistral", "last_token"), ("llama", "last_token"),
        ("bert", "mean"), ("distilbert", "mean"), ("roberta", "mean"), ("xlm-roberta", "mean"), ("mpnet", "mean"),
        ("modernbert", "mean"), ("gte", "cls"), ("new", "cls"),
    ],
)  # fmt: skip
def test_a_known_family_needs_no_files(tmp_path, family, pooling):
    assert read_recipe(model(tmp_path, {"model_type": family}), NO_LIMIT, "auto").pooling == pooling


def test_the_mean_is_assumed_for_an_unknown_family_and_marked_as_assumed(tmp_path):
    recipe = read_recipe(model(tmp_path, {"model_type": "mamba"}), NO_LIMIT, "auto")
    assert (recipe.pooling, "pooling" in recipe.assumed) == ("mean", True)
    stated = read_recipe(tmp_path, NO_LIMIT, "cls")
    assert (stated.pooling, "pooling" in stated.assumed) == ("cls", False)


def test_the_config_wins_over_the_files(tmp_path):
    folder = model(tmp_path, {"model_type": "bert"}, flags(mean_tokens=1))
    assert read_recipe(folder, NO_LIMIT, "last_token").pooling == "last_token"


def test_prompts_are_the_models_own(tmp_path):
    prompts = {"prompts": {"query": "search: ", "document": "text: "}}
    recipe = read_recipe(
        model(tmp_path, {"model_type": "bert"}, config_sentence_transformers=prompts), NO_LIMIT, "auto"
    )
    assert (recipe.prompt, recipe.query_prompt) == ("text: ", "search: ")


def test_e5_calls_its_documents_passages(tmp_path):
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    recipe = read_recipe(
        model(tmp_path, {"model_type": "bert"}, config_sentence_transformers=prompts), NO_LIMIT, "auto"
    )
    assert recipe.prompt == "passage: "


def test_without_prompts_there_are_none_but_for_qwen3(tmp_path):
    bert = read_recipe(model(tmp_path, {"model_type": "bert"}), NO_LIMIT, "auto")
    assert (bert.prompt, bert.query_prompt, bert.end_token, bert.min_dim) == ("", "", None, 1)
    qwen3 = read_recipe(model(tmp_path, {"model_type": "qwen3"}), NO_LIMIT, "auto")
    assert qwen3.query_prompt == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    )
    assert (qwen3.prompt, qwen3.end_token, qwen3.min_dim) == ("", "<|endoftext|>", 32)


@pytest.mark.parametrize(
    ("config", "said", "tokenizer_limit", "max_length"),
    [
        ({"max_position_embeddings": 512}, {"max_seq_length": 256}, 384, 256),
        ({"max_position_embeddings": 512}, {}, 384, 384),
        ({"max_position_embeddings": 512}, {"max_seq_length": None}, NO_LIMIT, 512),
        ({"max_position_embeddings": 32768}, {"max_seq_length": 40960}, NO_LIMIT, 32768),
        ({}, {}, NO_LIMIT, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, {}, NO_LIMIT, 512),
        ({"model_type": "gte", "max_position_embeddings": 8192}, {"max_seq_length": 8192}, 32768, 8192),
    ],
)
def test_the_maximum_length_is_the_least_of_all_that_are_known(tmp_path, config, said, tokenizer_limit, max_length):
    folder = model(tmp_path, {"model_type": "bert", **config}, sentence_bert_config=said)
    assert read_recipe(folder, tokenizer_limit, "auto").max_length == max_length


@pytest.mark.parametrize(
    ("name", "normalize"), [("cosine", True), ("dot", False), ("euclidean", False), ("manhattan", False), (None, True)]
)
def test_vectors_keep_their_length_where_their_comparison_sees_it(tmp_path, name, normalize):
    usage = {"similarity_fn_name": name, "truncate_dim": 4}
    recipe = read_recipe(model(tmp_path, {"model_type": "bert"}, config_sentence_transformers=usage), NO_LIMIT, "auto")
    assert (recipe.normalize, recipe.default_dim) == (normalize, 4)


def test_only_the_8b_model_is_known_to_overflow_float16(tmp_path):
    sizes = {1024: False, 2560: False, 4096: True}
    for hidden_size, overflows in sizes.items():
        config = {"model_type": "qwen3", "hidden_size": hidden_size}
        assert read_recipe(model(tmp_path, config), NO_LIMIT, "auto").fp16_overflows is overflows


def test_a_file_that_is_not_json_is_named(tmp_path):
    model(tmp_path, {"model_type": "bert"})
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(ModelError, match=r"modules.json cannot be read"):
        read_recipe(tmp_path, NO_LIMIT, "auto")
