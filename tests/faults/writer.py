"""Writes bundles over one another while it is killed, or while the system refuses; run by tests.

    python writer.py kill PLACE SEED TIMES     SIGKILL at random moments
    python writer.py fail PLACE                every operation of a write fails once
    python writer.py race PLACE WRITERS        several at the same time

After each, the place must hold a whole bundle: the old one or a new one. Prints how many of each.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from atom_edge.bundle import open_bundle, seal, write_bundle
from atom_edge.errors import AtomEdgeError
from atom_edge.manifest import Manifest

_WATCHED = ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir", "os.remove", "os.rmdir")
_fail_at: int | None = None
_events = 0


def write(place: Path, version: int) -> None:
    """Write the bundle of a version."""
    with write_bundle(place, force=True) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_bytes(os.urandom(50_000))
        for name in ("generation_config.json", "tokenizer.json"):
            (staging / name).write_text("{}")
        (staging / "config.json").write_text(json.dumps({"version": version}))
        seal(staging, Manifest(context_length=8, graphs={"model": "onnx/model.onnx"}))


def version_at(place: Path) -> int:
    """The version of the bundle that is there, whole; raises if it is not."""
    return int(open_bundle(place).config["version"])


def child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; its id."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    except (AtomEdgeError, OSError):
        os._exit(1)
    except BaseException as error:
        print(f"unexpected: {error!r}", file=sys.stderr)
        os._exit(2)
    os._exit(0)


def kill(place: Path, seed: int, times: int) -> Counter[str]:
    """Kill writers at random moments."""
    rng = random.Random(seed)
    started = time.perf_counter()
    write(place, 0)
    usual = time.perf_counter() - started
    counts: Counter[str] = Counter()
    before = 0
    for version in range(1, times + 1):
        process = child(lambda version=version: write(place, version))  # type: ignore[misc]
        time.sleep(rng.random() * usual * 1.5)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        after = version_at(place)
        assert after in (before, version), (before, after)
        counts["new" if after == version else "old"] += 1
        before = after
    write(place, -1)
    assert [path.name for path in place.parent.iterdir()] == [place.name], "something is left"
    return counts


def fail(place: Path) -> Counter[str]:
    """Let every operation on files fail once."""
    global _fail_at, _events
    write(place, 0)
    sys.addaudithook(_hook)
    _fail_at, _events = -1, 0
    write(place, 0)
    total, before = _events, 0
    counts: Counter[str] = Counter()
    for number in range(total):
        _fail_at = None

        def work(number: int = number) -> None:
            global _fail_at, _events
            _fail_at, _events = number, 0
            write(place, number + 1)

        _, status = os.waitpid(child(work), 0)
        assert os.waitstatus_to_exitcode(status) in (0, 1), f"operation {number}"
        after = version_at(place)
        assert after in (before, number + 1), (before, after)
        counts["new" if after == number + 1 else "old"] += 1
        before = after
    write(place, -1)
    assert [path.name for path in place.parent.iterdir()] == [place.name], "something is left"
    return counts


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _events
    if _fail_at is not None and event in _WATCHED:
        _events += 1
        if _events - 1 == _fail_at:
            raise OSError(errno.EIO, "refused by the test", str(arguments[0]))


def race(place: Path, writers: int) -> Counter[str]:
    """Several writers at the same time."""
    write(place, 0)
    processes = [child(lambda n=n: write(place, n)) for n in range(1, writers + 1)]  # type: ignore[misc]
    counts: Counter[str] = Counter()
    while processes:
        version_at(place) if random.random() < 0.1 else None
        ended, status = os.waitpid(-1, 0)
        processes.remove(ended)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1), code
        counts["wrote" if code == 0 else "refused"] += 1
    assert version_at(place) > 0
    write(place, -1)
    assert [path.name for path in place.parent.iterdir()] == [place.name], "something is left"
    return counts


if __name__ == "__main__":
    mode, where, *numbers = sys.argv[1:]
    attack: Callable[..., Counter[str]] = {"kill": kill, "fail": fail, "race": race}[mode]
    print(json.dumps(attack(Path(where), *map(int, numbers))))
