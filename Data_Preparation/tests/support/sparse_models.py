"""Small sparse models with random weights, in the files that their makers publish."""

from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from support.model_families import MAX_LENGTH, letters, write_json, write_modules, write_tokenizer
from torch import nn

from data_pipeline.embeddings import Identity, tokenizer_sha256
from data_pipeline.embeddings.sparse.encoder import SparseEncoder
from data_pipeline.embeddings.sparse.towers import TableTower

_MODULES = "sentence_transformers.sparse_encoder.models"
USAGE = {"model_type": "SparseEncoder"}
"""What config_sentence_transformers.json says of every sparse model."""
_WORDS = letters().get_vocab_size()
_SIZES = {
    "vocab_size": _WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 130, "pad_token_id": 1,
}  # fmt: skip


def write_masked_model(folder: Path) -> Path:
    """Write a masked language model and its tokenizer, without the files of sentence-transformers."""
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**_SIZES))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        model.cls.predictions.bias.normal_(-1.0, 1.0)  # so that about half of the words have no weight
    model.save_pretrained(folder)
    write_tokenizer(folder, "<s> $A </s>")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    return folder


def write_splade(folder: Path, **pooling: str) -> Path:
    """Write a SPLADE model, as sentence-transformers does."""
    write_masked_model(folder)
    write_json(folder / "config_sentence_transformers.json", USAGE)
    write_json(folder / "1_SpladePooling" / "config.json", {"embedding_dimension": _WORDS, **pooling})
    write_modules(folder, [("", "MLMTransformer"), ("1_SpladePooling", "SpladePooling")], _MODULES)
    return folder


def write_routed_splade(folder: Path) -> Path:
    """Write a SPLADE model whose queries are looked up in a table of weights."""
    kinds = {
        "query_0_SparseStaticEmbedding": "SparseStaticEmbedding",
        "document_0_MLMTransformer": "MLMTransformer",
        "document_1_SpladePooling": "SpladePooling",
    }
    write_json(folder / "config_sentence_transformers.json", USAGE)
    write_modules(folder, [("", "Router")], "sentence_transformers.models")
    write_json(folder / "router_config.json", {
        "types": {name: f"{_MODULES}.{kind}" for name, kind in kinds.items()},
        "structure": {
            "query": ["query_0_SparseStaticEmbedding"],
            "document": ["document_0_MLMTransformer", "document_1_SpladePooling"],
        },
        "parameters": {"default_route": "document", "allow_empty_key": True},
    })  # fmt: skip
    write_masked_model(folder / "document_0_MLMTransformer")
    write_json(
        folder / "document_1_SpladePooling" / "config.json", {"pooling_strategy": "max", "embedding_dimension": _WORDS}
    )
    table = folder / "query_0_SparseStaticEmbedding"
    write_json(table / "config.json", {"frozen": False})
    write_tokenizer(table, "<s> $A </s>")
    weights = torch.rand(_WORDS, generator=torch.Generator().manual_seed(1))
    weights[9] = 0.0  # the letter e says nothing
    save_file({"weight": weights}, table / "model.safetensors")
    return folder


def write_token_weights(folder: Path, safe: bool = False) -> Path:
    """Write a model in the files of BGE-M3: a dense model, and a linear layer that weights its tokens."""
    torch.manual_seed(0)
    model = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**_SIZES))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_tokenizer(folder, "<s> $A </s>")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls", "word_embedding_dimension": 32})
    write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
    linear = nn.Linear(32, 1)
    nn.init.constant_(linear.bias, 0.3)
    if safe:
        save_file(linear.state_dict(), folder / "sparse_linear.safetensors")
    else:
        torch.save(linear.state_dict(), folder / "sparse_linear.pt")
    return folder


def table_encoder(model: str = "table") -> SparseEncoder:
    """A sparse encoder without a transformer: every word of a tokenizer of letters has a weight."""
    tokenizer = letters()
    width = tokenizer.get_vocab_size()
    weights = np.random.default_rng(0).uniform(0.1, 3, width).astype(np.float32)
    identity = Identity(
        model, "1", "table", normalized=False, dtype="float32", dim=width, max_length=0, prompt="",
        tokenizer=tokenizer_sha256(tokenizer),
    )  # fmt: skip
    tower = TableTower(weights, tokenizer)
    return SparseEncoder(identity, "", tower, tower)
