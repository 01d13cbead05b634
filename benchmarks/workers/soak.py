"""A long chat in one process: replies of 200 tokens at most, each on what came before.

The speed is that of one and the same request after each: how long a reply is decides its own.
"""

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

from protocol import peak_mb

from atom_edge import AtomSession

CONTEXT = 250


def resident_mb() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


def speed(session: AtomSession) -> float:
    """Tokens a second of a fixed request."""
    start = perf_counter()
    reply = session.generate("The water cycle is", max_new_tokens=60, temperature=0)
    return len(reply.token_ids) / (perf_counter() - start)


def main() -> None:

    session = AtomSession.from_pretrained(sys.argv[1], threads=1)
    decoder, history = session.new_decoder(), [5] * 16
    wanted, made, marks = int(sys.argv[2]), 0, []
    while made < wanted:
        before = len(history)
        options = {"max_new_tokens": 200, "temperature": 0.8, "seed": made}
        for piece in session.stream(history, decoder=decoder, **options):
            history.append(piece.token_id)
        made += len(history) - before
        del history[:-CONTEXT]
        marks.append((made, speed(session), resident_mb()))
    first = [mark for mark in marks if mark[0] <= wanted / 5] or marks[:1]
    last = [mark for mark in marks if mark[0] > wanted * 4 / 5]
    middle = sorted(rate for _, rate, _ in first)[len(first) // 2]
    end = sorted(rate for _, rate, _ in last)[len(last) // 2]
    print(
        json.dumps(
            {
                "tokens": made,
                "tps_first_fifth": middle,
                "tps_last_fifth": end,
                "mb_after_first_fifth": first[-1][2],
                "mb_at_end": last[-1][2],
                "peak_mb": peak_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
