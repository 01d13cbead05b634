"""A session in mixed use for a long time: memory must not grow, nor speed fall, nor text change.

    python benchmarks/soak.py --tokens 10_000_000

Replies of all kinds (greedy, sampled, cut short, abandoned, in batches, after a shared beginning)
from one session. After each twentieth of the tokens it prints the resident memory, and the speed of
a fixed request over that of a session which does nothing else, in a process beside it, at the same
moment. The last line compares the last fifth with the second tenth, by when every buffer has been
used.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from atom_edge.runtimes.session import AtomSession

_PROMPTS = (
    "The water cycle is",
    "12 + 7 =",
    "Once upon a time there was a king who",
    "Photosynthesis is the process by which " * 6,
)
_PARTS = 20
_SAMPLES = 50  # of the speed, in each part


def main() -> None:
    """Run and print one JSON object a part, and one at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args()
    print(json.dumps(soak(options.bundle, options.tokens, options.seed)))


def soak(bundle: Path | None, tokens: int, seed: int) -> dict[str, float]:
    """Generate so many tokens with the bundle, or the reference model.

    Returns:
        `drift_bytes` of the resident memory, and `speed_ratio` of a fixed request, from the second
        tenth to the last fifth.

    Raises:
        AssertionError: if the same request gives another text than at first.
    """
    rng = Random(seed)
    ours, theirs = multiprocessing.Pipe()
    idle = multiprocessing.get_context("spawn").Process(target=stand_by, args=(theirs, bundle))
    idle.start()
    use = Use(AtomSession.from_pretrained(bundle))
    expected = use.fixed()
    memory: list[int] = []
    speeds: list[float] = []
    done = 0
    for part in range(_PARTS):
        samples: list[float] = []
        while done < tokens * (part + 1) // _PARTS:
            done += rng.choice(use.ways)(rng)
            text, count = use.fixed()
            done += count
            assert text == expected[0], text
            if len(samples) < _SAMPLES:
                ours.send(True)
                samples.append(ours.recv() / seconds(use))
        gc.collect()
        memory.append(resident_bytes())
        speeds.append(statistics.median(samples))
        report = {"tokens": done, "resident_bytes": memory[-1], "speed": round(speeds[-1], 4)}
        print(json.dumps(report), flush=True)
    ours.send(False)
    idle.join()
    return {
        "tokens": done,
        "drift_bytes": statistics.median(memory[-4:]) - statistics.median(memory[2:4]),
        "speed_ratio": statistics.median(speeds[-4:]) / statistics.median(speeds[2:4]),
    }


def stand_by(caller: Connection, bundle: Path | None) -> None:
    """Take the fixed request's time with a session of this process, each time it is asked."""
    use = Use(AtomSession.from_pretrained(bundle))
    use.fixed()
    while caller.recv():
        caller.send(seconds(use))


def seconds(use: Use) -> float:
    """Processor time of the fixed request; the best of a few, since others disturb it."""
    times = []
    for _ in range(3):
        started = time.process_time()
        use.fixed()
        times.append(time.process_time() - started)
    return min(times)


class Use:
    """Ways to use a session; each returns how many tokens it took."""

    def __init__(self, session: AtomSession) -> None:
        self._session = session
        self._decoder = session.new_decoder()
        self.ways: tuple[Callable[[Random], int], ...] = (
            *(self.greedy, self.sampled, self.abandoned, self.batch, self.shared, self.rated),
        )

    def fixed(self) -> tuple[str, int]:
        """The same request each time, to compare."""
        reply = self._session.generate(_PROMPTS[0], max_new_tokens=60, temperature=0)
        return reply.text, len(reply.token_ids)

    def greedy(self, rng: Random) -> int:
        """A reply of the likeliest tokens."""
        return self._length(rng, temperature=0)

    def sampled(self, rng: Random) -> int:
        """A reply that is drawn."""
        return self._length(rng, temperature=0.8, top_k=40, repetition_penalty=1.1, stop="\n\n")

    def rated(self, rng: Random) -> int:
        """A reply with log-probabilities."""
        return self._length(rng, temperature=0.5, logprobs=3)

    def _length(self, rng: Random, **options: object) -> int:
        count = rng.randrange(1, 300)
        prompt = rng.choice(_PROMPTS)
        reply = self._session.generate(prompt, max_new_tokens=count, **options)  # type: ignore[arg-type]  # a TypedDict
        return len(reply.token_ids)

    def abandoned(self, rng: Random) -> int:
        """A stream that nobody reads to its end."""
        stream = self._session.stream(rng.choice(_PROMPTS), max_new_tokens=200, temperature=0.7)
        return sum(1 for _ in zip(stream, range(rng.randrange(1, 40)), strict=False))

    def batch(self, rng: Random) -> int:
        """Several prompts at once, of different lengths."""
        prompts = rng.choices(_PROMPTS, k=rng.randrange(1, 9))
        replies = self._session.generate_batch(prompts, max_new_tokens=rng.randrange(1, 80))
        return sum(len(reply.token_ids) for reply in replies)

    def shared(self, rng: Random) -> int:
        """A reply by a decoder that holds the beginning of the last one."""
        prompt = _PROMPTS[3] + rng.choice(_PROMPTS)
        stream = self._session.stream(prompt, decoder=self._decoder, max_new_tokens=50)
        return sum(1 for _ in stream)


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


if __name__ == "__main__":
    main()
