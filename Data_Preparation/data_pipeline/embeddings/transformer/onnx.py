"""Forward pass by ONNX Runtime from the export that a model's makers publish, on a CPU (extra `onnx`).

Texts are padded, and the vectors are checked like those of any other path, so an export of another model is noticed.
Nothing is exported here: the file is `onnx/model.onnx` in the folder of the model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.embeddings.transformer.forward import pad
from data_pipeline.embeddings.transformer.sentence_layers import SentenceLayers
from data_pipeline.errors import ModelError
from data_pipeline.utils import require

EXPORT = "onnx/model.onnx"
"""Place of the export in the folder of a model."""
DEFAULT_BATCH_TOKENS = 2048
_STATES = ("last_hidden_state", "token_embeddings")


class OnnxForward:
    """Forward pass of padded texts by ONNX Runtime; see `forward.Forward`.

    Args:
        folder: folder of the model.
        layers: pooling of the model and the modules behind it.
        pad_id: id of the padding token.
        threads: number of threads; None for ONNX Runtime's own choice.

    Raises:
        ModelError: there is no export, or it has other inputs and outputs than an encoder.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, layers: SentenceLayers, pad_id: int, threads: int | None) -> None:
        runtime = require("onnxruntime", "onnx", "embedding.backend onnx")
        path = folder / EXPORT
        if not path.is_file():
            raise ModelError(
                f"embedding.backend onnx: {folder} has no {EXPORT}. Export the model with optimum-cli export onnx, or "
                "set embedding.backend to torch."
            )
        runtime.disable_telemetry_events()
        # Its exceptions have no common class of their own.
        own = vars(runtime.capi.onnxruntime_pybind11_state).values()
        kinds = [kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)]
        self._errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, *kinds)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._errors as error:
            raise ModelError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
        self._inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        self._output = next((name for name in _STATES if name in outputs), "")
        unknown = sorted(set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"})
        if unknown or not self._output:
            raise ModelError(
                f"{path} has the inputs {', '.join(self._inputs)} and the outputs {', '.join(outputs)}; expected those "
                f"of an encoder, with the output {' or '.join(_STATES)}"
            )
        self._layers, self._pad_id = layers, pad_id

    def __call__(self, texts: Tokens) -> Tensor:
        """Compute vectors, shape (N, W)."""
        padded, is_token = pad(texts, self._pad_id)
        given = {
            "input_ids": padded.astype(np.int64),
            "attention_mask": is_token.astype(np.int64),
            "token_type_ids": np.zeros(padded.shape, np.int64),
        }
        try:
            (states,) = self._session.run([self._output], {name: given[name] for name in self._inputs})
        except self._errors as error:
            raise ModelError(f"ONNX Runtime failed: {str(error).splitlines()[0]}") from error
        hidden = torch.from_numpy(states)
        return self._layers(hidden[torch.from_numpy(is_token)], torch.from_numpy(texts.lengths), texts.prompt_tokens)
