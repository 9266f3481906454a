import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.config.retrieval import PassagesConfig
from data_pipeline.download import open_corpus
from data_pipeline.embeddings.model_files import find_model
from data_pipeline.errors import SourceError
from data_pipeline.integrations.ml_filter.inputs import embedding_files
from data_pipeline.integrations.ml_filter.jobs import EmbeddingParameters
from data_pipeline.retrieval.passage_files import passages_of_file
from data_pipeline.user_files import list_files

LINE = '{"id": "a", "doc_id": "a", "text": "river stone lamp"}\n'


@pytest.fixture
def littered(tmp_path):
    """A folder with one data file, and what editors and operating systems leave beside it."""
    folder = tmp_path / "c"
    for name, content in {
        "sub/a.jsonl": LINE,
        "sub/._a.jsonl": "\0\5\26\7Mac OS X",
        ".ipynb_checkpoints/a-checkpoint.jsonl": LINE.replace("lamp", "older lamp"),
        "__MACOSX/._a.jsonl": "\0\5\26\7",
        ".a.jsonl.tmp": "half a l",
        "notes.txt": "not data",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def corpus_texts(folder, work):
    return [document.text for document in open_corpus(CorpusConfig(source="jsonl", path=folder)).documents()]


def passage_texts(folder, work):
    return passages_of_file(folder, work, PassagesConfig(id_field="doc_id")).texts()


def pipeline_texts(folder, work):
    params = EmbeddingParameters(
        input_dir=folder, glob_pattern="**/*", keys_to_index=["text"], output_dir=work, embedding_dir="e",
        embedding_model="hashing", batch_size=1,
    )  # fmt: skip
    return [file.path.read_text() for file in embedding_files(params) if file.path.suffix == ".jsonl"]


@pytest.mark.parametrize("read", [corpus_texts, passage_texts, pipeline_texts])
def test_no_reader_takes_hidden_files_for_data(littered, tmp_path, read):
    (text,) = read(littered, tmp_path / "work")
    assert "river stone lamp" in text
    assert "older" not in text


def test_weights_are_never_taken_from_hidden_files(tiny_qwen3, tmp_path):
    from data_pipeline.config import EmbeddingConfig

    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_qwen3.iterdir():
        (folder / path.name).symlink_to(path)
    before = find_model(EmbeddingConfig(model_name=str(folder))).revision
    (folder / "._model.safetensors").write_bytes(b"\0\5\26\7")
    assert find_model(EmbeddingConfig(model_name=str(folder))).revision == before


def test_files_are_sorted_and_endings_may_be_in_capitals(tmp_path):
    for name in ("b.jsonl", "A.JSONL", "sub/a.jsonl", "c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINE)
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path, (".jsonl",), "corpus.path")]
    assert found == ["A.JSONL", "b.jsonl", "sub/a.jsonl"]
    assert list_files(tmp_path / "c.json", (".jsonl",), "corpus.path") == [tmp_path / "c.json"]


def test_what_is_missing_is_named_with_its_setting(tmp_path):
    with pytest.raises(SourceError, match=r"^corpus\.path: no such file or folder: .*gone$"):
        list_files(tmp_path / "gone", (".jsonl",), "corpus.path")
    with pytest.raises(SourceError, match=r"has no file that ends in \.jsonl; it is empty"):
        list_files(tmp_path, (".jsonl",), "corpus.path")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SourceError, match=r"ends in \.jsonl; it has 1 others, such as a\.txt"):
        list_files(tmp_path, (".jsonl",), "corpus.path")


def test_a_name_that_cannot_be_printed_is_refused(tmp_path):
    (tmp_path / "a\n.jsonl").write_text(LINE)
    with pytest.raises(SourceError, match="rename this file"):
        list_files(tmp_path, (".jsonl",), "corpus.path")
