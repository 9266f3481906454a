import re
import subprocess
import sys

import pytest

from data_pipeline.embeddings.recipes import load_table, parse_table
from data_pipeline.errors import ModelError

TABLE = load_table()
WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
SENTENCE = "Represent this sentence for searching relevant passages: "
PROMPTS = {
    "intfloat/e5-base-v2": ("passage: ", "query: "),
    "intfloat/multilingual-e5-small": ("passage: ", "query: "),
    "intfloat/multilingual-e5-large-instruct": ("", f"{WEB_SEARCH} "),
    "intfloat/e5-mistral-7b-instruct": ("", f"{WEB_SEARCH} "),
    "BAAI/bge-small-en-v1.5": ("", SENTENCE),
    "BAAI/bge-base-zh-v1.5": ("", "为这个句子生成表示以用于检索相关文章："),
    "BAAI/bge-m3": ("", ""),
    "BAAI/llm-embedder": (
        "Represent this document for retrieval: ",
        "Represent this query for retrieving relevant documents: ",
    ),
    "nomic-ai/nomic-embed-text-v1.5": ("search_document: ", "search_query: "),
    "nomic-ai/modernbert-embed-base": ("search_document: ", "search_query: "),
    "mixedbread-ai/mxbai-embed-large-v1": ("", SENTENCE),
    "mixedbread-ai/mxbai-embed-xsmall-v1": ("", ""),
    "Snowflake/snowflake-arctic-embed-m": ("", SENTENCE),
    "Snowflake/snowflake-arctic-embed-l-v2.0": ("", "query: "),
    "Qwen/Qwen3-Embedding-0.6B": ("", WEB_SEARCH),
    "google/embeddinggemma-300m": ("title: none | text: ", "task: search result | query: "),
    "jinaai/jina-embeddings-v2-base-en": ("", ""),
    "sentence-transformers/all-MiniLM-L6-v2": ("", ""),
    "cl-nagoya/ruri-v3-310m": ("検索文書: ", "検索クエリ: "),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_exact_to_the_last_space(name):
    card = TABLE[name]
    assert (card.document_prompt, card.query_prompt) == PROMPTS[name]


@pytest.mark.parametrize(
    ("name", "pooling", "dim", "max_length"),
    [
        ("intfloat/e5-base-v2", "mean", 768, 512),
        ("BAAI/bge-large-en-v1.5", "cls", 1024, 512),
        ("BAAI/bge-m3", "cls", 1024, 8192),
        ("nomic-ai/nomic-embed-text-v1.5", "mean", 768, 8192),
        ("nomic-ai/nomic-embed-text-v2-moe", "mean", 768, 512),
        ("mixedbread-ai/mxbai-embed-large-v1", "cls", 1024, 512),
        ("Qwen/Qwen3-Embedding-4B", "last_token", 2560, 32768),
        ("google/embeddinggemma-300m", "mean", 768, 2048),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "last_token", 1536, 32768),
        ("sentence-transformers/LaBSE", "cls", 768, 256),
    ],
)
def test_pooling_and_sizes(name, pooling, dim, max_length):
    card = TABLE[name]
    assert (card.pooling, card.dim, card.max_length) == (pooling, dim, max_length)


def test_other_facts_of_some_models():
    assert TABLE["nomic-ai/nomic-embed-text-v1"].prompts == {
        "classification": "classification: ",
        "clustering": "clustering: ",
    }
    gemma = TABLE["google/embeddinggemma-300m"]
    assert gemma.prompts["similarity"] == "task: sentence similarity | query: "
    assert gemma.fp16_overflows
    assert gemma.mrl == (512, 256, 128)
    qwen = TABLE["Qwen/Qwen3-Embedding-8B"]
    assert (qwen.end_token, qwen.fp16_overflows) == ("<|endoftext|>", True)
    assert len(qwen.notes) == 4  # those of the family, and its own
    assert not TABLE["Qwen/Qwen3-Embedding-0.6B"].fp16_overflows
    assert not TABLE["hkunlp/instructor-large"].include_prompt
    assert TABLE["jinaai/jina-embeddings-v2-base-en"].remote_code
    for name in ("jxm/cde-small-v2", "jinaai/jina-colbert-v2", "nvidia/NV-Embed-v2"):
        assert TABLE[name].refused
    assert TABLE["intfloat/e5-base-v2"].card == "https://huggingface.co/intfloat/e5-base-v2"
    # An entry that was read on its card has the card for its source, whatever its family has.
    assert TABLE["nomic-ai/nomic-embed-text-v2-moe"].source == TABLE["nomic-ai/nomic-embed-text-v2-moe"].card


