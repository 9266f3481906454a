import argparse
import json

import pytest

from data_pipeline.cli import COMMANDS, main
from data_pipeline.embeddings.recipes import load_table


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, clean_logging):
    monkeypatch.chdir(tmp_path)


def models(capsys, *arguments, code=0):
    assert main(["models", *arguments]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_all_are_listed(capsys):
    out = models(capsys)
    assert all(name in out for name in load_table())
    assert max(map(len, out.splitlines())) < 180


def test_a_part_of_a_name_or_a_family_filters(capsys):
    lines = models(capsys, "GRANITE").splitlines()
    assert lines[0].split()[:3] == ["model", "dim", "tokens"]
    assert len([line for line in lines if line.startswith("ibm-granite/")]) == 9
    assert "not supported" in models(capsys, "contextual")
    assert " sparse " in models(capsys, "splade-v3-distilbert")
    assert "sparse vectors    log(1 + relu) of its logits" in models(capsys, "naver/splade-v3")
    assert "sparse vectors    a weight for each word of a text" in models(capsys, "BAAI/bge-m3")


def test_one_is_explained_with_its_prompts_visible(capsys):
    out = models(capsys, "intfloat/E5-base-v2")
    assert "'passage: '" in out
    assert "'query: '" in out
    assert "https://huggingface.co/intfloat/e5-base-v2" in out
    assert "'Instruct: " in models(capsys, "Qwen/Qwen3-Embedding-8B")
    assert r"query\nQuery:'" in models(capsys, "Qwen/Qwen3-Embedding-8B")
    assert "not supported" in models(capsys, "nvidia/NV-Embed-v2")
    assert "without those of the prompt" in models(capsys, "hkunlp/instructor-xl")


def test_every_one_can_be_explained(capsys):
    for name in load_table():
        COMMANDS["models"].run(argparse.Namespace(name=name, json=False), lambda _: {})
        assert capsys.readouterr().out.startswith(f"{name}\n  family ")


def test_the_only_name_with_a_part_is_explained(capsys):
    assert "found by" in models(capsys, "e5-mistral")


def test_json(capsys):
    listed = json.loads(models(capsys, "--json"))
    assert [entry["name"] for entry in listed] == list(load_table())
    one = json.loads(models(capsys, "BAAI/bge-m3", "--json"))
    assert (one["by_name"], one["evidence"], one["pooling"]) == (True, "the name BAAI/bge-m3", "cls")


def test_a_folder_is_explained_by_its_evidence(capsys, tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    assert "neither the path nor the files name a model" in models(capsys, "./tuned", code=2)
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "intfloat/e5-base-v2"}))
    for path in ("./tuned", "tuned", str(folder)):
        out = models(capsys, path)
        assert "config.json names intfloat/e5-base-v2 as _name_or_path" in out
        assert "Its own files count for more" in out


def test_an_unknown_name_gets_the_nearest(capsys):
    assert "did you mean intfloat/e5-base-v2" in models(capsys, "e5-bse-v2", code=2)
    assert "`elm models` lists all" in models(capsys, "qqqqqqqqqqqqq", code=2)
    assert "no such folder: './gone'" in models(capsys, "./gone", code=2)
    assert "no such folder" in models(capsys, "~nobody-of-this-name/x", code=2)
    assert len(models(capsys, "x" * 5000, code=2)) < 1000
