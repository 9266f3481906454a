"""What was made from a dataset before it grew stays valid, is completed for new rows, and leaves out deleted ones."""

import numpy as np
import pytest
from support.growing import PARAGRAPHS, settings, write
from support.sparse_models import table_encoder

from data_pipeline.config import EmbeddingConfig, Section
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.dataset import ELMDataset
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.embeddings.hashing import HashingEmbedder
from data_pipeline.embeddings.sparse import load as sparse_loader
from data_pipeline.embeddings.sparse.encoder import encode_sparse
from data_pipeline.errors import StoreError
from data_pipeline.heads.apply import Scorer
from data_pipeline.heads.identity import EmbedderIdentity, identity_settings
from data_pipeline.heads.model import Head, Layer
from data_pipeline.metrics import registry
from data_pipeline.metrics.base import Measure
from data_pipeline.retrieval.passages import passages_of_rows, passages_of_store
from data_pipeline.selection.budget import Budget
from data_pipeline.stages.measure import compute_metric
from data_pipeline.stages.pipeline import append_documents, make_sparse_corpus, run
from data_pipeline.stages.score import annotate
from data_pipeline.stages.select import select_subset
from data_pipeline.stages.semantic_dedup import semantic_dedup
from data_pipeline.stages.verify import verify_corpus
from data_pipeline.store import ParagraphStore
from data_pipeline.store.reader import open_rows

ONE_SPLIT = {"split.train_ratio": 1, "split.val_ratio": 0, "split.test_ratio": 0}
A = [("a1", [0, 1]), ("a2", [2]), ("a3", [3]), ("a4", [4])]
HEAD = Head(
    "regression",
    ("score",),
    (Layer(np.full((1, 256), 0.1, np.float32), np.zeros(1, np.float32)),),
    EmbedderIdentity(identity_settings(HashingEmbedder(EmbeddingConfig(model_name="hashing")).identity.to_metadata())),
)


@pytest.fixture
def grown(tmp_path, monkeypatch):
    """A function that appends b1 and replaces a1, whose two rows are deleted; and the config, with all in train."""
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(files[0], A)
    config = settings(tmp_path / "data", files[:1], **ONE_SPLIT)
    run(config)

    def grow():
        write(files[1], [("b1", [5, 6])])
        append_documents(settings(tmp_path / "data", files[1:], **ONE_SPLIT))
        write(files[0], [("a1", [7]), *A[1:]])
        append_documents(settings(tmp_path / "data", files[:1], **ONE_SPLIT, **{"corpus.on_changed": "replace"}))

    return config, grow


PRESENT = [PARAGRAPHS[number] for number in (2, 3, 4, 5, 6, 7)]


def test_readers_leave_out_deleted_rows(grown, tmp_path):
    config, grow = grown
    grow()
    dataset = ELMDataset(config=config)
    assert [sample["text"] for sample in dataset] == PRESENT
    assert dataset.metadata["text_id"].to_list() == ["a2#l0", "a3#l0", "a4#l0", "b1#l0", "b1#l1", "a1#l0"]
    assert dataset.get_statistics()["rows"] == 6
    assert [batch["text"] for batch in dataset.iter_batches(4)] == [PRESENT[:4], PRESENT[4:]]
    assert list(dataset.to_hf()["text"]) == PRESENT
    assert dataset.search(PARAGRAPHS[0], k=3)[0]["text"] != PARAGRAPHS[0]
    with pytest.raises(StoreError, match="a split with deleted rows"):
        _ = dataset.embeddings
    assert ParagraphStore(config.processed_dir).read("train")["text"].to_list() == PRESENT
    rows = passages_of_store(ParagraphStore(config.processed_dir), "train")
    assert rows.texts() == PRESENT
    assert len(passages_of_rows(open_rows(config, "train"))) == 6
    sets = open_evaluation_sets(DecontaminationConfig(paths=[str(config.processed_dir)], splits=["train"]))
    assert [item.texts[0] for item in sets[0].items()] == PRESENT
    with pytest.raises(StoreError, match="Run elm compact first"):
        semantic_dedup(config, SemanticDedupConfig(), tmp_path / "to")


