"""Small models with random weights in the files of published families, for comparison with sentence-transformers.

Every builder writes the files that the makers of a family publish: transformers' config, weights and tokenizer, and
the modules of sentence-transformers.
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

WIDTH, MAX_LENGTH = 64, 100
TEXTS = [
    "a cat",
    "the lighthouse keeper counted the ships that passed before the fog came in from the north",
    "x",
    "Water boils at 100",
    "long " * 60,  # longer than the model reads
]
_LETTERS = string.ascii_lowercase + string.digits
_SIZES = {
    "vocab_size": 100, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_ENCODER = _SIZES | {"max_position_embeddings": 130, "pad_token_id": 1}
_DECODER = _SIZES | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 130, "pad_token_id": 1}
_MODULES = "sentence_transformers.models"

Pooling = Mapping[str, Any]
MEAN, CLS, LAST = ({"pooling_mode": mode} for mode in ("mean", "cls", "lasttoken"))


@dataclass(frozen=True)
class Family:
    """A family of models, and how its members are published."""

    architecture: str
    """Class of transformers; empty for a table of token vectors."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    pooling: Pooling = field(default_factory=lambda: MEAN)
    after: Sequence[Mapping[str, Any]] = ()
    """Modules behind the pooling: their kind and settings."""
    frame: str = "<s> $A </s>"
    """Special tokens around a text."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Content of config_sentence_transformers.json."""
    text_settings: Mapping[str, Any] = field(default_factory=dict)
    embedding: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this package that the family needs."""
    packs: bool = True
    """Whether texts can be computed without padding."""


def dense(out: int, activation: str = "torch.nn.modules.activation.Tanh", width: int = WIDTH, **more: Any) -> Any:
    """A Dense module."""
    settings = {"in_features": width, "out_features": out, "bias": True, "activation_function": activation} | more
    return {"kind": "Dense", "settings": settings}


NORMALIZE = {"kind": "Normalize", "settings": {}}
_IDENTITY = "torch.nn.modules.linear.Identity"
_PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}}
_T5 = {
    "vocab_size": 100, "d_model": WIDTH, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "pad_token_id": 1,
    "decoder_start_token_id": 1, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_GEMMA = _DECODER | {
    "sliding_window": 16, "use_bidirectional_attention": True, "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_PHI = {**_DECODER, "eos_token_id": 2, "bos_token_id": 0, "original_max_position_embeddings": 130}
_PHI = {name: value for name, value in _PHI.items() if name != "head_dim"}

FAMILIES: dict[str, Family] = {
    "bert, mean (MiniLM)": Family("BertModel", _ENCODER, MEAN, [NORMALIZE]),
    "bert, cls (BGE)": Family("BertModel", _ENCODER, CLS, [NORMALIZE]),
    "bert, prompts (E5)": Family("BertModel", _ENCODER, MEAN, [NORMALIZE], usage=_PROMPTS),
    "bert, cls and Dense (LaBSE)": Family("BertModel", _ENCODER, CLS, [dense(WIDTH), NORMALIZE]),
    "bert, max": Family("BertModel", _ENCODER, {"pooling_mode_max_tokens": True}),
    "bert, mean and square root": Family("BertModel", _ENCODER, {"pooling_mode_mean_sqrt_len_tokens": True}),
    "bert, several poolings": Family("BertModel", _ENCODER, {
        "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True,
    }, [dense(48, _IDENTITY, 3 * WIDTH)]),
    "bert, LayerNorm": Family("BertModel", _ENCODER, CLS, [dense(48, bias=False), {
        "kind": "LayerNorm", "settings": {"dimension": 48}}, NORMALIZE]),
    "bert, residual": Family("BertModel", _ENCODER, MEAN, [
        dense(WIDTH, use_residual=True), dense(32, use_residual=True)]),
    "bert, cut to a size": Family("BertModel", _ENCODER, usage={"truncate_dim": 24}),
    "bert, default prompt": Family("BertModel", _ENCODER, usage={
        "prompts": {"search": "search: "}, "default_prompt_name": "search"}),
    "bert, lower case": Family("BertModel", _ENCODER, text_settings={"do_lower_case": True}),
    "roberta (distilroberta)": Family("RobertaModel", _ENCODER, MEAN, [NORMALIZE]),
    "xlm-roberta (multilingual-e5)": Family("XLMRobertaModel", _ENCODER, MEAN, [NORMALIZE], usage=_PROMPTS),
    "camembert": Family("CamembertModel", _ENCODER),
    "mpnet": Family("MPNetModel", _ENCODER, MEAN, [NORMALIZE], packs=False),
    "distilbert (distiluse)": Family("DistilBertModel", {
        "vocab_size": 100, "dim": WIDTH, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "pad_token_id": 1,
        "max_position_embeddings": 130,
    }, MEAN, [dense(32)]),
    "albert": Family("AlbertModel", _ENCODER | {"embedding_size": 32}),
    "electra": Family("ElectraModel", _ENCODER | {"embedding_size": 32}),
    "deberta-v2": Family("DebertaV2Model", _ENCODER | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "type_vocab_size": 0,
        "norm_rel_ebd": "layer_norm", "share_att_key": True,
    }, CLS, packs=False),
    "modernbert (gte-modernbert)": Family("ModernBertModel", _ENCODER | {
        "local_attention": 16, "global_attn_every_n_layers": 2}, CLS, usage={"similarity_fn_name": "cosine"}),
    "nomic_bert": Family("NomicBertModel", _ENCODER, MEAN, usage=_PROMPTS),
    "gte (arctic-embed-m-v2.0)": Family("GteModel", _ENCODER, CLS, [NORMALIZE], usage=_PROMPTS),
    "eurobert": Family("EuroBertModel", _DECODER, MEAN),
    "jina_embeddings_v3": Family("JinaEmbeddingsV3Model", _ENCODER, MEAN, [NORMALIZE], embedding={"task": "base"}),
    "gemma3_text (EmbeddingGemma)": Family("Gemma3TextModel", _GEMMA, MEAN, [
        dense(96, _IDENTITY, bias=False), dense(WIDTH, _IDENTITY, 96, bias=False), NORMALIZE,
    ], "<s> $A </s>", {"prompts": {"query": "task: search result | query: ", "document": "title: none | text: "}}),
    "qwen2, causal": Family("Qwen2Model", _DECODER, LAST, [NORMALIZE], "$A </s>"),
    "qwen2, bidirectional (gte-Qwen2)": Family("Qwen2Model", _DECODER | {"is_causal": False}, LAST, [NORMALIZE],
                                               "$A </s>"),
    "qwen3 (Qwen3-Embedding)": Family("Qwen3Model", _DECODER, LAST, [NORMALIZE], "$A <|endoftext|>", {
        "prompts": {"query": "Instruct: find\nQuery:"}}),
    "mistral (e5-mistral)": Family("MistralModel", _DECODER | {"sliding_window": None}, LAST, [NORMALIZE],
                                   "<s> $A </s>"),
    "llama, causal": Family("LlamaModel", _DECODER, LAST, (), "<s> $A </s>"),
    "llama, bidirectional": Family("LlamaModel", _DECODER | {"is_causal": False}, MEAN, (), "<s> $A </s>"),
    "llama, weighted mean (SGPT)": Family("LlamaModel", _DECODER, {"pooling_mode": "weightedmean"}, (), "<s> $A </s>"),
    "phi3": Family("Phi3Model", _PHI, LAST, (), "$A </s>"),
    "t5, encoder (sentence-t5)": Family("T5EncoderModel", _T5, MEAN, [dense(WIDTH, _IDENTITY, bias=False), NORMALIZE],
                                        "$A </s>", packs=False),
    "t5, whole (gtr)": Family("T5Model", _T5, MEAN, [dense(WIDTH, _IDENTITY, bias=False), NORMALIZE], "$A </s>",
                              packs=False),
    "t5, prompt not pooled (INSTRUCTOR)": Family("T5EncoderModel", _T5, {"pooling_mode": "mean",
        "include_prompt": False}, [dense(WIDTH, _IDENTITY, bias=False), NORMALIZE], "$A </s>",
        {"prompts": {"query": "find a text for: ", "document": "index this: "}}, packs=False),
    "table (static-retrieval)": Family("", usage={"similarity_fn_name": "cosine"}),
    "table, Dense": Family("", after=[dense(32), NORMALIZE]),
}  # fmt: skip
"""Families by name."""


def write_family(name: str, folder: Path) -> Family:
    """Write the files of a family's small model."""
    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(sum(map(ord, name)))
    if family.architecture:
        write_transformer(family, folder)
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        pooling = {"word_embedding_dimension": WIDTH, **family.pooling}
        write_json(folder / "1_Pooling" / "config.json", pooling)
    else:
        write_table(folder / "0_StaticEmbedding")
        modules = [("0_StaticEmbedding", "StaticEmbedding")]
    for module in family.after:
        path = f"{len(modules)}_{module['kind']}"
        write_module(module["kind"], module["settings"], folder / path)
        modules.append((path, module["kind"]))
    write_modules(folder, modules)
    if family.usage:
        write_json(folder / "config_sentence_transformers.json", family.usage)
    return family


