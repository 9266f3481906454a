"""Against the recipe on the model card of Qwen3-Embedding, written out as it stands there."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import base, encode, load_embedder
from data_pipeline.embeddings.recipes.recipe import read_recipe
from data_pipeline.embeddings.transformer import embedder as transformer
from data_pipeline.embeddings.transformer import loading
from data_pipeline.embeddings.transformer.loading import choose_device, choose_dtype
from data_pipeline.errors import ConfigError, ModelError, ShardMismatchError
from data_pipeline.stages.embed import embed_split
from data_pipeline.stages.pipeline import prepare_paragraphs
from data_pipeline.store import ParagraphStore

END = 151_643  # <|endoftext|>


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """The tokenizer, whose file has 11 MB, is read and hashed once a folder."""
    read, hashed = {}, {}
    read_tokenizer = loading.load_tokenizer

    def load_tokenizer(files, config):
        if files.folder not in read:
            read[files.folder] = read_tokenizer(files, config)
        return read[files.folder]

    def tokenizer_sha256(tokenizer):
        if id(tokenizer) not in hashed:
            hashed[id(tokenizer)] = base.tokenizer_sha256(tokenizer)
        return hashed[id(tokenizer)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_tokenizer", load_tokenizer)
        patch.setattr(transformer, "tokenizer_sha256", tokenizer_sha256)
        yield


@pytest.fixture(scope="module")
def embedder(tiny_qwen3):
    return load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3)))


@pytest.fixture
def texts(shared):
    lines = (shared / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line) > 20 and not line.startswith(" =")][:40]


def card_vectors(folder, texts):
    def last_token_pool(last_hidden_states, attention_mask):
        left_padding = attention_mask[:, -1].sum() == attention_mask.shape[0]
        if left_padding:
            return last_hidden_states[:, -1]
        sequence_lengths = attention_mask.sum(dim=1) - 1
        batch_size = last_hidden_states.shape[0]
        return last_hidden_states[torch.arange(batch_size), sequence_lengths]

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModel.from_pretrained(folder)
    vectors = []
    for start in range(0, len(texts), 8):
        batch = tokenizer(texts[start : start + 8], padding=True, truncation=True, max_length=8192, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**batch)
        pooled = last_token_pool(outputs.last_hidden_state, batch["attention_mask"])
        vectors.append(torch.nn.functional.normalize(pooled, p=2, dim=1).numpy())
    return np.concatenate(vectors)


def test_documents_get_the_vectors_of_the_model_card(embedder, tiny_qwen3, texts):
    assert len(texts) == 40
    expected = card_vectors(tiny_qwen3, texts)
    # A model that gave every text the same vector would pass any comparison.
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(encode(embedder, texts, batch_size=8), expected, atol=1e-5)


def test_queries_are_instructed_as_on_the_model_card(embedder, tiny_qwen3):
    task = "Given a web search query, retrieve relevant passages that answer the query"
    queries = ["What is the capital of China?", "Explain gravity"]
    instructed = [f"Instruct: {task}\nQuery:{query}" for query in queries]
    np.testing.assert_allclose(encode(embedder, queries, query=True), card_vectors(tiny_qwen3, instructed), atol=1e-5)
    assert embedder.query_prompt.endswith("\nQuery:")
    assert embedder.identity.prompt == ""


def test_packed_padded_and_alone_are_the_same(embedder, tiny_qwen3, texts):
    alone = np.concatenate([encode(embedder, [text]) for text in texts])
    together = encode(embedder, texts, batch_tokens=10**6)
    by_length = encode(embedder, texts, batch_size=4)
    reversed_ = encode(embedder, texts[::-1], batch_tokens=500)[::-1]
    # Packed vectors depend on nothing but their texts.
    assert not embedder.runtime.batch_dependent
    for vectors in (together, by_length, reversed_):
        np.testing.assert_array_equal(vectors, alone)
    padded = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), attention="padded"))
    np.testing.assert_allclose(encode(padded, texts), alone, atol=1e-5)
    np.testing.assert_allclose(encode(padded, texts, batch_tokens=1), alone, atol=1e-5)


def test_every_text_ends_in_the_end_token_cut_or_not(embedder, tiny_qwen3, texts):
    texts = ["", "short", *texts, "word " * 5000]
    short = load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), max_length=16, dim=32))
    lengths = [len(embedder.tokenizer.encode(text).ids) for text in texts]
    # The model takes 4,096 positions, whatever is asked for.
    assert (embedder.identity.max_length, short.identity.max_length) == (4096, 16)
    for one, most in ((embedder, 4096), (short, 16)):
        tokens = one.tokenize(texts)
        assert {int(tokens.row(row)[-1]) for row in range(len(texts))} == {END}
        assert tokens.row(0).tolist() == [END]
        assert tokens.lengths.tolist() == [min(length, most) for length in lengths]
        assert tokens.truncated.tolist() == [length > most for length in lengths]


def test_a_tokenizer_that_appends_no_end_token_is_refused(tiny_qwen3, tmp_path):
    folder = tmp_path / "old-tokenizer"
    shutil.copytree(tiny_qwen3, folder)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=r"must end every text with <\|endoftext\|> \(id 151643\); it appends \[\]"):
        load_embedder(EmbeddingConfig(model_name=str(folder)))


def test_mrl_keeps_the_leading_dimensions_and_normalises_again(embedder, tiny_qwen3, texts):
    full = encode(embedder, texts)
    assert full.shape == (40, 64)
    short = encode(load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), dim=32)), texts)
    leading = full[:, :32]
    np.testing.assert_allclose(short, leading / np.linalg.norm(leading, axis=1, keepdims=True), atol=1e-6)


def test_a_dimension_the_model_was_not_trained_for_is_refused(tiny_qwen3):
    with pytest.raises(ConfigError, match=r"embedding.dim 16: .* gives 32 to 64 dimensions"):
        load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), dim=16))


def test_without_normalisation_vectors_keep_their_lengths(embedder, tiny_qwen3, texts):
    raw = encode(load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), normalize=False)), texts)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(raw / lengths, encode(embedder, texts), atol=1e-5)


@pytest.mark.slow
def test_a_count_that_is_not_the_tokenizers_is_refused(config, embedder, tiny_qwen3):
    config = config.model_copy(update={"embedding": EmbeddingConfig(model_name=str(tiny_qwen3))})
    prepare_paragraphs(config)
    path = config.get_processed_path("test")

    def embed_it():
        return embed_split(ParagraphStore(path.parent), "test", embedder, config.embedding, config.embeddings_dir)

    rows = pl.read_parquet(path)
    assert embed_it().tally.tokens == rows["token_count"].sum() + len(rows)  # one end token each
    metadata = pq.read_metadata(path).metadata
    wrong = rows.with_columns(pl.col("token_count") + 1)
    pq.write_table(wrong.to_arrow().replace_schema_metadata(metadata), path)
    text_id, count = wrong["text_id"][0], wrong["token_count"][0]
    config.get_embeddings_path("test").unlink()
    with pytest.raises(
        ShardMismatchError, match=f"says that {text_id} has {count} tokens, its tokenizer finds {count - 1}"
    ):
        embed_it()


def test_attention_device_and_dtype_are_recorded(embedder):
    assert embedder.runtime.attention == "segments"
    assert embedder.identity.dtype == "float32"
    assert embedder.identity.pooling == "last_token"
    assert embedder.identity.revision.startswith("sha256:")


def test_flash_attention_asked_for_on_a_cpu_is_refused(tiny_qwen3):
    with pytest.raises(ConfigError, match=r"flash_attention_2 is not possible: the device is cpu.*Use auto\."):
        load_embedder(EmbeddingConfig(model_name=str(tiny_qwen3), device="cpu", attention="flash_attention_2"))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"embedding.device cuda:99: .*Use auto or cpu"):
        choose_device("cuda:99")


def test_auto_is_float32_on_cpu_and_float16_on_gpu_unless_the_model_overflows_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 2560}')
    small = read_recipe(tmp_path, 10**30, "auto").fp16_overflows
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 4096}')
    large = read_recipe(tmp_path, 10**30, "auto").fp16_overflows
    assert choose_dtype("auto", "cpu", large) == "float32"
    assert choose_dtype("auto", "cuda", small) == "float16"
    assert choose_dtype("auto", "cuda", large) == "bfloat16"
    assert choose_dtype("float16", "cuda", large) == "float16"
    assert choose_dtype("bfloat16", "cpu", small) == "bfloat16"
    with pytest.raises(ConfigError, match="float16 is for GPUs"):
        choose_dtype("float16", "cpu", small)


def test_beside_float8_everything_is_bfloat16():
    assert choose_dtype("auto", "cuda", fp16_overflows=True, fp8=True) == "bfloat16"
    assert choose_dtype("bfloat16", "cuda", fp16_overflows=False, fp8=True) == "bfloat16"
    for dtype in ("float16", "float32"):
        with pytest.raises(ConfigError, match=f"embedding.fp8 needs embedding.dtype auto or bfloat16, got {dtype}"):
            choose_dtype(dtype, "cuda", fp16_overflows=False, fp8=True)


def test_auto_takes_the_first_device_there_is(monkeypatch):
    assert choose_device("cpu") == "cpu"
    for cuda, mps, device in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda mps=mps: mps)
        assert choose_device("auto") == device
