"""Downloading from a hub: a server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError
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
    served = Hub(folder)

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

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # A daemon: where a test fails in the middle, the run still ends.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        # huggingface_hub reads HF_ENDPOINT and HF_HOME once, when it is imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        for module in ("constants", "file_download"):
            monkeypatch.setattr(
                f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE",
                endpoint + "/{repo_id}/resolve/{revision}/{filename}",
                raising=False,  # the second until 2.0
            )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
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
