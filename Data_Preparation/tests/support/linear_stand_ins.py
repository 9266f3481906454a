"""Stand-ins for oneDNN's operators, so that packed and plain linear layers are tested on every processor."""

from torch import nn

from data_pipeline.embeddings.transformer import linear


class StandInOperators:
    """The operators of oneDNN, by torch's own product; every dtype is packed."""

    def _reorder_linear_weight(self, weight, rows):
        return weight.clone()

    def _linear_pointwise(self, x, weight, bias, *_):
        return nn.functional.linear(x, weight, bias)


class RefusingOperators(StandInOperators):
    """Those of a processor that packs no weights: of AVX2 in bfloat16, for one."""

    def _reorder_linear_weight(self, weight, rows):
        raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx512bw\nat ...")


def pack_with(operators, monkeypatch):
    monkeypatch.setattr(linear, "_operators", lambda: operators)


def packs_here(*dtypes):
    return all(linear.unavailable_reason(dtype) is None for dtype in dtypes)
