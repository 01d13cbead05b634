"""Measure atom-edge against its peers, all in one interleaved run: `python benchmarks/run.py`.

Sets up what is missing (each set of peers in an environment of its own under build/), measures,
and writes benchmarks/results.md, results.json and decode.svg. `--quick` is a rehearsal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from measure import (
    Worker,
    batch_rates,
    bundle_bytes,
    cold_starts,
    command_start,
    overhead,
    quality,
    soak,
)
from peers import OURS, PEERS, set_up
from report import write

HERE = Path(__file__).parent
PROMPT, NEW, LONG_PROMPT = 64, 128, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build", help="for the peers")
    parser.add_argument("--bundle", type=Path, help="an int8 bundle; the reference one if omitted")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds")
    parser.add_argument("--soak-tokens", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="two rounds and a short soak")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.soak_tokens = 2, 1000

    from atom_edge.reference import bundle_path

    bundle = arguments.bundle or bundle_path()
    set_up(arguments.work)
    results: dict[str, Any] = {"rounds": arguments.rounds, "peers": {}}
    for threads in (1, 2):
        note(f"decode and time to first token, {threads} threads")
        for name, figures in race(arguments.work, bundle, threads, arguments.rounds).items():
            results["peers"].setdefault(name, {})[f"threads_{threads}"] = figures
    note("cold starts")
    for name, seconds in cold_starts(arguments.work, bundle, max(2, arguments.rounds // 3)).items():
        results["peers"][name]["cold_start_s"] = seconds
    results["command_start_s"] = command_start(bundle, max(2, arguments.rounds // 3))
    note("batches")
    ours = Worker(PEERS[0], arguments.work, bundle, 1)
    prompt = lasting_prompt(ours, np.random.default_rng(1))
    ours.close()
    results["batch"] = batch_rates(bundle, prompt, arguments.rounds)
    note("overhead of the session over bare runs of the graph")
    results["overhead"] = overhead(bundle, prompt, arguments.rounds)
    note(f"soak of {arguments.soak_tokens} tokens")
    results["soak"] = soak(bundle, arguments.soak_tokens)
    results["quality"] = quality(bundle)
    results["bytes"] = bundle_bytes(bundle)
    write(results, arguments.out)
    print((arguments.out / "results.md").read_text())


def race(work: Path, bundle: Path, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Medians over interleaved rounds: each round asks every peer once, in turn."""
    workers = {peer.name: Worker(peer, work, bundle, threads) for peer in PEERS}
    random = np.random.default_rng(0)
    decode: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    peak: dict[str, float] = {}
    for turn in range(rounds + 1):
        prompt = lasting_prompt(workers[OURS], random)
        long_prompt = random.integers(5, 4096, LONG_PROMPT).tolist()
        for name, worker in workers.items():
            steps = worker.ask(prompt, NEW + 1)
            start = worker.ask(long_prompt, 1)
            peak[name] = start["peak_mb"]
            if turn:  # the first round warms up
                made = len(steps["ids"]) - 1
                decode[name].append(made / (steps["total"] - steps["first"]))
                first[name].append(start["first"] * 1000)
    for worker in workers.values():
        worker.close()
    return {
        name: {
            "decode_tps": statistics.median(decode[name]),
            "decode_ratio": ratio(decode[OURS], decode[name]),
            "first_ms": statistics.median(first[name]),
            "first_ratio": ratio(first[OURS], first[name]),
            "peak_mb": peak[name],
        }
        for name in workers
    }


def lasting_prompt(ours: Worker, random: np.random.Generator) -> list[int]:
    """A prompt on which our model, a real one, does not end its text: the peers never do."""
    for _ in range(50):
        prompt: list[int] = random.integers(5, 4096, PROMPT).tolist()
        if len(ours.ask(prompt, NEW + 1)["ids"]) == NEW + 1:
            return prompt
    raise SystemExit("The bundle ends its text early on every prompt.")


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of ours over theirs: both of a round saw the same machine."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def note(text: str) -> None:
    """Say what runs, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
