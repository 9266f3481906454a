"""Outputs sent to a hub on this machine."""

import base64
import json
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError
from support.hub_server import COMMIT, Handler, in_process, running

from data_pipeline.config.labels import PushConfig
from data_pipeline.weak_labels.push import write_card

REPO = "somebody/labels"
FIGURES = {
    "judge": {"model": "tiny", "served_model": "tiny-1", "prompt": "binary/1"}, "statuses": {"ok": 3, "failed": 1},
    "grades": {"0": 2, "3": 1}, "negatives": 2, "agreement_with_gold": None,
}  # fmt: skip
PUSH = """
import json, sys
from pathlib import Path
from data_pipeline.errors import SourceError
from data_pipeline.weak_labels.push import push
from data_pipeline.config.labels import PushConfig
try:
    print(json.dumps({"url": push(Path(sys.argv[1]), PushConfig(**json.loads(sys.argv[2])))}))
except SourceError as error:
    print(json.dumps({"error": str(error)}))
"""


class Hub(Handler):
    def do_GET(self):  # noqa: N802, the library calls it so
        self.answer_json({"id": REPO, "_id": "0", "sha": COMMIT, "private": True, "siblings": [], "tags": []})

    def do_POST(self):  # noqa: N802, the library calls it so
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, server = urlsplit(self.path).path, self.server
        server.asked.append(path)
        if server.refuses:
            return self.answer_json({"error": "no"}, 403)
        if path == "/api/repos/create":
            server.made = json.loads(body)
            return self.answer_json({"url": f"{server.url}/datasets/{REPO}", "name": REPO, "id": "0"})
        if path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer_json({"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry.get("key") == "file":
                server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        address = f"{server.url}/datasets/{REPO}/commit/{COMMIT}"
        return self.answer_json({"success": True, "commitOid": COMMIT, "commitUrl": address})


@pytest.fixture
def hub():
    with running(Hub, files={}, asked=[], made=None, refuses=False) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "qrels.tsv").write_text("q\t0\ta\t3\n")
    (folder / ".qrels.tsv.tmp").write_text("half")
    write_card(folder, "my run", FIGURES)
    return folder


def test_every_output_and_the_card_arrive_in_a_private_data_set(hub, folder, tmp_path):
    found = in_process(PUSH, hub.url, tmp_path / "home", str(folder), json.dumps({"repo_id": REPO}))
    assert found == {"url": f"{hub.url}/datasets/{REPO}"}
    assert (hub.made["visibility"], hub.made["type"]) == ("private", "dataset")
    assert hub.files == {"qrels.tsv": b"q\t0\ta\t3\n", "README.md": (folder / "README.md").read_bytes()}


def test_a_hub_that_does_not_take_it_is_an_error_and_the_files_stay(hub, folder, tmp_path):
    hub.refuses = True
    found = in_process(PUSH, hub.url, tmp_path / "home", str(folder), json.dumps({"repo_id": REPO}))
    assert f"could not upload {folder} to {REPO}" in found["error"]
    assert (folder / "qrels.tsv").exists()


def test_the_card_says_who_judged_and_that_no_person_did(folder):
    card = (folder / "README.md").read_text()
    assert "given by a machine" in card
    assert "judge: tiny, served as tiny-1, prompt binary/1" in card
    assert "3 ok, 1 failed; only those that are ok are labels" in card
    assert "agreement with gold judgements: not measured" in card


@pytest.mark.parametrize("wrong", ["name", "a/b/c", "../x/y", "a b/c"])
def test_names_that_are_no_data_sets_are_refused(wrong):
    with pytest.raises(ValidationError):
        PushConfig(repo_id=wrong)


def test_nothing_is_sent_and_nothing_is_public_by_default():
    assert PushConfig() == PushConfig(repo_id=None, private=True)
