"""Small models with random weights, and texts for them, as several tests of this folder need them."""

import string

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from data_pipeline.embeddings.tokens import from_rows
from data_pipeline.embeddings.transformer.pooling import Pooling
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers

SIZES = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def randomised(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def bert():
    return randomised(BertModel(BertConfig(**SIZES)))


def save_bert(folder):
    """A random BERT of two layers, and a tokenizer of letters."""
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    bert().save_pretrained(folder)


def pooled_by(name):
    """Layers of a model that ends with a pooling."""
    return SentenceLayers(Pooling(tuple(name.split("+"))), nn.Sequential())


def texts_of(*lengths):
    generator = np.random.default_rng(0)
    return from_rows([generator.integers(5, 100, length) for length in lengths], [False] * len(lengths))
