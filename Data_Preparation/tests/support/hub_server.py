"""A server on this machine that speaks as much of the hub's API as models and single files are fetched with."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """How a hub answers; what it answers is for others to say."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self):
        self.do_GET()


class _Hub(Handler):
    def do_GET(self):
        path, repo, files = unquote(urlsplit(self.path).path), self.server.repo, self.server.files
        self.server.log.append(f"{self.command} {path}")
        if path.startswith(f"/api/models/{repo}/tree/"):
            listed = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in files.items()
            ]
            return self.answer_json(listed)
        if path == f"/api/models/{repo}" or path.startswith(f"/api/models/{repo}/revision/"):
            info = {
                "id": repo, "_id": "0", "sha": COMMIT, "private": False, "tags": [], "gated": False, "disabled": False,
                "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files],
            }  # fmt: skip
            return self.answer_json(info)
        revision, _, name = path.removeprefix(f"/{repo}/resolve/").partition("/")
        if revision not in {"main", COMMIT} or name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        tag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], ETag=f'"{tag}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")


class _DatasetHub(Handler):
    def refuse(self, code, message):
        self.answer(404, b"{}", X_Error_Code=code, X_Error_Message=message)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET(body)

    def do_GET(self, body=b""):
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.log.append(f"{self.command} {path}")
        if self.server.repo not in path:
            return self.refuse("RepoNotFound", "Repository not found")
        rest = path.split(self.server.repo, 1)[1].strip("/")
        if path.startswith("/api/"):
            return self.api(rest, body)
        if path.startswith("/datasets/") and rest.startswith("resolve/"):
            _, revision, name = rest.split("/", 2)
            return self.file(revision, name)
        return self.answer(404)

    def api(self, rest, body):
        kind, _, rest = rest.partition("/")
        revision, _, under = rest.partition("/")
        if kind in ("revision", "tree", "paths-info") and revision not in (COMMIT, "main", "v1"):
            return self.refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        if kind in ("", "revision"):
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {
                "id": self.server.repo,
                "_id": "0",
                "sha": COMMIT,
                "private": False,
                "tags": [],
                "siblings": siblings,
                "cardData": card_data(self.server.files.get("README.md", b"")),
            }
            return self.answer_json(info | {"gated": False, "disabled": False, "downloads": 0, "likes": 0})
        if kind == "tree":
            found = [self.entry(name) for name in self.server.files if name.startswith(under)]
            folders = {name.split("/")[0] for name in self.server.files if "/" in name and not under}
            return self.answer_json([*({"type": "directory", "path": f, "oid": "0" * 40} for f in folders), *found])
        if kind == "paths-info":
            asked = json.loads(body) if body.startswith(b"{") else {}
            paths = asked.get("paths", [])
            found = [self.entry(name) for name in self.server.files if name in paths]
            folders = [
                {"type": "directory", "path": path, "oid": "0" * 40}
                for path in paths
                if any(name.startswith(f"{path}/") for name in self.server.files)
            ]
            return self.answer_json(found + folders)
        return self.answer(404)

    def file(self, revision, name):
        if revision not in (COMMIT, "main"):
            return self.refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in self.server.files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        if self.server.broken and name.endswith(".parquet"):
            return self.answer(403)
        etag = f'"{abs(hash(name)):040x}"'
        self.server.served.append(revision)
        return self.answer(200, self.server.files[name], ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

    def entry(self, name):
        return {"type": "file", "path": name, "size": len(self.server.files[name]), "oid": "1" * 40}


def card_data(readme):
    """Metadata at the head of a card, which the hub returns with what it says about a repository."""
    return yaml.safe_load(readme.split(b"---")[1]) if readme.startswith(b"---") else None


@contextmanager
def running(handler, **state):
    """A running server with a handler of one's own; `url` is its address, and `state` its further attributes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.__dict__.update(state)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def serve(repo, files):
    """A running hub with one model; `log` has its requests."""
    return running(_Hub, repo=repo, files=files, log=[])


def serve_dataset(repo, files):
    """A running hub with one dataset; `log` has its requests, `served` the revisions of the files it sent.

    With `broken` set, it refuses to send parquet files.
    """
    return running(_DatasetHub, repo=repo, files=files, log=[], served=[], broken=False)


def in_process(code, url, home, *arguments, offline=False):
    """Run code in a process that has this hub and a cache of its own; returns the JSON it prints last."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])
