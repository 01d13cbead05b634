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
    one = {name: peer["threads_1"] for name, peer in results["peers"].items() if name != OURS}
    fastest = min(one, key=lambda name: one[name]["decode_ratio"])
    first = max(one, key=lambda name: one[name]["first_ratio"])
    batch, times = results["batch"], results["overhead"]
    return [
        _at_least(
            f"decode greedy, 1 thread, over the fastest peer ({fastest})",
            3,
            one[fastest]["decode_ratio"],
        ),
        _at_most(
            "time of a greedy token over the operator alone",
            1.3,
            times["greedy"] / times["bare"],
            "x",
        ),
        _at_least("decode sampled over greedy", 0.85, times["greedy"] / times["sampled"]),
        _at_most(
            f"time to first token, 1 thread, over the fastest peer's ({first})",
            0.5,
            one[first]["first_ratio"],
            "x",
        ),
        _at_least("batch of 8 over batch of 1", 2, batch["8"] / batch["1"]),
        _at_least("batch of 32 over batch of 1", 3, batch["32"] / batch["1"]),
    ]


def _start(results: dict[str, Any]) -> list[Target]:
    return [
        _at_most("cold start", 0.15, results["peers"][OURS]["cold_start_s"], "s"),
        _at_most("`atom-edge generate -n 1`", 0.2, results["command_start_s"], "s"),
    ]


def _session(results: dict[str, Any]) -> list[Target]:
    soak = results["soak"]
    speed = soak["tps_last_fifth"] / soak["tps_first_fifth"]
    growth = soak["mb_at_end"] - soak["mb_after_first_fifth"]
    return [
        _at_most("peak memory of a chat", 75, soak["peak_mb"], "MB", 0),
        Target("a long chat's speed, end over beginning", "flat", f"{speed:.2f} x", speed > 0.95),
        Target("a long chat's memory, end over beginning", "flat", f"{growth:+.1f} MB", growth < 1),
    ]


def _quality(results: dict[str, Any]) -> list[Target]:
    paths = {path["path"]: path["figures"] for path in results["quality"]["measured"]}
    values = {figure["name"]: figure["value"] for figure in paths.get("native", paths["model"])}
    rows = []
    for part in ("prefill", "decode"):
        kl, ratio = values[f"mean_kl.{part}"], values[f"perplexity_ratio.{part}"]
        rows += [
            _at_most(f"mean KL of int8, {part}", 0.0015, kl, "nats", 4),
            _at_most(f"perplexity ratio of int8, {part}", 1.002, ratio, "x", 4),
        ]
    return [*rows, _at_most("the int8 bundle", 8.5, results["bytes"] / 1e6, "MB")]