def test_scores_are_made_for_new_rows_only(grown, monkeypatch):
    config, grow = grown
    annotate(config, {"edu": HEAD})
    before = ELMDataset(config=config).metadata
    grow()
    assert "edu" not in ELMDataset(config=config).rows.names
    with pytest.raises(StoreError, match="the first 1 of 3 files of train, which has grown"):
        ELMDataset(config=config, scores=["edu"])
    assert "edu" in ELMDataset(config=config, version=1).rows.names
    scored = []
    real = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, vectors: scored.append(len(vectors)) or real(self, vectors))
    annotate(config, {"edu": HEAD})
    assert scored == [2, 1]
    after = ELMDataset(config=config).metadata
    assert after["edu"].null_count() == 0
    assert after["edu"].to_list()[:3] == before["edu"].to_list()[2:]
    assert ELMDataset(config=config, version=1).metadata["edu"].to_list() == before["edu"].to_list()
    assert verify_corpus(config)[1] == []


@pytest.mark.parametrize("row_by_row", [True, False])
def test_measures_see_no_deleted_rows(grown, monkeypatch, row_by_row):
    config, grow = grown
    seen = []

    def measure(rows, features, settings):
        texts = [rows.columns.text(int(row)) for row in rows.of_files(np.arange(len(rows)))]
        seen.extend(texts)
        return {"size": np.array([len(text) for text in texts], float)}

    monkeypatch.setitem(
        registry.MEASURES, "size", Measure(("size",), Section, measure, frozenset({"texts"}), row_by_row=row_by_row)
    )
    grow()
    compute_metric(config, "size")
    assert seen == PRESENT
    assert ELMDataset(config=config).metadata["size"].to_list() == [len(text) for text in PRESENT]
    assert verify_corpus(config)[1] == []


def test_a_selection_of_earlier_rows_is_read_without_the_deleted_ones(grown):
    config, grow = grown
    select_subset(config, "random", Budget(rows=5), seed=0)
    (name,) = (path.name for path in config.selections_dir.iterdir())
    before = [sample["text"] for sample in ELMDataset(config=config, subset=name)]
    assert sorted(before) == sorted(PARAGRAPHS[:5])
    grow()
    gone = {PARAGRAPHS[0], PARAGRAPHS[1]}
    # The row with the id of a changed document is another text: it was not selected.
    assert [sample["text"] for sample in ELMDataset(config=config, subset=name)] == [t for t in before if t not in gone]
    assert verify_corpus(config)[1] == []


def test_a_split_whose_files_cannot_be_mapped_as_one_is_selected_from(tmp_path):
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(files[0], A)
    write(files[1], [("b1", [5, 6])])
    run(settings(tmp_path / "data", files[:1], **ONE_SPLIT))
    config = settings(tmp_path / "data", files[1:], **ONE_SPLIT)
    append_documents(config)
    with pytest.raises(StoreError, match="cannot be mapped as one array"):
        _ = ELMDataset(config=config).embeddings
    chosen = select_subset(config, "kcenter", Budget(rows=7), seed=0)
    assert sorted(sample["text"] for sample in ELMDataset(config=config, subset=chosen.selection.subset)) == sorted(
        PARAGRAPHS[:7]
    )


def test_sparse_vectors_are_made_for_new_rows_only(grown, monkeypatch):
    config, grow = grown
    config = config.model_copy(update={"sparse": config.sparse.model_copy(update={"model_name": "table"})})
    monkeypatch.setattr(sparse_loader, "load_sparse_encoder", lambda config: table_encoder())
    make_sparse_corpus(config, ["train"])
    (first,) = config.sparse_dir.glob("*.safetensors")
    before = first.read_bytes(), first.stat().st_ino
    grow()
    with pytest.raises(StoreError, match="1 files of train, its paragraphs have 3"):
        ELMDataset(config=config).rows.sparse_vectors(np.arange(1))
    make_sparse_corpus(config, ["train"])
    assert (first.read_bytes(), first.stat().st_ino) == before
    found = ELMDataset(config=config).rows.sparse_vectors(np.arange(6))
    expected = encode_sparse(table_encoder(), PRESENT)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.values, expected.values)
    assert verify_corpus(config)[1] == []
