"""Weak labels whose passages are embedded by several workers: the files and vectors of one process."""

import json

import pytest
from support.published import write_corpus

pytest.importorskip("bm25s", reason='needs the extra "weak-labels"')

from data_pipeline.config.labels import LabelConfig
from data_pipeline.embeddings import Engine
from data_pipeline.errors import ConfigError
from data_pipeline.execution.labels import make_weak_labels
from data_pipeline.judge import ScriptedJudge


def grade(query, passage):
    return min(3, len(set(query.lower().split()) & set(passage.lower().split())))


def settings(folder, passages, **more):
    queries = folder / "queries.jsonl"
    texts = ["a river in the mountain city", "paper and stone", "the tree and the light"]
    lines = [json.dumps({"query_id": f"q{number}", "query": text}) for number, text in enumerate(texts)]
    queries.write_text("".join(f"{line}\n" for line in lines))
    return LabelConfig.model_validate({
        "work_dir": str(folder / "labels"), "passages": passages, "queries": {"path": str(queries)},
        "candidates": {"embedding": {"model_name": "hashing", "flush_s": 0.1, "batch_size": 16}}, **more,
    })  # fmt: skip


def outputs(config):
    found = [*config.work_dir.glob("vectors-*.safetensors"), *(config.work_dir / config.run).iterdir()]
    return {path.name: path.read_bytes() for path in found}


@pytest.fixture
def passages(tmp_path):
    """Passages of a file, some of them empty."""
    path = tmp_path / "passages.jsonl"
    texts = [json.loads(line)["text"] for line in write_corpus(tmp_path, 700).read_text().splitlines()]
    texts[100:110] = [""] * 10
    path.write_text("".join(json.dumps({"doc_id": f"p{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return {"source": "file", "path": str(path)}


def test_passages_are_embedded_by_several_workers(tmp_path, passages):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = settings(tmp_path / "one", passages)
    make_weak_labels(one, judge=ScriptedJudge(grade))
    two = settings(tmp_path / "two", passages, execution={"workers": 2})
    make_weak_labels(two, judge=ScriptedJudge(grade))
    expected = outputs(one)
    assert sum(name.startswith("vectors-") for name in expected) == 1
    assert len(expected) > 3
    assert outputs(two) == expected
    assert not list((two.work_dir / ".crews").iterdir())


def test_work_that_one_process_began_is_finished_by_several(tmp_path, passages, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = settings(tmp_path / "one", passages)
    make_weak_labels(one, judge=ScriptedJudge(grade))
    begun, seen = settings(tmp_path / "two", passages, execution={"workers": 2}), []
    run = Engine.run

    def stopping(self, plan, name_of, done=None):
        for number, found in enumerate(run(self, plan, name_of, done)):
            if number == 1 and not seen:
                seen.append(number)
                raise KeyboardInterrupt
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", stopping)
        with pytest.raises(KeyboardInterrupt):
            make_weak_labels(begun.model_copy(update={"execution": one.execution}), judge=ScriptedJudge(grade))
    make_weak_labels(begun, judge=ScriptedJudge(grade))
    assert outputs(begun) == outputs(one)


def test_the_engine_slurm_is_refused(tmp_path, passages):
    config = settings(tmp_path, passages, execution={"engine": "slurm"})
    with pytest.raises(ConfigError, match="execution.engine is slurm, which elm run and elm embed submit jobs for"):
        make_weak_labels(config, judge=ScriptedJudge(grade))
