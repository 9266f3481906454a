"""What the card of a model changes in what its files say."""

import json
import logging

import pytest
from support.model_families import FAMILIES, write_family, write_json, write_transformer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import encode, load_embedder
from data_pipeline.embeddings.recipes.card_rules import complete_recipe
from data_pipeline.embeddings.recipes.recipe import read_recipe
from data_pipeline.errors import ModelError

E5 = "intfloat/e5-base-v2"


def recipe_of(folder, name, pooling="auto"):
    return complete_recipe(name, folder, read_recipe(folder, 10**30, pooling), pooling)


@pytest.fixture
def bert(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "bert", "max_position_embeddings": 512})
    return tmp_path


def test_the_card_gives_the_prefixes_that_the_files_do_not_carry(bert, caplog):
    caplog.set_level(logging.INFO)
    recipe = recipe_of(bert, E5)
    assert (recipe.prompt, recipe.query_prompt, recipe.pooling) == ("passage: ", "query: ", "mean")
    assert f"{E5} (the name {E5}): prompt 'passage: ', which the files do not say" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_card_wins_over_the_files_of_a_model_with_its_name(bert, caplog):
    write_json(bert / "config_sentence_transformers.json", {"prompts": {"query": "q: ", "document": "d: "}})
    recipe = recipe_of(bert, E5)
    assert (recipe.prompt, recipe.query_prompt) == ("passage: ", "query: ")
    assert "the card says query_prompt 'query: ', the files 'q: '; the card's is used" in caplog.text


def test_a_fine_tune_keeps_what_its_own_files_say_and_gets_the_rest(bert, caplog):
    caplog.set_level(logging.INFO)
    write_json(bert / "config.json", {"model_type": "bert", "_name_or_path": E5})
    write_json(bert / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    recipe = recipe_of(bert, str(bert))
    assert (recipe.prompt, recipe.query_prompt) == ("passage: ", "q: ")
    assert "config.json names intfloat/e5-base-v2 as _name_or_path" in caplog.text


def test_the_config_wins_over_the_card(bert):
    assert recipe_of(bert, "BAAI/bge-base-en-v1.5").pooling == "cls"
    assert recipe_of(bert, "BAAI/bge-base-en-v1.5", "mean").pooling == "mean"


def test_the_length_of_the_card_holds_within_the_models_positions(bert):
    write_json(bert / "sentence_bert_config.json", {"max_seq_length": 128})
    assert recipe_of(bert, E5).max_length == 512
    write_json(bert / "config.json", {"model_type": "bert", "max_position_embeddings": 300})
    assert recipe_of(bert, E5).max_length == 300


def test_a_model_for_dot_products_keeps_its_lengths(bert):
    assert not recipe_of(bert, "facebook/contriever").normalize
    assert recipe_of(bert, E5).normalize


def test_what_is_assumed_of_an_unknown_model_is_said(bert, caplog):
    recipe = recipe_of(bert, "someone/own-model")
    assert (recipe.pooling, recipe.prompt) == ("mean", "")
    assert "someone/own-model is not in the table of models" in caplog.text
    assert "assuming mean pooling, no prompts and at most 512 tokens" in caplog.text


def test_a_default_prompt_is_added_to_neither_documents_nor_queries_and_that_is_said(bert, caplog):
    usage = {"prompts": {"search": "search: "}, "default_prompt_name": "search"}
    write_json(bert / "config_sentence_transformers.json", usage)
    recipe = recipe_of(bert, "someone/own-model")
    assert (recipe.prompt, recipe.query_prompt, recipe.default_prompt) == ("", "", "search: ")
    assert "its files have the default prompt 'search: ', which is for texts of any kind" in caplog.text


def test_a_model_that_says_itself_how_it_is_used_needs_no_warning(tmp_path, caplog):
    write_family("bert, prompts (E5)", tmp_path)
    embedder = load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))
    assert embedder.identity.prompt == "passage: "
    assert "assuming" not in caplog.text


def test_a_folder_made_from_e5_is_embedded_with_its_prefixes(tmp_path):
    write_transformer(FAMILIES["bert, mean (MiniLM)"], tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", settings | {"_name_or_path": E5})
    embedder = load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))
    assert (embedder.identity.prompt, embedder.query_prompt) == ("passage: ", "query: ")
    plain = load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu", prompt="", query_prompt=""))
    assert (encode(embedder, ["a cat"]) == encode(plain, ["passage: a cat"])).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("colbert-ir/colbertv2.0", "colbert-ir/colbertv2.0 cannot be run by this package"),
        ("jinaai/jina-embeddings-v2-base-en", "only with the Python code that comes with it.*trust_remote_code"),
    ],
)
def test_a_model_that_cannot_give_its_own_vectors_is_refused_before_a_download(name, message, monkeypatch):
    monkeypatch.setattr("data_pipeline.embeddings.load.find_model", lambda *_: pytest.fail("looked for the files"))
    with pytest.raises(ModelError, match=message):
        load_embedder(EmbeddingConfig(model_name=name))


def test_a_fine_tune_of_a_model_with_code_of_its_own_is_refused_where_it_has_that_code(tmp_path):
    write_transformer(FAMILIES["bert, mean (MiniLM)"], tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"_name_or_path": "jinaai/jina-embeddings-v2-base-en"}
    write_json(tmp_path / "config.json", settings)
    load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))  # trained without that code
    write_json(tmp_path / "config.json", settings | {"auto_map": {"AutoModel": "modeling_own.Own"}})
    with pytest.raises(ModelError, match="only with the Python code that comes with it"):
        load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu"))


def test_a_cut_that_the_model_was_not_trained_for_is_warned_about(tmp_path, caplog):
    write_transformer(FAMILIES["bert, mean (MiniLM)"], tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", settings | {"_name_or_path": E5})
    load_embedder(EmbeddingConfig(model_name=str(tmp_path), device="cpu", dim=32))
    assert "was not trained to be cut to 32 dimensions (sizes of intfloat/e5-base-v2: none)" in caplog.text
