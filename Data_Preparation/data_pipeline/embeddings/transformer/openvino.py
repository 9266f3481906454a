"""Forward pass by OpenVINO instead of torch, on a CPU (extra `openvino`).

The export in the folder of the model is used if there is one; else the model is converted in memory from the one that
torch loaded. Texts are padded, and its vectors are
checked like those of any other path. It is faster than torch on the processors it was measured on, but
the last bits of a vector depend on the texts in its batch, and OpenVINO's threads do not survive a
fork: a process that has used it may crash when a DataLoader forks its workers.
"""

import sys
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.embeddings.transformer.forward import pad
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers
from data_pipeline.errors import ModelError
from data_pipeline.utils import require

EXPORT = "openvino/openvino_model.xml"
"""Place of an export in the folder of a model; without one, the model is converted in memory."""
DEFAULT_BATCH_TOKENS = 2048


class OpenVinoForward:
    """Forward pass of padded texts by OpenVINO; see `forward.Forward`.

    Args:
        model: a transformers model, float32.
        layers: pooling of the model and the modules behind it.
        causal: whether the model is causal.
        pad_id: id of the padding token.
        dtype: dtype of the computation, float32 or bfloat16.
        threads: number of threads; None for OpenVINO's own choice.
        folder: folder of the model, whose export is used if it has one.
    """

    def __init__(
        self, model: Any, layers: SentenceLayers, causal: bool, pad_id: int, dtype: str, threads: int | None,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        openvino = _import_openvino()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            export = folder / EXPORT if folder else None
            has_export = export is not None and export.is_file()
            converted = core.read_model(export) if has_export else _convert(model.float(), causal)
            self._compiled = core.compile_model(converted, "CPU", settings)
            self._inputs = [node.get_any_name() for node in self._compiled.inputs] if has_export else []
        except (RuntimeError, TypeError, ValueError, openvino.frontend.OpConversionFailure) as error:
            raise ModelError(
                f"OpenVINO cannot convert this model: {str(error).splitlines()[0]}. Set embedding.backend to torch."
            ) from error
        self._layers, self._pad_id = layers, pad_id

    def __call__(self, texts: Tokens) -> Tensor:
        """Compute vectors, shape (N, W)."""
        padded, is_token = pad(texts, self._pad_id)
        try:
            ids, mask = padded.astype(np.int64), is_token.astype(np.int64)
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            # A model that was converted here has ids and mask in this order, and other names.
            fed: Any = {name: given[name] for name in self._inputs} if self._inputs else [ids, mask]
            hidden = torch.from_numpy(self._compiled(fed)[0])
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {str(error).splitlines()[0]}") from error
        return self._layers(hidden[torch.from_numpy(is_token)], torch.from_numpy(texts.lengths), texts.prompt_tokens)


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which forks this process to report every import over the network."""
    # OpenVINO replaces the package by a stub where it cannot be imported; there is no other switch.
    modules = cast("dict[str, object]", sys.modules)
    if modules.setdefault("openvino_telemetry", None) is not None:
        return require("openvino", "openvino", "embedding.backend openvino")
    try:
        return require("openvino", "openvino", "embedding.backend openvino")
    finally:
        del modules["openvino_telemetry"]


class _HiddenStates(nn.Module):
    """A wrapper of a model whose inputs and output are plain tensors, for tracing."""

    def __init__(self, model: Any, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute hidden states, shape (N, L, D)."""
        extra = {"use_cache": False} if self.causal else {}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state


def _convert(model: Any, causal: bool) -> Any:
    """Convert a model to OpenVINO's format.

    Calls the front end directly, because `openvino.convert_model` reports its use over the network.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    ids = torch.ones(2, 16, dtype=torch.long)
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 8:] = 0
    example = {"input_ids": ids, "attention_mask": mask}
    with torch.inference_mode(), warnings.catch_warnings():
        # Tracing warns of everything that may depend on the example; the probe texts check the result.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(_HiddenStates(model, causal).eval(), example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))