def test_the_table_is_large_and_honest():
    assert len(TABLE) >= 60
    assert len({card.family for card in TABLE.values()}) >= 30
    unconfirmed = [name for name, card in TABLE.items() if card.checked == "unconfirmed"]
    assert len(unconfirmed) < len(TABLE) / 4
    for name, card in TABLE.items():
        assert card.checked != "secondary" or card.source != card.card, f"{name}: what was read?"
        assert not re.search(r"\s\s", card.about), name


@pytest.mark.parametrize("name", [name for name, card in TABLE.items() if card.refused is None])
def test_every_prompt_ends_as_texts_can_follow(name):
    """A prefix ends in a space or a line end; exceptions are those of the cards."""
    card = TABLE[name]
    for prompt in (card.document_prompt, card.query_prompt, *card.prompts.values()):
        assert not prompt or prompt[-1] in " \n" or prompt.endswith(("Query:", "<query>", "："))
        assert prompt == prompt.lstrip()


def test_the_table_needs_neither_torch_nor_transformers():
    code = (
        "import sys; from data_pipeline.embeddings.recipes import find_card; find_card('BAAI/bge-m3');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def one(**fields):
    """A table with one model, as YAML."""
    lines = {"about": "x", "checked": "card", "dim": 8, **fields}
    body = "\n".join(f"    {key}: {value}" for key, value in lines.items())
    return f"families:\n  f:\n{body}\n    models:\n      a/b: {{}}\n"


def test_a_model_overrides_its_family():
    text = one(pooling="mean", document_prompt='"p: "', notes='["first"]').replace(
        "a/b: {}", 'a/b: {pooling: cls, document_prompt: "", notes: ["second"]}\n      a/c:'
    )
    first, second = parse_table(text).values()
    assert (first.pooling, first.document_prompt, first.notes) == ("cls", "", ("first", "second"))
    assert (second.pooling, second.document_prompt, second.notes) == ("mean", "p: ", ("first",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (one(poling="mean"), "family f, model a/b: poling: Extra inputs are not permitted"),
        (one(pooling="average"), "'average' must be one or more of last_token, cls"),
        (one(pooling="cls+cls"), "joined by '+'"),
        (one(dim='"768"'), "dim: Input should be a valid integer"),
        (one(dim=-1), "dim: Input should be greater than 0"),
        (one(dim="null"), "dim is missing; only a refused model may lack it"),
        (one(mrl="[4, 8]"), "mrl [4, 8] must be positive, in descending order and below dim 8"),
        (one(normalize='"yes"'), "normalize: Input should be a valid boolean"),
        (one(prompts='{a: ""}'), "the prompts a are empty"),
        (one(checked="rumour"), "checked"),
        (one(source="http://x"), "source"),
        (one(refused='""'), "refused: Value error, must not be empty"),
        (one().replace("a/b", "ab"), "name: String should match pattern"),
        (one() + "      A/B: {}\n", "A/B is in the table already"),
        (one().replace("a/b: {}", "a/b: 3"), "must be a mapping of fields to values, found 3"),
        ("families: []", "must be a mapping with the key 'families'"),
        ("families:\n  f: {about: x}", "family f must be a mapping with the key 'models'"),
        ("families: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(text, said):
    with pytest.raises(ModelError) as caught:
        parse_table(text)
    assert said in str(caught.value)


def test_combined_pooling_is_accepted():
    (card,) = parse_table(one(pooling="cls+mean")).values()
    assert card.pooling == "cls+mean"
