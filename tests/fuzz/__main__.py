"""Mutants against everything that takes a stranger's input.

    python -m tests.fuzz --minutes 30           from a random seed, which is printed
    python -m tests.fuzz --seed 7 --count 2000
    python -m tests.fuzz --seed 7 --kind manifest --index 31     that mutant, with its traceback

Mutants are tried in child processes, so that one that crashes, or that takes more than ten seconds
of processor time or four gigabytes, is found out and the rest goes on. Exits 1 if any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SECONDS = 10
_WALL = 300  # a machine may be busy with other things
_MEMORY = 4 * 2**30
_CHUNK = 200
_TABLE_EVERY = 2_000  # mutants, for a long run that is cut short
_MARK = "\x02"  # before a mutant's number in what a child prints


def main() -> int:
    """Parse the command line and attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, help="how long; default: until --count")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--kind")
    parser.add_argument("--index", type=int)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return try_mutants(options.place, options.kind, options.seed, *options.child)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder)
        if options.place is None:
            prepare(place)
        if options.index is not None:
            return try_mutants(place, options.kind, options.seed, options.index, 1, whole=True)
        return attack(place, options)


def prepare(place: Path) -> None:
    """Make the small model and its bundles that the mutants are made from."""
    import torch

    from atom_edge.checkpoint import open_snapshot
    from atom_edge.config import AtomConfig
    from atom_edge.exporters.export import export
    from atom_edge.modeling import AtomForCausalLM
    from tests.conftest import SMALL, TOKENIZER_FILES, checkpoint_path

    torch.manual_seed(0)
    AtomForCausalLM(AtomConfig(**SMALL)).save_pretrained(place / "snapshot")
    for name in TOKENIZER_FILES:
        (place / "snapshot" / name).write_bytes((checkpoint_path() / name).read_bytes())
    opened = open_snapshot(place / "snapshot")
    (place / "bundles").mkdir()
    export(opened, place / "bundles" / "float32")
    export(opened, place / "bundles" / "int8", quantization="int8")


def attack(place: Path, options: argparse.Namespace) -> int:
    """Try mutants of all kinds in turns; print every failure, and a table at the end."""
    from tests.fuzz.kinds import SHARES

    kinds = [options.kind] if options.kind else list(SHARES)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failures = 0
    with contextlib.suppress(KeyboardInterrupt):  # what was tried until then is shown
        for kind, index, outcome, report in _mutants(place, options, kinds):
            outcomes[kind][outcome] += 1
            if _is_failure(kind, outcome):
                failures += 1
                print(f"{kind} {index}: {outcome}\n{report}", flush=True)
            tried = sum(counts.total() for counts in outcomes.values())
            if tried % _TABLE_EVERY == 0 and tried < options.count:
                print_table(outcomes)
    print_table(outcomes)
    return 1 if failures else 0


def _mutants(
    place: Path, options: argparse.Namespace, kinds: list[str]
) -> Iterator[tuple[str, int, str, str]]:
    """Kind, index, outcome and report of each, until there are enough or the time is over."""
    from tests.fuzz.kinds import SHARES

    ends = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    share = sum(SHARES[kind] for kind in kinds)
    left = {kind: -(-options.count * SHARES[kind] // share) for kind in kinds}
    done: Counter[str] = Counter()
    while any(left.values()) and (ends is None or time.monotonic() < ends):
        kind = min(
            (kind for kind in kinds if left[kind]), key=lambda kind: done[kind] / SHARES[kind]
        )
        count = min(_CHUNK, left[kind])
        for result in run_child(place, kind, options.seed, done[kind], count):
            yield kind, *result
        done[kind] += count
        left[kind] -= count


def _is_failure(kind: str, outcome: str) -> bool:
    from tests.fuzz.kinds import STRICT

    if outcome == "noise":
        return kind != "snapshot"  # transformers has a log of its own
    return outcome in ("traceback", "crash", "hang") or (outcome == "other" and kind in STRICT)


def print_table(outcomes: dict[str, Counter[str]]) -> None:
    """A Markdown table: mutants by kind and outcome."""
    columns = ("refused", "same", "allowed", "other", "traceback", "crash", "hang", "noise")
    print("\n| kind | mutants | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    total: Counter[str] = Counter()
    for kind, counts in outcomes.items():
        total += counts
        numbers = [counts.total(), *(counts[column] for column in columns)]
        print(f"| {kind} | " + " | ".join(map(str, numbers)) + " |")
    print(
        f"| all | {total.total()} | " + " | ".join(str(total[c]) for c in columns) + " |",
        flush=True,
    )


def run_child(
    place: Path, kind: str, seed: int, start: int, count: int
) -> Iterator[tuple[int, str, str]]:
    """Try mutants in a child process, or several if some end theirs: index, outcome, report."""
    index = start
    while index < start + count:
        command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--kind", kind]
        command += ["--place", str(place), "--child", str(index), str(start + count - index)]
        with tempfile.TemporaryFile() as stderr:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
            assert child.stdout is not None
            printed, code = child.stdout.read(), child.wait()
            child.stdout.close()
            stderr.seek(0)
            noise = stderr.read().decode(errors="replace")
        for line in printed.splitlines():
            outcome, _, report = line.partition(" ")
            yield index, outcome, report.replace("\x01", "\n")
            index += 1
        if index < start + count:
            hung = code in (-24, 1)  # SIGXCPU, or the watch on the clock
            yield index, "hang" if hung else "crash", f"exit {code}\n{noise[-2000:]}"
            noise = noise[: noise.rfind(_MARK)]
            index += 1
        for part in noise.split(_MARK)[1:]:
            number, _, printed = part.partition("\n")
            if printed:
                yield int(number), "noise", printed[:2000]


def try_mutants(
    place: Path, kind: str, seed: int, start: int, count: int, *, whole: bool = False
) -> int:
    """Try mutants here; print a line for each: the outcome, and a traceback if there was one."""
    from atom_edge.errors import AtomEdgeError
    from tests.fuzz.kinds import KINDS
    from tests.fuzz.place import Place

    results = os.dup(1)
    os.dup2(2, 1)  # what a mutant prints is noise
    with tempfile.TemporaryDirectory() as scratch:
        here = Place(place, Path(scratch))
        for index in range(start, start + count):
            rng = random.Random(f"{seed} {kind} {index}")
            if not whole:
                os.write(2, f"{_MARK}{index}\n".encode())
            report = ""
            with _limits():
                try:
                    outcome = KINDS[kind](here, rng)
                except AtomEdgeError as error:
                    outcome = "refused"
                    report = str(error) if whole else ""
                except BaseException:
                    outcome, report = "traceback", traceback.format_exc()[-3000:]
            line = report if whole else report.replace("\n", "\x01")
            os.write(results, f"{outcome} {line}\n".encode(errors="replace"))
    return 0


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS + 1, hard))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    faulthandler.dump_traceback_later(_WALL, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
