"""Downloading from a hub: a server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from atom_edge import AtomSession, open_snapshot
from atom_edge.bundle import open_bundle
from atom_edge.config import AtomConfig
from atom_edge.errors import BundleError, SnapshotError
from atom_edge.hub import find_bundle, push_bundle
from atom_edge.modeling import AtomForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = AtomConfig(
    vocab_size=300,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)


@dataclass
class Hub:
    """Serves one folder as the repository org/atom; other repositories fail as their names say."""

    folder: Path
    requested: set[str] = field(default_factory=set)
    made: list[dict[str, Any]] = field(default_factory=list)
    endpoint: str = ""

    def take(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer of a request to make a repository or to commit to it."""
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return 200, {"url": f"{self.endpoint}/org/new", "id": "org/new"}
        if path == "/api/validate-yaml":  # of the card's front matter
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/models/org/forbidden"):
            return 403, {"error": "You may not write here."}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in files
                ]
            }
        assert "/commit/" in path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                file = self.folder / entry["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(entry["value"]["content"]))
        return 200, {"commitUrl": f"{self.endpoint}/org/new/commit/{COMMIT}", "commitOid": COMMIT}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request."""
        failures = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound")}
        repository = path.removeprefix("/api/models").split("/")[2]
        if repository in failures:
            status, code = failures[repository]
            return status, {"X-Error-Code": code}, b"{}"
        if "/revision/" in path:
            if path.rsplit("/", 1)[1] not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            files = [{"rfilename": str(f.relative_to(self.folder))} for f in self.files()]
            listing = {"id": "org/atom", "sha": COMMIT, "siblings": files, "tags": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()
        if path.endswith(f"/tree/{COMMIT}"):
            tree = [
                {
                    "type": "file",
                    "path": str(file.relative_to(self.folder)),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in self.files()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        name = path.split(f"/resolve/{COMMIT}/")[1]
        self.requested.add(name)
        content = (self.folder / name).read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content

    def files(self) -> list[Path]:
        """Every file of the repository."""
        return [file for file in sorted(self.folder.rglob("*")) if file.is_file()]


@pytest.fixture
def hub(
    tmp_path: Path, write_snapshot: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    tensors = AtomForCausalLM(CONFIG).state_dict()
    del tensors["lm_head.weight"]
    folder = write_snapshot(tmp_path / "repository", tensors, CONFIG.to_dict())
    for name in ("modeling.py", "pytorch_model.bin", "onnx/model.safetensors", "photo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not wanted")
    (folder / "README.md").write_text("---\ntags: [xsa]\n---\nA model.\n")
    with serving(Hub(folder), tmp_path / "cache", monkeypatch) as served:
        yield served


@contextlib.contextmanager
def serving(served: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run the hub's server, and have huggingface_hub ask it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = served.answer(self.path.split("?")[0])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = served.take(self.path.split("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # A daemon: where a test fails in the middle, the run still ends.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        served.endpoint = endpoint = f"http://127.0.0.1:{server.server_port}"
        # huggingface_hub reads HF_ENDPOINT and HF_HOME once, when it is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        for module in ("constants", "file_download"):
            monkeypatch.setattr(
                f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE",
                endpoint + "/{repo_id}/resolve/{revision}/{filename}",
                raising=False,  # the second until 2.0
            )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def test_a_download_takes_what_is_needed_and_no_code(hub: Hub) -> None:
    snapshot = open_snapshot("org/atom")
    assert hub.requested == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert snapshot.provenance["repo"] == "org/atom"
    assert snapshot.provenance["revision"] == COMMIT
    reopened = open_snapshot("org/atom", revision=COMMIT, local_files_only=True)
    for name, parameter in reopened.model.state_dict().items():
        assert torch.equal(parameter, snapshot.model.state_dict()[name])


def test_trusted_code_is_downloaded_too(hub: Hub) -> None:
    open_snapshot("org/atom", trust_remote_code=True)
    assert "modeling.py" in hub.requested


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/missing", None, "no such repository"),
        ("org/gated", None, "is gated. Accept its terms"),
        ("org/atom", "v9", "has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(SnapshotError, match=message) as refusal:
        open_snapshot(name, revision=revision)
    assert name in str(refusal.value)


def test_a_bundle_is_pushed_and_opened_by_its_hub_id(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(small_bundle)
    (tmp_path / "repository").mkdir()
    with serving(Hub(tmp_path / "repository"), tmp_path / "cache", monkeypatch) as served:
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        address = push_bundle(bundle, "org/new", private=True)
        assert address.endswith(f"/commit/{COMMIT}")
        assert served.made[0]["name"] == "new"
        made = served.made[0]
        assert made.get("private") is True or made["visibility"] == "private"  # before 2.0, since
        pushed = {str(file.relative_to(served.folder)) for file in served.files()}
        assert pushed == {"manifest.json", *bundle.manifest.files}
        session = AtomSession.from_pretrained("org/new", threads=1)
        ours = AtomSession.from_pretrained(small_bundle, threads=1)
        options = {"temperature": 0, "max_new_tokens": 8}
        assert session.generate("The", **options).text == ours.generate("The", **options).text
    # The server is gone: the cache has it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert AtomSession.from_pretrained("org/new", threads=1).bundle.manifest == bundle.manifest


def test_a_push_that_is_refused_says_what_to_do(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(small_bundle)
    with serving(Hub(tmp_path), tmp_path / "cache", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        with pytest.raises(BundleError, match="could not be uploaded to 'org/forbidden'"):
            push_bundle(bundle, "org/forbidden")
        with pytest.raises(BundleError, match="is no hub id"):
            push_bundle(bundle, "org/a/b")


@pytest.mark.usefixtures("hub")
def test_a_bundle_that_is_nowhere_is_told() -> None:
    with pytest.raises(BundleError, match="no folder 'org/missing', and no such repository"):
        find_bundle("org/missing")
    with pytest.raises(BundleError, match="neither a folder nor a hub id"):
        AtomSession.from_pretrained("nowhere")
