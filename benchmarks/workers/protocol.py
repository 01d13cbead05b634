"""What the benchmark's worker processes speak: one JSON object a line, in and out.

    ->  {"prompt": [ids], "tokens": n}
    <-  {"first": s, "total": s, "peak_mb": m, "ids": [...]}

`first` is the time to the first new token and `total` the time to the last of n. Only the standard
library is used here: each worker runs in the environment of what it measures.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter


def serve(load):
    """Run a worker: `load(folder, threads)` returns `generate(prompt, tokens)`, a generator of ids.

    With `--once` a single token of the prompt `[5] * 8` is made and the process ends: a cold start.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    generate = load(arguments.folder, arguments.threads)
    if arguments.once:
        next(iter(generate([5] * 8, 1)))
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_measure(generate, request)), flush=True)


def _measure(generate, request):
    start = perf_counter()
    first, ids = None, []
    for token in generate(request["prompt"], request["tokens"]):
        first = perf_counter() - start if first is None else first
        ids.append(int(token))
    total = perf_counter() - start
    return {"first": first, "total": total, "peak_mb": peak_mb(), "ids": ids}


def peak_mb():
    """The most memory that this process has held.

    getrusage's figure would not do: it is never less than what the parent held at the start.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
