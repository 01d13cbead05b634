"""What the project promises of its speed and size, and whether a run of the benchmarks kept it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers import OURS


@dataclass(frozen=True)
class Target:
    """A promise and what was measured of it."""

    what: str
    wanted: str
    measured: str
    met: bool


def targets(results: dict[str, Any]) -> list[Target]:
    """All promises, for results as `run.py` collects them."""
    return [*_speed(results), *_start(results), *_session(results), *_quality(results)]


def _at_least(what: str, wanted: float, measured: float) -> Target:
    return Target(what, f"at least {wanted:g} x", f"{measured:.2f} x", measured >= wanted)


def _at_most(what: str, wanted: float, measured: float, unit: str, digits: int = 2) -> Target:
    met = measured <= wanted
    return Target(what, f"at most {wanted:g} {unit}", f"{measured:.{digits}f} {unit}", met)


def _speed(results: dict[str, Any]) -> list[Target]:
    peers = {name: peer for name, peer in results["peers"].items() if name != OURS}
    one, two = "threads_1", "threads_2"
    wanted = {
        "onnxruntime-genai int8": 1.1,
        "llama.cpp Q8_0": 1.1,
        "llama.cpp Q4_0": 1.1,
        "transformers fp32": 12,
    }
    decode = [
        _at_least(f"decode, 1 thread, over {name}", least, peers[name][one]["decode_ratio"])
        for name, least in wanted.items()
    ]
    fastest = min(peers, key=lambda name: peers[name][two]["decode_ratio"])
    first = max(peers, key=lambda name: peers[name][one]["first_ratio"])
    batch = results["batch"]
    return [
        *decode,
        _at_least(
            f"decode, 2 threads, over the fastest peer ({fastest})",
            1,
            peers[fastest][two]["decode_ratio"],
        ),
        _at_most(
            f"time to first token, 1 thread, over the fastest peer's ({first})",
            0.75,
            peers[first][one]["first_ratio"],
            "x",
        ),
        _at_least("batch of 8 over batch of 1", 1.8, batch["8"] / batch["1"]),
    ]


def _start(results: dict[str, Any]) -> list[Target]:
    return [
        _at_most("cold start", 0.25, results["peers"][OURS]["cold_start_s"], "s"),
        _at_most("`atom-edge generate -n 1`", 0.4, results["command_start_s"], "s"),
    ]


def _session(results: dict[str, Any]) -> list[Target]:
    added, soak = results["overhead"], results["soak"]
    speed = soak["tps_last_fifth"] / soak["tps_first_fifth"]
    growth = soak["mb_at_end"] - soak["mb_after_first_fifth"]
    return [
        *(
            _at_most(
                f"Python over the bare graph, {kind}",
                5,
                100 * (added[kind] / added["bare"] - 1),
                "%",
                1,
            )
            for kind in ("greedy", "sampled")
        ),
        _at_most("peak memory of a chat", 75, soak["peak_mb"], "MB", 0),
        Target("a long chat's speed, end over beginning", "flat", f"{speed:.2f} x", speed > 0.95),
        Target("a long chat's memory, end over beginning", "flat", f"{growth:+.1f} MB", growth < 1),
    ]


def _quality(results: dict[str, Any]) -> list[Target]:
    static = results["quality"]["static"]
    rows = []
    for part in ("prefill", "decode"):
        kl, ratio = static[part]["mean_kl"]["value"], static[part]["perplexity_ratio"]["value"]
        rows += [
            _at_most(f"mean KL of int8, {part}", 0.002, kl, "nats", 4),
            _at_most(f"perplexity ratio of int8, {part}", 1.003, ratio, "x", 4),
        ]
    largest = max(results["graph_bytes"].values()) / 1e6
    return [*rows, _at_most("the largest graph of the int8 bundle", 4.3, largest, "MB")]
