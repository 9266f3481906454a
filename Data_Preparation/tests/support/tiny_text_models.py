"""Tiny random models of three kinds with a tokenizer of letters, as folders."""

import string

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES += string.ascii_lowercase
PIECES += [f"##{letter}" for letter in string.ascii_lowercase]
SIZES = {
    "vocab_size": len(PIECES), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip

TEXTS = ["a cat", "the lighthouse keeper counted ships", "x", "water boils", "a cat", "q r"]


def save_tokenizer(folder, special=True):
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if special:
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def save(model, folder, special=True):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    save_tokenizer(folder, special)
    return str(folder)


def causal(folder, **settings):
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, **{"bos_token_id": 2, **settings})
    return save(Qwen3ForCausalLM(config), folder, special=False)


def masked(folder):
    return save(BertForMaskedLM(BertConfig(**SIZES)), folder)


def classifier(folder, **settings):
    return save(BertForSequenceClassification(BertConfig(**SIZES, **{"num_labels": 3, **settings})), folder)
