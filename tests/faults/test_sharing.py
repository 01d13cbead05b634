"""A session in many threads and processes, and for long, gives the text of one thread."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atom_edge.runtimes.session import AtomSession

PROMPTS = ("The water cycle is", "12 + 7 =", "Once upon a time", "The moon")


def reply(session: AtomSession, number: int) -> str:
    prompt = PROMPTS[number % len(PROMPTS)]
    options = {"temperature": 0.8, "seed": number} if number % 3 else {"temperature": 0}
    return session.generate(prompt, max_new_tokens=12, **options).text


def in_a_process(bundle: Path) -> list[str]:
    session = AtomSession.from_pretrained(bundle)
    return [reply(session, number) for number in range(12)]


@pytest.fixture(scope="module")
def expected(small_int8_bundle: Path) -> list[str]:
    return in_a_process(small_int8_bundle)


def test_sixty_four_threads(small_int8_bundle: Path, expected: list[str]) -> None:
    session = AtomSession.from_pretrained(small_int8_bundle)
    start = threading.Barrier(64)

    def work(thread: int) -> list[str]:
        start.wait()
        # A stream that is abandoned must not disturb the others.
        next(iter(session.stream(PROMPTS[thread % 4], max_new_tokens=12)))
        return [reply(session, (number + thread) % 12) for number in range(4)]

    with ThreadPoolExecutor(64) as pool:
        for thread, texts in enumerate(pool.map(work, range(64))):
            assert texts == [expected[(number + thread) % 12] for number in range(4)]


def test_eight_processes(small_int8_bundle: Path, expected: list[str]) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_sharing import in_a_process\n"
        "print(json.dumps(in_a_process(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(small_int8_bundle), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
    for process in processes:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert json.loads(printed) == expected


def test_forks_that_open_their_own(small_int8_bundle: Path, expected: list[str]) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_sharing import in_a_process\n"
        "expected = in_a_process(Path(sys.argv[1]))\n"
        "children = []\n"
        "for _ in range(4):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(0 if in_a_process(Path(sys.argv[1])) == expected else 1)\n"
        "    children.append(child)\n"
        "codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]\n"
        "assert codes == [0] * 4, codes\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(small_int8_bundle)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_short_soak(small_int8_bundle: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    command = [sys.executable, str(script), "--tokens", "40000", "--bundle", str(small_int8_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    result = json.loads(done.stdout.splitlines()[-1])
    # The long run proves a megabyte; in a short one the allocator still settles.
    assert result["drift_bytes"] < 4 * 2**20
