"""`elm append`, `elm run --append` and `elm compact`, as a user calls them."""

import json

import pytest

from data_pipeline.cli import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, clean_logging):
    monkeypatch.chdir(tmp_path)


def write(path, *documents):
    texts = [{"id": name, "text": f"the {name} river runs past old mills and quiet fields"} for name in documents]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))


def elm(capsys, command, *arguments):
    own = ["--preset", "offline", "--model-name", "hashing", "--min-tokens", "5", "--corpus.id_field", "id"]
    own += ["--corpus.name", "mine", "--source", "jsonl", "--output-dir", "data"]
    code = main([command, *own, *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_nightly_job_is_one_command(tmp_path, capsys):
    write(tmp_path / "a.jsonl", "a", "b")
    code, out, _ = elm(capsys, "run", "--corpus.path", "a.jsonl", "--append")
    assert (code, "2 found, 2 kept" in out) == (0, True)
    write(tmp_path / "a.jsonl", "a", "b", "c")
    code, out, _ = elm(capsys, "run", "--corpus.path", "a.jsonl", "--append")
    assert code == 0
    assert "documents   1 added, 0 changed, 0 gone, 2 unchanged" in out
    assert "version     2, made from version 1" in out
    code, out, _ = elm(capsys, "run", "--corpus.path", "a.jsonl", "--append")
    assert code == 0
    assert "version     2; no row changed, so there is no new one" in out
    code, _, err = elm(capsys, "run", "--corpus.path", "a.jsonl", "--append", "--overwrite")
    assert (code, "--append goes without --overwrite" in err) == (2, True)


def test_what_it_says(tmp_path, capsys):
    write(tmp_path / "a.jsonl", "a", "b")
    write(tmp_path / "more.jsonl", "c", "d")
    elm(capsys, "run", "--corpus.path", "a.jsonl")
    code, out, _ = elm(capsys, "append", "--corpus.path", "more.jsonl")
    assert code == 0
    assert "documents   2 added, 0 changed, 0 gone, 0 unchanged" in out
    assert "embeddings  2 new rows x 256" in out
    write(tmp_path / "more.jsonl", "d")
    code, _, err = elm(capsys, "append", "--corpus.path", "more.jsonl")
    assert code == 2
    assert "0 documents changed and 1 document gone since the dataset was made: 'c'" in err
    code, out, _ = elm(capsys, "append", "--corpus.path", "more.jsonl", "--on-changed", "replace")
    assert code == 0
    code, _, err = elm(capsys, "append", "--corpus.path", "more.jsonl", "--max-tokens", "9")
    assert (code, "preprocess.max_tokens was 2000, now 9" in err) == (2, True)

    code, _, err = elm(capsys, "append", "--corpus.path", "more.jsonl", "--overwrite")
    assert (code, "unknown argument '--overwrite'" in err) == (2, True)

    assert main(["compact", "--output-dir", "data"]) == 0
    said = capsys.readouterr().out
    assert "deleted rows  1 (about" in said
    assert "Add --yes to do it" in said
    assert main(["compact", "--output-dir", "data", "--yes"]) == 0
    assert "version 4; elm gc --keep 0 frees" in capsys.readouterr().out
    assert main(["compact", "--output-dir", "data"]) == 0
    assert "nothing to compact" in capsys.readouterr().out
    assert main(["versions", "--output-dir", "data"]) == 0
    said = capsys.readouterr().out
    assert "2 rows added and 0 removed since version 1" in said
    assert "0 rows added and 1 removed since version 2" in said
