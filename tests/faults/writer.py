"""Writes something again and again while it is killed, or while the system refuses; run by tests.

    python writer.py SUBJECT kill PLACE SEED TIMES     SIGKILL at random moments
    python writer.py SUBJECT fail PLACE                every operation of a write fails once
    python writer.py SUBJECT race PLACE WRITERS        several at the same time

After each, the place must hold a whole one: the old or a new one. Prints how many of each. The
subjects are in `subjects.py`.
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

from subjects import SUBJECTS, Subject

from atom_edge.errors import AtomEdgeError

_WATCHED = ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir", "os.remove", "os.rmdir")
_fail_at: int | None = None
_events = 0


def _check_nothing_is_left(subject: Subject, place: Path) -> None:
    for path in place.parent.iterdir():
        os.utime(path, (0, 0))  # what may still be written is left alone
    subject.write(place, 10**6)
    assert [path.name for path in place.parent.iterdir()] == [place.name], "something is left"


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


def kill(subject: Subject, place: Path, seed: int, times: int) -> Counter[str]:
    """Kill writers at random moments."""
    rng = random.Random(seed)
    subject.write(place, 0)  # what it imports is there then
    started = time.perf_counter()
    subject.write(place, 0)
    span = 1.5 * (time.perf_counter() - started)
    counts: Counter[str] = Counter()
    before = 0
    for version in range(1, times + 1):
        process = child(lambda version=version: subject.write(place, version))  # type: ignore[misc]
        time.sleep(rng.random() * span)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        after = subject.version_at(place)
        assert after in (before, version), (before, after)
        counts["new" if after == version else "old"] += 1
        span *= 0.8 if after == version else 1.2  # about as many end well as do not
        before = after
    _check_nothing_is_left(subject, place)
    return counts


def fail(subject: Subject, place: Path) -> Counter[str]:
    """Let every operation on files fail once."""
    global _fail_at, _events
    subject.write(place, 0)
    sys.addaudithook(_hook)
    _fail_at, _events = -1, 0
    subject.write(place, 0)
    total, before = _events, 0
    counts: Counter[str] = Counter()
    for number in range(total):
        _fail_at = None

        def work(number: int = number) -> None:
            global _fail_at, _events
            _fail_at, _events = number, 0
            subject.write(place, number + 1)

        _, status = os.waitpid(child(work), 0)
        assert os.waitstatus_to_exitcode(status) in (0, 1), f"operation {number}"
        after = subject.version_at(place)
        assert after in (before, number + 1), (before, after)
        counts["new" if after == number + 1 else "old"] += 1
        before = after
    _check_nothing_is_left(subject, place)
    return counts


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _events
    if _fail_at is not None and event in _WATCHED:
        _events += 1
        if _events - 1 == _fail_at:
            raise OSError(errno.EIO, "refused by the test", str(arguments[0]))


def race(subject: Subject, place: Path, writers: int) -> Counter[str]:
    """Several writers at the same time."""
    subject.write(place, 0)
    processes = [child(lambda n=n: subject.write(place, n)) for n in range(1, writers + 1)]  # type: ignore[misc]
    counts: Counter[str] = Counter()
    while processes:
        subject.version_at(place) if random.random() < 0.1 else None
        ended, status = os.waitpid(-1, 0)
        processes.remove(ended)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 1), code
        counts["wrote" if code == 0 else "refused"] += 1
    assert subject.version_at(place) > 0
    _check_nothing_is_left(subject, place)
    return counts


if __name__ == "__main__":
    subject, mode, where, *numbers = sys.argv[1:]
    attack: Callable[..., Counter[str]] = {"kill": kill, "fail": fail, "race": race}[mode]
    print(json.dumps(attack(SUBJECTS[subject], Path(where), *map(int, numbers))))
