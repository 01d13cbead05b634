"""A long chat in one process: replies of 200 tokens, each on what came before."""

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

from protocol import peak_mb

CONTEXT = 250


def resident_mb() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    from atom_edge import AtomSession

    session = AtomSession.from_pretrained(sys.argv[1], threads=1)
    decoder, history = session.new_decoder(), [5] * 16
    wanted, made, marks = int(sys.argv[2]), 0, []
    while made < wanted:
        start, count = perf_counter(), 0
        options = {"max_new_tokens": 200, "temperature": 0.8, "seed": made}
        for piece in session.stream(history, decoder=decoder, **options):
            history.append(piece.token_id)
            count += 1
        del history[:-CONTEXT]
        made += count
        marks.append((made, count / (perf_counter() - start), resident_mb()))
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
