"""The measurements: worker processes, cold starts, batches, overhead, soak, quality."""

from __future__ import annotations

import compileall
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peers import PEERS, Peer, command, environment

import atom_edge


class Worker:
    """A peer in a process of its own that answers requests one at a time."""

    def __init__(self, peer: Peer, work: Path, bundle: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            command(peer, work, bundle, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._read()

    def ask(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        """Continue `prompt` by up to `tokens` greedy tokens; the protocol says what comes back."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} failed:\n{self.process.communicate()[1]}")
        return dict(json.loads(line))


def cold_starts(work: Path, bundle: Path, rounds: int) -> dict[str, float]:
    """Median seconds of a process that imports, loads and makes one token, in turn."""
    _compile_package()
    times: dict[str, list[float]] = {peer.name: [] for peer in PEERS}
    for turn in range(rounds + 1):
        for peer in PEERS:
            seconds = _timed([*command(peer, work, bundle, 1), "--once"])
            if turn:
                times[peer.name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _compile_package() -> None:
    """Compile the package to bytecode, as `pip install` does; the peers are installed that way."""
    package = Path(atom_edge.__file__).parent
    for folder in (package, package / "runtimes", package / "exporters"):
        compileall.compile_dir(folder, quiet=1)


def command_start(bundle: Path, rounds: int) -> float:
    """Median seconds of `atom-edge generate -n 1`."""
    line = [sys.executable, "-m", "atom_edge.cli", "generate", "The", "-n", "1"]
    line += ["--bundle", str(bundle), "--threads", "1"]
    return statistics.median(_timed(line) for _ in range(rounds + 1))


def _timed(line: list[str]) -> float:
    start = perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise SystemExit(f"{line} exited {done.returncode}:\n{done.stderr}")
    return perf_counter() - start


def batch_rates(bundle: Path, prompt: list[int], rounds: int) -> dict[str, float]:
    """Median decode tokens a second of `generate_batch` at several sizes, 1 thread, interleaved."""
    from atom_edge import AtomSession

    session = AtomSession.from_pretrained(bundle, threads=1)
    rates: dict[int, list[float]] = {size: [] for size in (1, 2, 4, 8, 16, 32)}
    for turn in range(rounds + 1):
        for size, values in rates.items():
            replies = session.generate_batch([prompt] * size, max_new_tokens=65, temperature=0)
            if turn:
                values.append(sum(reply.generation_tps for reply in replies))
    return {str(size): statistics.median(values) for size, values in rates.items()}


def overhead(bundle: Path, prompt: list[int], rounds: int) -> dict[str, float]:
    """Microseconds a token of the public session, and of bare steps of its engine."""
    from atom_edge import AtomSession
    from atom_edge.bundle import open_bundle
    from atom_edge.runtimes.engines import open_engine

    session = AtomSession.from_pretrained(bundle, threads=1)
    engine = open_engine(open_bundle(bundle), threads=1).engine
    settings: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0},
        "sampled": {"temperature": 0.8, "top_p": 0.95, "seed": 0},
    }
    times: dict[str, list[float]] = {"bare": [], **{name: [] for name in settings}}
    for _ in range(rounds + 1):
        cache, token = engine.new_cache(), np.array([5])
        cache.append(np.array([prompt]))
        start = perf_counter()
        for _ in range(128):
            cache.step(token)
        times["bare"].append((perf_counter() - start) / 128)
        for name, options in settings.items():
            *_, last = session.stream(prompt, max_new_tokens=129, **options)
            times[name].append(last.generation_seconds / max(1, last.generation_tokens - 1))
    return {name: statistics.median(values[1:]) * 1e6 for name, values in times.items()}


def soak(bundle: Path, tokens: int) -> dict[str, float]:
    """Memory and speed of a long chat: the first fifth of `tokens` against the last."""
    script = Path(__file__).parent / "workers" / "soak.py"
    done = subprocess.run(
        [sys.executable, str(script), str(bundle), str(tokens)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment(),
    )
    return dict(json.loads(done.stdout))


def quality(bundle: Path) -> dict[str, Any]:
    """The validation that the bundle's export recorded."""
    return dict(json.loads((bundle / "manifest.json").read_text())["validation"])


def bundle_bytes(bundle: Path) -> int:
    """The size of all files of the bundle."""
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
