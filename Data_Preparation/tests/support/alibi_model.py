"""A small encoder with ALiBi that only its own Python code runs, in the files of jina-embeddings-v2."""

from pathlib import Path

import torch
from support.model_families import CLS, MAX_LENGTH, WIDTH, write_json, write_modules, write_tokenizer

CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class AlibiConfig(PretrainedConfig):
    model_type = "alibi-bert"

    def __init__(self, vocab_size=100, hidden_size=64, num_attention_heads=4, num_hidden_layers=2, **others):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_attention_heads, self.num_hidden_layers = num_attention_heads, num_hidden_layers
        super().__init__(**others)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, width = config.num_attention_heads, config.hidden_size
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gated, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, bias):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
        x = self.norm1(x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        gate, up = self.gated(x).chunk(2, dim=-1)
        return self.norm2(x + self.down(nn.functional.gelu(gate) * up))


class AlibiModel(PreTrainedModel):
    config_class = AlibiConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **others):
        positions = torch.arange(input_ids.shape[1])
        slopes = 2.0 ** -torch.arange(1, self.config.num_attention_heads + 1)
        bias = -slopes[:, None, None] * (positions[:, None] - positions).abs()
        if attention_mask is not None:
            bias = bias + (1.0 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(x, bias)
        return BaseModelOutput(last_hidden_state=x)
"""


def write_alibi_model(folder: Path) -> None:
    """Write the model, its code and its modules."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    folder.mkdir(exist_ok=True)
    (folder / "modeling_alibi.py").write_text(CODE)
    names = {"AutoConfig": "modeling_alibi.AlibiConfig", "AutoModel": "modeling_alibi.AlibiModel"}
    write_json(folder / "config.json", {
        "model_type": "alibi-bert", "architectures": ["AlibiModel"], "auto_map": names, "hidden_size": WIDTH,
    })  # fmt: skip
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, trust_remote_code=True)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, "<s> $A </s>")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **CLS})
    write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling")])
