"""The servers that are compared: how each is had, and started on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import peers

CONTEXT = 512
# What llama.cpp's server is fastest with at 16 clients whose prompts do not come again.
_SLOTS = 16
_FASTEST = ["-np", str(_SLOTS), "-c", str(_SLOTS * CONTEXT), "--cache-ram", "0"]
_LLAMA_CPP = "llama-cpp-python"


class Server:
    """A server that runs; it is killed with this process.

    Attributes:
        name: as tables show it.
        url: without a path.
        pid: of its process.
    """

    def __init__(self, name: str, command: list[str], port: int | None = None) -> None:
        self.name = name
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*command, "--port", str(self.port)]
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=peers.environment(),
        )
        self.pid = self._process.pid
        self._wait()

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def again(self) -> Server:
        """The same server on the same port, after a `kill`."""
        return Server(self.name, self._command[:-2], self.port)

    def _wait(self) -> None:
        for _ in range(600):
            if self._process.poll() is not None:
                raise SystemExit(f"error: {' '.join(self._command)} has ended")
            try:
                urllib.request.urlopen(f"{self.url}/v1/models").close()
            except OSError:  # not there yet, or still loading
                time.sleep(0.1)
            else:
                return
        raise SystemExit(f"error: {' '.join(self._command)} does not answer")


def ours(bundle: Path | None) -> Server:
    """This package's server, as it comes."""
    command = [sys.executable, "-m", "atom_edge.cli", "serve"]
    return Server("atom-edge int8", command + ([str(bundle)] if bundle else []))


def theirs(work: Path) -> list[Server]:
    """The peers' servers of the reference model, set up under `work` where they are not yet."""
    peers.set_up(work)
    models = work / "models"
    server = [str(_llama_server(work)), *_FASTEST]
    python = [str(peers.python(work / "peers", "llama_cpp")), "-m", "llama_cpp.server"]
    # It would break off each reply for the next request.
    python += ["--n_ctx", str(CONTEXT), "--interrupt_requests", "False"]
    return [
        Server("llama.cpp Q8_0", [*server, "-m", str(models / "Q8_0.gguf")]),
        Server("llama.cpp Q4_0", [*server, "-m", str(models / "Q4_0.gguf")]),
        Server("llama-cpp-python Q8_0", [*python, "--model", str(models / "Q8_0.gguf")]),
    ]


def _llama_server(work: Path) -> Path:
    """llama.cpp's own server, built of the source that llama-cpp-python comes with."""
    folder = work / "llama.cpp"
    program = folder / "bin" / "llama-server"
    if not program.exists():
        print("building llama-server", file=sys.stderr)
        python = peers.python(work / "peers", "llama_cpp")
        folder.mkdir(parents=True, exist_ok=True)
        pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        peers.run([*pip, "-d", folder, _installed(python)])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(folder.glob("*/vendor/llama.cpp"))
        options = ("LLAMA_OPENSSL=OFF", "LLAMA_USE_PREBUILT_UI=OFF", "BUILD_SHARED_LIBS=OFF")
        settings = [f"-D{option}" for option in ("CMAKE_BUILD_TYPE=Release", *options)]
        build = folder / "build"
        peers.run(["cmake", "-S", source, "-B", build, *settings])
        jobs = ["-j", str(os.cpu_count())]
        peers.run(["cmake", "--build", build, "--target", "llama-server", *jobs])
        program.parent.mkdir(exist_ok=True)
        shutil.copy2(build / "bin" / "llama-server", program)
    return program


def _installed(python: Path) -> str:
    """The requirement of the release that is installed."""
    show = f"import importlib.metadata as m; print(m.version('{_LLAMA_CPP}'))"
    done = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
    return f"{_LLAMA_CPP}=={done.stdout.strip()}"


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