def write_transformer(family: Family, folder: Path) -> None:
    """Write a transformer with random weights, and a tokenizer of letters."""
    kind: Any = getattr(transformers, family.architecture)
    model = kind(kind.config_class(**family.settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    write_tokenizer(folder, family.frame)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, **family.text_settings})


def letters(frame: str = "", lower_case: bool = True) -> Tokenizer:
    """A tokenizer of letters with special tokens around every text."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"]
    words = [*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        names = [(name, special.index(name)) for name in frame.split() if name != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(frame, None, names)
    return tokenizer


def write_tokenizer(folder: Path, frame: str) -> None:
    """Write the files of a tokenizer of letters."""
    end = frame.split()[-1]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters(frame, lower_case=False), pad_token="<pad>", unk_token="<unk>", cls_token="<s>",
        sep_token="</s>", eos_token=end, model_max_length=130,
    ).save_pretrained(folder)  # fmt: skip


def write_table(folder: Path) -> None:
    """Write a table of token vectors as sentence-transformers does."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = letters()
    save_file({"embedding.weight": torch.randn(tokenizer.get_vocab_size(), WIDTH)}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))


def write_module(kind: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Write a module behind a pooling."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)
    if kind == "Dense":
        size = (settings["out_features"], settings["in_features"])
        weights = {"linear.weight": torch.randn(size) * 0.2}
        weights |= {"linear.bias": torch.randn(size[0])} if settings["bias"] else {}
        if settings.get("use_residual") and size[0] != size[1]:
            weights["residual.weight"] = torch.randn(size) * 0.2
        save_file(weights, folder / "model.safetensors")
    if kind == "LayerNorm":
        weights = {"norm.weight": torch.rand(settings["dimension"]), "norm.bias": torch.rand(settings["dimension"])}
        save_file(weights, folder / "model.safetensors")


def write_modules(folder: Path, modules: Sequence[tuple[str, str]], package: str = _MODULES) -> None:
    """Write modules.json from paths and kinds."""
    write_json(folder / "modules.json", [
        {"idx": n, "name": str(n), "path": path, "type": f"{package}.{kind}"} for n, (path, kind) in enumerate(modules)
    ])  # fmt: skip


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
